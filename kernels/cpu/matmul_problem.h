// What the matmul handler (matmul.cc) hands to the kernel (matmul_kernel.cc), once it is known to be valid.
//
//   out[p, m, n] = epilogue( sum_k lhs[p, m, k] rhs[p, k, n] )[p, m, n]
//
// p, m, n and k may each be made of several axes, as in "b t (h d)": operands are read and the result is written in
// place through strides.
#pragma once

#include <cstdint>

#include "dtype.h"
#include "isa.h"

namespace zenith {

constexpr int kMaxAxes = 8;

// Where an operand has the elements of an index made of several axes, major to minor. Neighbouring axes that one stride
// serves are one.
struct StridedIndex {
  int axes = 0;
  int64_t extent[kMaxAxes], stride[kMaxAxes];

  void Append(int64_t more, int64_t step) {
    if (more == 1) return;
    if (axes > 0 && stride[axes - 1] == step * more) {
      extent[axes - 1] *= more;
      stride[axes - 1] = step;
      return;
    }
    extent[axes] = more;
    stride[axes++] = step;
  }
  int64_t Offset(int64_t i) const {
    if (axes == 0) return 0;
    int64_t offset = 0;
    for (int axis = axes - 1; axis > 0; --axis) {
      offset += i % extent[axis] * stride[axis];
      i /= extent[axis];
    }
    return offset + i * stride[0];
  }
  // Elements between neighbours that only the last axis tells apart.
  int64_t Step() const { return axes == 0 ? 0 : stride[axes - 1]; }
  // How many elements from `i` on lie Step() apart.
  int64_t Run(int64_t i) const { return axes <= 1 ? INT64_MAX : extent[axes - 1] - i % extent[axes - 1]; }
};

// An operand as matrices (row, col), one for each p: (m, k), (k, n), or (m, n) for the result and the modifiers.
struct MatmulOperand {
  void* data;
  Dtype dtype;
  StridedIndex parallel, row, col;
};

// The numbers are the ABI. x is the sum, an element of float32; m one of a modifier, which has a place for each of out.
enum class MatmulOp : int64_t {
  kScale = 0,     // x *= c
  kOffset = 1,    // x += c
  kMul = 2,       // x *= m
  kAdd = 3,       // x += m
  kRelu = 4,      // x = max(x, 0)
  kTanh = 5,      // x = tanh x
  kSigmoid = 6,   // x = 1 / (1 + e^-x)
  kSilu = 7,      // x = x / (1 + e^-x)
  kGelu = 8,      // x = x (1 + erf(x / sqrt 2)) / 2
  kGeluTanh = 9,  // x = x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2
  kToBf16 = 10,   // x rounded to bfloat16
  kToF16 = 11     // x rounded to float16
};
constexpr int64_t kMatmulOps = 12;

struct MatmulStep {
  MatmulOp op;
  int64_t modifier;  // -1 where the operation has none
  float c;
};

struct MatmulProblem {
  int64_t P, M, N, K;
  MatmulOperand lhs, rhs, out;
  const MatmulOperand* modifiers;
  const MatmulStep* steps;
  int n_steps;
};

// How the work is cut. An item is a block of rows and a block of columns of one p; it goes through k in blocks.
struct MatmulPlan {
  enum class Path { kStream, kFloats, kPairs, kTiles } path;
  int64_t rows, cols, depth;                // of a block, at most
  int64_t row_blocks, col_blocks, k_blocks;
  int64_t items;
  int64_t packs;           // items of the packing of rhs that comes first, 0 where each item packs for itself
  int64_t packed_floats;   // what that takes
  int64_t scratch_floats;  // of each thread
};

// The kernel as compiled for one instruction set.
struct MatmulKernel {
  MatmulPlan (*plan)(const MatmulProblem&, int64_t threads);
  void (*pack)(const MatmulProblem&, const MatmulPlan&, int64_t item, float* packed);
  void (*run)(const MatmulProblem&, const MatmulPlan&, int64_t item, const float* packed, float* scratch);
};

ZENITH_DECLARE_KERNEL_BF16(MatmulKernel, kMatmul)

}  // namespace zenith
