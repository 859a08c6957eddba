// Softmax, log-softmax and their gradients; softmax.h has the formulas.
#include "softmax.h"

#include "rows.h"
#include "vec_math.h"

namespace zenith::ZENITH_ISA {
namespace {

int64_t ScratchFloats(int64_t cols) { return 2 * (cols + kWidth); }

// scale x as float32, in place or in `copy`. Rounded before the maximum is subtracted: the difference must be exactly 0
// where they are equal, however large they are.
const float* Scaled(const SoftmaxProblem& problem, int64_t element, float* copy) {
  const float* x = AsFloats(problem.x, element, problem.cols, copy);
  if (problem.scale == 1.0f) return x;
  const Vec scale = Broadcast(problem.scale);
  Sweep(0, problem.cols, [&](int64_t i, auto lanes, int) { Write<F32>(copy + i, Read(x + i, lanes) * scale, lanes); });
  return copy;
}

Vec MaxOf(const float* z, int64_t cols) {
  Vec most[kUnroll];
  for (Vec& vec : most) vec = Broadcast(-kInfinity);
  Sweep(0, cols, [&](int64_t i, auto lanes, int k) __attribute__((always_inline)) {
    most[k] = MaxOrSecond(lanes.OrElse(Read(z + i, lanes), Broadcast(-kInfinity)), most[k]);
  });
  return Broadcast(MaxLanes(MaxOrSecond(MaxOrSecond(most[0], most[1]), MaxOrSecond(most[2], most[3]))));
}

// Σ exp(z - max); the terms go to `terms` where that is not nullptr.
template <bool kKeep>
double SumOfExponentials(const float* z, int64_t cols, Vec max, float* terms) {
  double total[1] = {0};
  SumRow(cols, total, [&](int64_t i, auto lanes, Vec* sum) __attribute__((always_inline)) {
    const Vec term = lanes.OrElse(ExpNonPositive(Read(z + i, lanes) - max), Broadcast(0.0f));
    if (kKeep) Write<F32>(terms + i, term, lanes);
    sum[0] = sum[0] + term;
  });
  return total[0];
}

void SoftmaxRow(const SoftmaxProblem& problem, int64_t element, float* scratch) {
  const int64_t cols = problem.cols;
  const float* z = Scaled(problem, element, scratch);
  float* terms = problem.y.dtype == Dtype::kF32 ? static_cast<float*>(problem.y.At(element)) : scratch;
  const double sum = SumOfExponentials<true>(z, cols, MaxOf(z, cols), terms);
  const Vec reciprocal = Broadcast(static_cast<float>(1 / sum));
  WriteRow(problem.y, element, cols, [&](int64_t i, auto lanes) { return Read(terms + i, lanes) * reciprocal; });
}

void LogSoftmaxRow(const SoftmaxProblem& problem, int64_t element, float* scratch) {
  const int64_t cols = problem.cols;
  const float* z = Scaled(problem, element, scratch);
  const Vec max = MaxOf(z, cols);
  const double sum = SumOfExponentials<false>(z, cols, max, nullptr);
  const Vec log = Broadcast(static_cast<float>(__builtin_log(sum)));
  WriteRow(problem.y, element, cols, [&](int64_t i, auto lanes) { return Read(z + i, lanes) - max - log; });
}

void Run(const SoftmaxProblem& problem, int64_t first_row, int64_t rows, float* scratch) {
  for (int64_t r = first_row; r < first_row + rows; ++r) {
    (problem.log ? LogSoftmaxRow : SoftmaxRow)(problem, r * problem.cols, scratch);
  }
}

template <class Element>
using Row = const typename Element::Storage*;

template <class Element>
void SoftmaxVjpRow(const SoftmaxVjpProblem& problem, int64_t element, Row<Element> y, Row<Element> dy) {
  double sum[1] = {0};
  SumRow(problem.cols, sum, [&](int64_t i, auto lanes, Vec* sums) __attribute__((always_inline)) {
    sums[0] = Fma(Read<Element>(y + i, lanes), Read<Element>(dy + i, lanes), sums[0]);
  });
  const Vec total = Broadcast(static_cast<float>(sum[0])), scale = Broadcast(problem.scale);
  WriteRow(problem.dx, element, problem.cols, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
    return scale * Read<Element>(y + i, lanes) * (Read<Element>(dy + i, lanes) - total);
  });
}

template <class Element>
void LogSoftmaxVjpRow(const SoftmaxVjpProblem& problem, int64_t element, Row<Element> y, Row<Element> dy) {
  double sum[1] = {0};
  SumRow(problem.cols, sum, [&](int64_t i, auto lanes, Vec* sums) __attribute__((always_inline)) {
    sums[0] = sums[0] + Read<Element>(dy + i, lanes);
  });
  const Vec total = Broadcast(static_cast<float>(-sum[0])), scale = Broadcast(problem.scale);
  WriteRow(problem.dx, element, problem.cols, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
    return scale * Fma(Exp(Read<Element>(y + i, lanes)), total, Read<Element>(dy + i, lanes));
  });
}

template <class Element>
void VjpRow(const SoftmaxVjpProblem& problem, int64_t element, const void* y, const void* dy) {
  (problem.log ? LogSoftmaxVjpRow<Element> : SoftmaxVjpRow<Element>)(problem, element, static_cast<Row<Element>>(y),
                                                                     static_cast<Row<Element>>(dy));
}

// Operands of one type are read in place, others by way of copies in float32.
void RunVjp(const SoftmaxVjpProblem& problem, int64_t first_row, int64_t rows, float* scratch) {
  const int64_t cols = problem.cols;
  for (int64_t element = first_row * cols; element < (first_row + rows) * cols; element += cols) {
    if (problem.y.dtype == problem.cotangent.dtype) {
      WithFloat(problem.y.dtype, [&](auto type) {
        VjpRow<decltype(type)>(problem, element, problem.y.At(element), problem.cotangent.At(element));
      });
    } else {
      VjpRow<F32>(problem, element, AsFloats(problem.y, element, cols, scratch),
                  AsFloats(problem.cotangent, element, cols, scratch + cols + kWidth));
    }
  }
}

}  // namespace

const SoftmaxKernel kSoftmax = {ScratchFloats, Run, RunVjp};

}  // namespace zenith::ZENITH_ISA
