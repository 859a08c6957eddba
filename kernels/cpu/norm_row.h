// What the forward and the backward of the norms have in common: the statistics of a row and its normalised elements.
#pragma once

#include "norm.h"
#include "rows.h"

namespace zenith::ZENITH_ISA {

// n = (s - mean) * scale + shift, where `shift` makes up for what `mean` lost when it was rounded.
struct RowStatistics {
  Vec mean, scale, shift;
  Vec Normalised(Vec s) const { return Fma(s - mean, scale, shift); }
};

// Mean and Σ (s - mean)² of [begin, end): two sweeps, the second of which corrects the mean of the first, so that
// neither a large offset nor equal elements cost digits (Chan, Golub and LeVeque 1983, "corrected two-pass").
struct Moments {
  double count = 0, mean = 0, squares = 0;
};
inline Moments BlockMoments(const float* s, int64_t begin, int64_t end) {
  const double count = static_cast<double>(end - begin);
  double sum[1] = {0}, centred[2] = {0, 0};
  AddSums(begin, end, sum, [&](int64_t i, auto lanes, Vec* sums) __attribute__((always_inline)) {
    sums[0] = sums[0] + Read(s + i, lanes);
  });
  const float first = static_cast<float>(sum[0] / count);
  const Vec mean = Broadcast(first);
  AddSums(begin, end, centred, [&](int64_t i, auto lanes, Vec* sums) __attribute__((always_inline)) {
    const Vec d = lanes.OrElse(Read(s + i, lanes) - mean, Broadcast(0.0f));
    sums[0] = sums[0] + d;
    sums[1] = Fma(d, d, sums[1]);
  });
  const double correction = centred[0] / count, squares = centred[1] - centred[0] * correction;
  return {count, static_cast<double>(first) + correction, squares < 0 ? 0 : squares};
}
inline Moments Merge(const Moments& a, const Moments& b) {
  const double count = a.count + b.count, apart = b.mean - a.mean;
  const double squares = a.squares + b.squares + apart * apart * (a.count * b.count / count);
  return {count, a.mean + apart * (b.count / count), squares};
}

inline RowStatistics Centred(const float* s, int64_t cols, float epsilon) {
  Moments row = BlockMoments(s, 0, Min(kBlock, cols));
  for (int64_t begin = kBlock; begin < cols; begin += kBlock) {
    row = Merge(row, BlockMoments(s, begin, Min(begin + kBlock, cols)));
  }
  const float mean = static_cast<float>(row.mean);
  const float scale = static_cast<float>(1 / __builtin_sqrt(row.squares / row.count + epsilon));
  const float lost = static_cast<float>(row.mean - mean);
  return {Broadcast(mean), Broadcast(scale), Broadcast(-lost * scale)};
}

inline RowStatistics NotCentred(const float* s, int64_t cols, float epsilon) {
  double squares[1] = {0};
  SumRow(cols, squares, [&](int64_t i, auto lanes, Vec* sums) __attribute__((always_inline)) {
    const Vec x = Read(s + i, lanes);
    sums[0] = Fma(x, x, sums[0]);
  });
  const float scale = static_cast<float>(1 / __builtin_sqrt(squares[0] / static_cast<double>(cols) + epsilon));
  return {Broadcast(0.0f), Broadcast(scale), Broadcast(0.0f)};
}

inline RowStatistics StatisticsOf(const float* s, int64_t cols, bool centred, float epsilon) {
  return centred ? Centred(s, cols, epsilon) : NotCentred(s, cols, epsilon);
}

// weight + offset as float32: in place, or made in `copy`; nullptr where all are 1.
inline const float* Factors(const RowArray& weight, float offset, int64_t cols, float* copy) {
  if (!weight) return nullptr;
  const float* floats = AsFloats(weight, 0, cols, copy);
  if (offset == 0.0f) return floats;
  Sweep(0, cols, [&](int64_t i, auto lanes, int) {
    Write<F32>(copy + i, Read(floats + i, lanes) + Broadcast(offset), lanes);
  });
  return copy;
}

// Calls f with whether there is a `thing`, as a constant.
template <bool Value>
struct Is {
  static constexpr bool value = Value;
};
template <class F>
inline void WithBool(bool thing, F f) {
  thing ? f(Is<true>{}) : f(Is<false>{});
}

}  // namespace zenith::ZENITH_ISA
