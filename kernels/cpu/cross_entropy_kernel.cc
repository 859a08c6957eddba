// Cross-entropy and its gradient; cross_entropy.h has the formulas.
//
// The logits are read from memory once, a block of a row at a time: its maximum, then its exponentials; what earlier
// blocks summed is scaled where the maximum grew (Milakov and Gimelshein 2018). No probability is kept.
#include "cross_entropy.h"

#include "rows.h"
#include "vec_math.h"

namespace zenith::ZENITH_ISA {
namespace {

constexpr float kLargest = 3.40282347e38f;

// Of a row of logits; `total` is Σ x, made only where labels are smoothed.
struct RowSums {
  float maximum;
  double sum, total;
  double LogSumExp() const { return maximum + __builtin_log(sum); }
};

template <class Element>
using Logits = const typename Element::Storage*;

template <class Element>
float MaxOf(Logits<Element> x, int64_t begin, int64_t end) {
  Vec most[kUnroll];
  for (Vec& vec : most) vec = Broadcast(-kInfinity);
  Sweep(begin, end, [&](int64_t i, auto lanes, int k) __attribute__((always_inline)) {
    most[k] = MaxOrSecond(lanes.OrElse(Read<Element>(x + i, lanes), Broadcast(-kInfinity)), most[k]);
  });
  return MaxLanes(MaxOrSecond(MaxOrSecond(most[0], most[1]), MaxOrSecond(most[2], most[3])));
}

float Exponential(float x) { return MaxLanes(ExpNonPositive(Broadcast(x))); }

template <class Element>
bool HasNan(Logits<Element> x, int64_t cols) {
  double nans[1] = {0};
  SumRow(cols, nans, [&](int64_t i, auto lanes, Vec* sums) {
    const auto number = LessEqual(Read<Element>(x + i, lanes), Broadcast(kInfinity));
    sums[0] = sums[0] + Select(number, Broadcast(0.0f), Broadcast(1.0f));
  });
  return nans[0] > 0;
}

template <class Element>
RowSums Sums(const CrossEntropyProblem& problem, Logits<Element> x) {
  RowSums row{-kInfinity, 0, 0};
  for (int64_t begin = 0; begin < problem.cols; begin += kBlock) {
    const int64_t end = Min(begin + kBlock, problem.cols);
    const float most = MaxOf<Element>(x, begin, end);
    if (most > row.maximum) {
      row.sum *= Exponential(row.maximum - most);
      row.maximum = most;
    }
    // Of a block of -inf alone the exponentials are 0.
    const Vec shift = Broadcast(row.maximum > -kLargest ? row.maximum : -kLargest);
    double sum[1] = {0}, total[1] = {0};
    AddSums(begin, end, sum, [&](int64_t i, auto lanes, Vec* sums) __attribute__((always_inline)) {
      const Vec term = ExpNonPositive(Read<Element>(x + i, lanes) - shift);
      sums[0] = sums[0] + lanes.OrElse(term, Broadcast(0.0f));
    });
    row.sum += sum[0];
    if (problem.smoothing == 0.0f) continue;
    AddSums(begin, end, total, [&](int64_t i, auto lanes, Vec* sums) __attribute__((always_inline)) {
      sums[0] = sums[0] + Read<Element>(x + i, lanes);
    });
    row.total += total[0];
  }
  if (row.maximum == kInfinity) {
    const bool nan = HasNan<Element>(x, problem.cols);
    row.sum = nan || problem.infinity_is_nan ? __builtin_nan("") : __builtin_inf();
    if (nan) row.maximum = __builtin_nanf("");
    return row;
  }
  if (row.maximum == -kInfinity && problem.infinity_is_nan) row.sum = __builtin_nan("");
  if (row.sum != row.sum) row.maximum = __builtin_nanf("");
  return row;
}

// The column that a label names, -1 where it names none.
int64_t ColumnOf(int64_t label, int64_t cols, Outside outside) {
  if (outside == Outside::kFill && label < 0) label += cols;
  return label >= 0 && label < cols ? label : -1;
}

template <class Element>
float At(Logits<Element> x, int64_t column) {
  return SumLanes(Element::LoadFirst(x + column, 1));
}

// Terms with the factor 0 are left out: 0 times an infinite logit would be NaN.
template <class Element>
float Loss(const CrossEntropyProblem& problem, Logits<Element> x, const RowSums& row, int64_t column) {
  if (column < 0 && problem.outside == Outside::kFill) return __builtin_nanf("");
  const double maximum = row.maximum, log_sum = __builtin_log(row.sum), smoothing = problem.smoothing;
  // Beside a large maximum the logarithm of the sum is lost, unless the maximum meets the logits first, as in log-softmax.
  auto below = [&](double logit) { return problem.infinity_is_nan ? maximum - logit + log_sum : maximum + log_sum - logit; };
  double loss = 0;
  if (column >= 0 && smoothing != 1) loss += (1 - smoothing) * below(At<Element>(x, column));
  if (column < 0 && problem.outside == Outside::kDrop) loss += (1 - smoothing) * (maximum + log_sum);
  if (smoothing != 0) loss += smoothing * below(row.total / static_cast<double>(problem.cols));
  if (problem.z_loss != 0) loss += problem.z_loss * (maximum + log_sum) * (maximum + log_sum);
  return static_cast<float>(loss);
}

template <class Element>
void RunRow(const CrossEntropyProblem& problem, int64_t r) {
  const auto* x = static_cast<Logits<Element>>(problem.logits.At(r * problem.cols));
  const RowSums row = Sums<Element>(problem, x);
  problem.maximum[r] = row.maximum;
  problem.sum[r] = static_cast<float>(row.sum);
  problem.loss[r] = Loss<Element>(problem, x, row, ColumnOf(problem.labels[r], problem.cols, problem.outside));
}

void Run(const CrossEntropyProblem& problem, int64_t first_row, int64_t rows) {
  WithFloat(problem.logits.dtype, [&](auto element) {
    for (int64_t r = first_row; r < first_row + rows; ++r) RunRow<decltype(element)>(problem, r);
  });
}

template <class Element>
void RunVjpRow(const CrossEntropyGradient& gradient, int64_t r) {
  const CrossEntropyProblem& problem = gradient.problem;
  const int64_t cols = problem.cols, column = ColumnOf(problem.labels[r], cols, problem.outside);
  const auto* x = static_cast<Logits<Element>>(problem.logits.At(r * cols));
  RowSums row = gradient.residuals ? RowSums{problem.maximum[r], problem.sum[r], 0} : Sums<Element>(problem, x);
  if (problem.loss != nullptr) problem.loss[r] = Loss<Element>(problem, x, row, column);

  const double g = gradient.cotangent[r], smoothing = problem.smoothing, hit = column >= 0 ? 1 - smoothing : 0;
  // A label that take_along_axis fills with NaN leaves the gradient of lse as it is.
  double of_lse = g * (problem.outside == Outside::kZero ? hit + smoothing : 1) + gradient.lse_cotangent[r];
  if (problem.z_loss != 0) of_lse += 2 * g * problem.z_loss * row.LogSumExp();
  const Vec factor = Broadcast(static_cast<float>(of_lse / row.sum)), maximum = Broadcast(row.maximum);
  const Vec uniform = Broadcast(smoothing == 0 ? 0.0f : static_cast<float>(-g * smoothing / static_cast<double>(cols)));
  auto value = [&](int64_t i, auto lanes) __attribute__((always_inline)) {
    return Fma(ExpNonPositive(Read<Element>(x + i, lanes) - maximum), factor, uniform);
  };
  auto* dx = static_cast<typename Element::Storage*>(gradient.dlogits.At(r * cols));
  Sweep(0, cols, [&](int64_t i, auto lanes, int) __attribute__((always_inline)) {
    Write<Element>(dx + i, value(i, lanes), lanes);
  });
  if (column < 0) return;
  const Part one{1};
  Write<Element>(dx + column, value(column, one) - Broadcast(static_cast<float>(g * hit)), one);
}

void RunVjp(const CrossEntropyGradient& gradient, int64_t first_row, int64_t rows) {
  WithFloat(gradient.problem.logits.dtype, [&](auto element) {
    for (int64_t r = first_row; r < first_row + rows; ++r) RunVjpRow<decltype(element)>(gradient, r);
  });
}

}  // namespace

const CrossEntropyKernel kCrossEntropy = {Run, RunVjp};

}  // namespace zenith::ZENITH_ISA
