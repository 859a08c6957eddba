// LayerNorm and RMSNorm; norm.h has the formulas.
//
// A row is in the first or second cache while it is swept: for its mean, for its centred squares and for the result.
#include "norm.h"

#include "norm_row.h"

namespace zenith::ZENITH_ISA {
namespace {

int64_t ScratchFloats(const NormProblem& problem) {
  return 3 * (problem.cols + kWidth);  // weight, bias, and the row
}

// x + residual, rounded to the result sum: that is what is normalised.
const float* AddResidual(const NormProblem& problem, int64_t element, float* scratch) {
  const int64_t cols = problem.cols;
  const float* x = AsFloats(problem.x, element, cols, scratch);
  WithFloat(problem.residual.dtype, [&](auto element_type) {
    using Element = decltype(element_type);
    auto* residual = static_cast<const typename Element::Storage*>(problem.residual.At(element));
    WriteRow(problem.sum, element, cols, [&](int64_t i, auto lanes) {
      return Read(x + i, lanes) + Read<Element>(residual + i, lanes);
    });
  });
  return AsFloats(problem.sum, element, cols, scratch);
}

void Run(const NormProblem& problem, int64_t first_row, int64_t rows, float* scratch) {
  const int64_t cols = problem.cols, space = cols + kWidth;
  const float* weight = Factors(problem.weight, problem.offset, cols, scratch);
  const float* bias = problem.bias ? AsFloats(problem.bias, 0, cols, scratch + space) : nullptr;
  float* own = scratch + 2 * space;
  for (int64_t r = first_row; r < first_row + rows; ++r) {
    const int64_t element = r * cols;
    const float* s = problem.residual ? AddResidual(problem, element, own) : AsFloats(problem.x, element, cols, own);
    const RowStatistics row = StatisticsOf(s, cols, problem.centred, problem.epsilon);
    WithBool(weight != nullptr, [&](auto has_weight) {
      WithBool(bias != nullptr, [&](auto has_bias) {
        WriteRow(problem.out, element, cols, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
          const Vec n = row.Normalised(Read(s + i, lanes));
          const Vec w = has_weight.value ? Read(weight + i, lanes) : Broadcast(1.0f);
          return has_bias.value ? Fma(n, w, Read(bias + i, lanes)) : n * w;
        });
      });
    });
  }
}

}  // namespace

const NormKernel kNorm = {ScratchFloats, Run};

}  // namespace zenith::ZENITH_ISA
