// The gradients of LayerNorm and RMSNorm; norm.h has the formulas.
//
// Nothing is kept of the forward: the statistics of a row are made again while it is in the cache.
#include "norm.h"

#include "norm_row.h"

namespace zenith::ZENITH_ISA {
namespace {

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// At least 16 rows a chunk, at most 64 chunks, and the partial sums at most a few MB.
void Plan(NormVjpProblem* problem) {
  constexpr int64_t kRows = 16, kChunks = 64, kFloats = int64_t{1} << 20;
  problem->padded = CeilDiv(problem->cols, kWidth) * kWidth;
  const int64_t at_most = problem->padded == 0 ? kChunks : Min(kChunks, CeilDiv(kFloats, problem->padded));
  problem->rows_per_chunk = Min(problem->rows, kRows);
  if (CeilDiv(problem->rows, kRows) > at_most) problem->rows_per_chunk = CeilDiv(problem->rows, at_most);
  problem->chunks = problem->rows == 0 ? 0 : CeilDiv(problem->rows, problem->rows_per_chunk);
}

int64_t ScratchFloats(const NormVjpProblem& problem) {
  return 4 * (problem.cols + kWidth);  // weight, and the rows of s, of the cotangent and of that of the sum
}

// mean g, 0 for RMSNorm, and mean (g n).
//
// Where the latter of LayerNorm is infinite all of dx is NaN: g - n mean (g n) then holds infinities of both signs, as n
// does, and their mean is subtracted from each.
struct Means {
  Vec g, gn;
};
template <bool kHasWeight>
Means MeansOf(const RowStatistics& row, const float* s, const float* dy, const float* weight, int64_t cols,
              bool centred) {
  double sums[2] = {0, 0};
  SumRow(cols, sums, [&](int64_t i, auto lanes, Vec* sum) __attribute__((always_inline)) {
    // What lies beyond the row is 0 in g, and must not be infinite in n.
    const Vec n = lanes.OrElse(row.Normalised(Read(s + i, lanes)), Broadcast(0.0f)), y = Read(dy + i, lanes);
    const Vec g = kHasWeight ? y * Read(weight + i, lanes) : y;
    sum[0] = sum[0] + g;
    sum[1] = Fma(g, n, sum[1]);
  });
  const double count = static_cast<double>(cols);
  const float gn = static_cast<float>(sums[1] / count), zero_or_nan = gn - gn;
  return {Broadcast(centred ? static_cast<float>(sums[0] / count) + zero_or_nan : 0.0f), Broadcast(gn)};
}

void Run(const NormVjpProblem& problem, int64_t chunk, float* scratch) {
  const int64_t cols = problem.cols, space = cols + kWidth;
  const float* weight = Factors(problem.weight, problem.offset, cols, scratch);
  float* dweight = problem.dweight || problem.dbias ? problem.partial + 2 * chunk * problem.padded : nullptr;
  float* dbias = dweight + problem.padded;
  if (dweight != nullptr) __builtin_memset(dweight, 0, 2 * problem.padded * sizeof(float));

  const int64_t first = chunk * problem.rows_per_chunk, last = Min(first + problem.rows_per_chunk, problem.rows);
  for (int64_t r = first; r < last; ++r) {
    const int64_t element = r * cols;
    const float* s = AsFloats(problem.s, element, cols, scratch + space);
    const float* dy = AsFloats(problem.cotangent, element, cols, scratch + 2 * space);
    const float* ds =
        problem.sum_cotangent ? AsFloats(problem.sum_cotangent, element, cols, scratch + 3 * space) : nullptr;
    const RowStatistics row = StatisticsOf(s, cols, problem.centred, problem.epsilon);
    WithBool(weight != nullptr, [&](auto has_weight) {
      const Means means = MeansOf<has_weight.value>(row, s, dy, weight, cols, problem.centred);
      WithBool(dweight != nullptr, [&](auto affine) {
        WriteRow(problem.dx, element, cols, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
          const Vec n = row.Normalised(Read(s + i, lanes)), y = Read(dy + i, lanes);
          if (affine.value) {
            Store(dweight + i, Fma(y, n, Load(dweight + i)));
            Store(dbias + i, Load(dbias + i) + y);
          }
          const Vec g = has_weight.value ? y * Read(weight + i, lanes) : y;
          const Vec inner = Fma(n, Broadcast(0.0f) - means.gn, g - means.g);
          return ds == nullptr ? inner * row.scale : Fma(inner, row.scale, Read(ds + i, lanes));
        });
      });
    });
  }
}

// Σ over the chunks of `partial`, in order.
void ReduceInto(const RowArray& result, const NormVjpProblem& problem, const float* partial, int64_t begin,
                int64_t end) {
  if (!result) return;
  WithFloat(result.dtype, [&](auto element_type) {
    using Element = decltype(element_type);
    auto* to = static_cast<typename Element::Storage*>(result.data);
    for (int64_t i = begin; i < end; i += kWidth) {
      Vec sum = Broadcast(0.0f);
      for (int64_t chunk = 0; chunk < problem.chunks; ++chunk) {
        sum = sum + Load(partial + 2 * chunk * problem.padded + i);
      }
      Element::StoreFirst(to + i, Min(kWidth, end - i), sum);
    }
  });
}

void Reduce(const NormVjpProblem& problem, int64_t begin, int64_t end) {
  ReduceInto(problem.dweight, problem, problem.partial, begin, end);
  ReduceInto(problem.dbias, problem, problem.partial + problem.padded, begin, end);
}

}  // namespace

const NormVjpKernel kNormVjp = {Plan, ScratchFloats, Run, Reduce};

}  // namespace zenith::ZENITH_ISA
