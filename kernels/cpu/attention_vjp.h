// What the handler of the gradients of attention (attention_vjp.cc) hands to the kernel (attention_vjp_kernel.cc), once
// it is known to be valid.
//
// With x the logits after their steps g, m and l the maximum and the sum of a row, f the steps after the normaliser and
// do the cotangent of out:
//
//   p = exp(x - m) / l           dv = f(p)^T do         dp = f'(p) o (do v^T)
//   dx = p o (dp - delta)           dx0 = g'(x0) o dx      dq = dx0 k      dk = dx0^T q
//
// delta = sum_s p o dp, which is sum_e do out as long as f is linear, but not in rounding. Where one key has all the
// weight dx is 0, or as small as the other weights are, and so it comes out only if delta is summed from the very
// numbers that it is subtracted from.
#pragma once

#include <cstdint>

#include "attention.h"

namespace zenith {

enum class Role : int64_t { kQ = 0, kK = 1, kV = 2, kFirstModifier = 3 };  // the numbers are the ABI

// A result, float32: factor times the gradient of what plays a role, summed over the axes where its strides are 0.
struct Gradient {
  Role role;     // kFirstModifier + i is modifier i
  Operand to;    // rows and columns are (t, d), (s, d), (s, e) or (t, s)
  int64_t rows, cols, elements;
  float factor;  // 1 for a modifier
  bool adds;     // an element is met more than once, or perhaps never: it starts as 0 and is added to
  float* parts;  // see AttentionVjpPlan

  bool IsModifier(int64_t i) const {
    return static_cast<int64_t>(role) == static_cast<int64_t>(Role::kFirstModifier) + i;
  }
  bool OfModifier() const { return role >= Role::kFirstModifier; }
  // Whether different queries have different elements.
  bool VariesWithQuery() const { return role != Role::kK && role != Role::kV && (to.row != 0 || rows <= 1); }
};

struct AttentionVjpProblem {
  AttentionProblem attention;  // maximum and sum are read; out is not there
  Operand cotangent;
  const Gradient* gradients;
  int n_gradients;
};

// How the work is cut: an item is one position on the parallel axes that every gradient has, and every parts-th panel
// of queries. It runs over the other axes one after the other, so that no two items add to the same element.
//
// Gradients that do not vary with the query are the exception: with several parts, part 0 adds to the result, each
// other one to a copy of its own in `Gradient::parts`, and the copies are summed afterwards.
struct AttentionVjpPlan {
  bool outer[kMaxParallel];  // the axes that every gradient has
  int64_t parts;
  int64_t items;
  int64_t scratch_floats;  // of each thread
};

// The kernel as compiled for one instruction set.
struct AttentionVjpKernel {
  AttentionVjpPlan (*plan)(const AttentionVjpProblem&, int64_t threads);
  void (*run)(const AttentionVjpProblem&, const AttentionVjpPlan&, int64_t item, float* scratch);
};

ZENITH_DECLARE_KERNEL_BF16(AttentionVjpKernel, kAttentionVjp)

}  // namespace zenith
