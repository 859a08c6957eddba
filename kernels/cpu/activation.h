// Activation functions of arrays, alone or as the gate of a product, and their gradients:
//
//   out[r, c] = act(x[r, c] + b[c])                             GELU (Hendrycks and Gimpel 2016), SiLU, ...
//   out[r, c] = act(gate[r, c] + b[c]) (up[r, c] + b'[c])       SwiGLU, GeGLU, ... (Shazeer 2020)
//
// The gradients recompute act from x, so that the forward has nothing to keep.
#pragma once

#include <cstdint>

#include "dtype.h"
#include "isa.h"

namespace zenith {

// The number is the attribute `kind` of the calls.
enum class ActivationKind : int64_t {
  kGelu,      // x Φ(x), Φ the normal distribution function (1 + erf(x / √2)) / 2
  kGeluTanh,  // x (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2
  kSilu,      // x / (1 + e^(-slope x)); slope 1.702 is the "quick" GELU
  kSigmoid,   // 1 / (1 + e^(-slope x))
  kRelu,      // max(x, 0)
};
constexpr int64_t kActivations = 5;

// Rows of features that are side by side: element (r, c) is at data + r * row + c, counted in elements. data is null
// where there is no such operand.
template <class Void>
struct RowsView {
  Void* data = nullptr;
  Dtype dtype = Dtype::kF32;
  int64_t row = 0;
};
using Rows = RowsView<const void>;
using MutableRows = RowsView<void>;

struct ActivationProblem {
  int64_t rows, cols;
  ActivationKind kind;
  float slope;
  Rows gate, gate_bias;  // x and its bias, where nothing is gated
  Rows up, up_bias;
  Rows cotangent;  // of out, for gradients
  MutableRows out;
  MutableRows d_gate, d_up;  // gradients
};

// Each computes the elements of rows r0 to r1 and columns c0 to c1.
struct ActivationKernel {
  using Run = void (*)(const ActivationProblem&, int64_t r0, int64_t r1, int64_t c0, int64_t c1);
  Run forward, gated, vjp, gated_vjp;
};

ZENITH_DECLARE_KERNEL(ActivationKernel, kActivation)

}  // namespace zenith
