// LayerNorm, RMSNorm and their gradients, as the handlers (norm.cc) hand them to the kernels (norm_kernel.cc and
// norm_vjp_kernel.cc), once they are known to be valid.
//
//   s = x + residual                              rounded to the element type of the result sum
//   n = (s - mean s) / sqrt(mean (s - mean s)² + epsilon)      LayerNorm  (Ba et al. 2016)
//   n = s / sqrt(mean s² + epsilon)                            RMSNorm    (Zhang and Sennrich 2019)
//   out = n (weight + offset) + bias
//
// Means are over a row, the last axis. With dy the cotangent of out, ds that of sum and g = dy (weight + offset):
//
//   dx = dresidual = (g - mean g - n mean (g n)) / sqrt(...) + ds      without mean g for RMSNorm
//   dweight = Σ_rows dy n      dbias = Σ_rows dy
#pragma once

#include <cstdint>

#include "isa.h"
#include "row_array.h"

namespace zenith {

struct NormProblem {
  int64_t rows, cols;
  bool centred;  // LayerNorm
  float epsilon, offset;
  RowArray x, residual, weight, bias;  // all but x are optional
  RowArray out, sum;                   // sum where there is a residual
};

struct NormKernel {
  int64_t (*scratch_floats)(const NormProblem&);  // of each thread
  void (*run)(const NormProblem&, int64_t first_row, int64_t rows, float* scratch);
};

ZENITH_DECLARE_KERNEL(NormKernel, kNorm)

struct NormVjpProblem {
  int64_t rows, cols;
  bool centred;
  float epsilon, offset;
  RowArray s, weight, cotangent, sum_cotangent;  // weight and sum_cotangent are optional
  RowArray dx, dweight, dbias;                   // the last two are optional

  // Σ_rows is a sum of the sums of `chunks` blocks of rows, whatever the number of threads, so that results are
  // the same for any. `partial` holds those of dweight and of dbias, each [chunks, padded].
  int64_t chunks, rows_per_chunk, padded;
  float* partial;
};

struct NormVjpKernel {
  void (*plan)(NormVjpProblem*);                     // chooses the chunks
  int64_t (*scratch_floats)(const NormVjpProblem&);  // of each thread
  void (*run)(const NormVjpProblem&, int64_t chunk, float* scratch);
  void (*reduce)(const NormVjpProblem&, int64_t begin, int64_t end);  // the columns [begin, end) of dweight and dbias
};

ZENITH_DECLARE_KERNEL(NormVjpKernel, kNormVjp)

}  // namespace zenith
