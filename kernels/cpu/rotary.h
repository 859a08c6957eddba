// Rotary position embedding (Su et al. 2021, RoFormer): pairs of features are rotated by an angle that the tables cos
// and sin give for each position,
//
//   out[a] = x[a] cos[a] - x[b] sin[a]        out[b] = x[b] cos[b] + x[a] sin[b]
//
// where (a, b) is (i, i + r/2), "half", or (2i, 2i + 1), "interleaved", for i < r/2; features from r on are copied. A
// table of
// r/2 columns has the same number for both of a pair. The gradient of x is the transposed rotation:
//
//   dx[a] = g[a] cos[a] + g[b] sin[b]         dx[b] = g[b] cos[b] - g[a] sin[a]
#pragma once

#include <cstdint>

#include "dtype.h"
#include "isa.h"

namespace zenith {

constexpr int kMaxRotaryDims = 8;

struct RotaryProblem {
  int n_dims = 0;  // axes other than the features, which are side by side in every array
  int64_t dims[kMaxRotaryDims];
  int64_t x_strides[kMaxRotaryDims], cos_strides[kMaxRotaryDims], sin_strides[kMaxRotaryDims];
  int64_t out_strides[kMaxRotaryDims];
  int64_t rows;  // the product of dims
  int64_t features, rotated;
  bool interleaved, full_table, transposed;
  const void *x, *cos, *sin;
  void* out;
  Dtype dtype, table_dtype;  // of x and out; of cos and sin
};

struct RotaryKernel {
  void (*run)(const RotaryProblem&, int64_t first_row, int64_t last_row);
};

ZENITH_DECLARE_KERNEL(RotaryKernel, kRotary)

}  // namespace zenith
