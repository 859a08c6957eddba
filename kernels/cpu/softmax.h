// Softmax, log-softmax and their gradients, as the handlers (softmax.cc) hand them to the kernel (softmax_kernel.cc),
// once they are known to be valid. With z = scale x and m the maximum of a row, the last axis:
//
//   softmax       y = exp(z - m) / Σ exp(z - m)       dx = scale y (dy - Σ y dy)
//   log-softmax   y = z - m - log Σ exp(z - m)        dx = scale (dy - exp(y) Σ dy)
//
// A row that holds NaN or +inf, or -inf alone, is NaN.
#pragma once

#include <cstdint>

#include "isa.h"
#include "row_array.h"

namespace zenith {

struct SoftmaxProblem {
  int64_t rows, cols;
  bool log;
  float scale;
  RowArray x, y;
};

struct SoftmaxVjpProblem {
  int64_t rows, cols;
  bool log;
  float scale;
  RowArray y, cotangent, dx;
};

struct SoftmaxKernel {
  int64_t (*scratch_floats)(int64_t cols);  // of each thread
  void (*run)(const SoftmaxProblem&, int64_t first_row, int64_t rows, float* scratch);
  void (*run_vjp)(const SoftmaxVjpProblem&, int64_t first_row, int64_t rows, float* scratch);
};

ZENITH_DECLARE_KERNEL(SoftmaxKernel, kSoftmax)

}  // namespace zenith
