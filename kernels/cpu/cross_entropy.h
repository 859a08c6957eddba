// Cross-entropy with integer labels and its gradient, as the handlers (cross_entropy.cc) hand them to the kernel
// (cross_entropy_kernel.cc), once they are known to be valid. For each row x of V logits with the label l:
//
//   t_j  = (1 - smoothing) [j = l] + smoothing / V                      the target distribution
//   lse  = m + log s,  m = max x,  s = Σ exp(x - m)
//   loss = Σ_j t_j (lse - x_j) + z_loss lse²
//
// and with g the cotangent of loss and h that of lse:
//
//   dx_j = (g (Σ t + 2 z_loss lse) + h) exp(x_j - m) / s - g t_j
//
// (Smoothing: Szegedy et al. 2016, section 7. The square of lse: de Brébisson and Vincent 2016; PaLM calls it z-loss.)
// m and s are kept apart: next to large logits one number for both would lose the digits of log s.
#pragma once

#include <cstdint>

#include "isa.h"
#include "row_array.h"

namespace zenith {

// The numbers are the ABI.
enum class Outside : int64_t {  // what a label l that is no column means
  kFill = 0,  // l < 0 counts from the end; beyond that the loss is NaN, and the gradient has no [j = l], as those of
              // jnp.take_along_axis are
  kZero = 1,  // no [j = l], also for l < 0, as jax.nn.one_hot has it
  kDrop = 2,  // the same in the logits alone: the target's sum stays 1
};

struct CrossEntropyProblem {
  int64_t rows, cols;
  float smoothing, z_loss;
  Outside outside;
  bool infinity_is_nan;  // s of a row that holds +inf: NaN, as of x - m, or +inf, as of jax.nn.logsumexp
  RowArray logits;
  const int32_t* labels;
  float *loss, *maximum, *sum;  // one a row; the gradient makes the loss where there is a place for it
};

struct CrossEntropyGradient {
  CrossEntropyProblem problem;
  bool residuals;  // maximum and sum are operands
  const float *cotangent, *lse_cotangent;
  RowArray dlogits;  // of the element type of the logits
};

struct CrossEntropyKernel {
  void (*run)(const CrossEntropyProblem&, int64_t first_row, int64_t rows);
  void (*run_vjp)(const CrossEntropyGradient&, int64_t first_row, int64_t rows);
};

ZENITH_DECLARE_KERNEL(CrossEntropyKernel, kCrossEntropy)

}  // namespace zenith
