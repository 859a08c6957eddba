// Sweeps over the elements of a row, and sums over them.
//
// A row is read from memory once and then from the cache. Sums of up to kBlock elements are float32, a few vectors of
// partial sums, each of at most 64 terms; what the blocks give is added in float64.
#pragma once

#include "elements.h"
#include "row_array.h"

namespace zenith::ZENITH_ISA {

constexpr int kUnroll = 4;                         // independent sums that hide the latency of an addition
constexpr int64_t kBlock = 64 * kUnroll * kWidth;  // at most 16 KB of float32, half of a first cache
constexpr float kInfinity = __builtin_inff();

// Which lanes of a vector are elements of the row: all, or the first ones at the row's end.
struct Whole {
  static Vec OrElse(Vec x, Vec) { return x; }
};
struct Part {
  int64_t count;
  Vec OrElse(Vec x, Vec otherwise) const {
    return Select(Less(Iota(), Broadcast(static_cast<float>(count))), x, otherwise);
  }
};

template <class Element>
inline Vec Read(const typename Element::Storage* p, Whole) {
  return Element::LoadVec(p);
}
template <class Element>
inline Vec Read(const typename Element::Storage* p, Part lanes) {  // 0 in the other lanes
  return Element::LoadFirst(p, lanes.count);
}
inline Vec Read(const float* p, Whole lanes) { return Read<F32>(p, lanes); }
inline Vec Read(const float* p, Part lanes) { return Read<F32>(p, lanes); }

template <class Element>
inline void Write(typename Element::Storage* p, Vec x, Whole) {
  Element::StoreVec(p, x);
}
template <class Element>
inline void Write(typename Element::Storage* p, Vec x, Part lanes) {
  Element::StoreFirst(p, lanes.count, x);
}

// Calls body(i, lanes, k) for the vectors at begin, begin + kWidth, ... of [begin, end), with k in [0, kUnroll) saying
// which of the independent sums is theirs.
template <class Body>
inline __attribute__((always_inline)) void Sweep(int64_t begin, int64_t end, const Body& body) {
  int64_t i = begin;
  for (; i + kUnroll * kWidth <= end; i += kUnroll * kWidth) {
#pragma GCC unroll 4
    for (int k = 0; k < kUnroll; ++k) body(i + k * kWidth, Whole{}, k);
  }
  for (; i + kWidth <= end; i += kWidth) body(i, Whole{}, 0);
  if (i < end) body(i, Part{end - i}, 0);
}

// Adds to total[j] the sums over [begin, end), at most kBlock elements, of what body(i, lanes, sums) adds to sums[j].
template <int N, class Body>
inline __attribute__((always_inline)) void AddSums(int64_t begin, int64_t end, double (&total)[N], const Body& body) {
  Vec sums[kUnroll][N];
#pragma GCC unroll 4
  for (int k = 0; k < kUnroll; ++k) {
    for (int j = 0; j < N; ++j) sums[k][j] = Broadcast(0.0f);
  }
  Sweep(begin, end, [&](int64_t i, auto lanes, int k) __attribute__((always_inline)) { body(i, lanes, sums[k]); });
  for (int j = 0; j < N; ++j) total[j] += SumLanes((sums[0][j] + sums[1][j]) + (sums[2][j] + sums[3][j]));
}

// The same over a row of any length.
template <int N, class Body>
inline __attribute__((always_inline)) void SumRow(int64_t cols, double (&total)[N], const Body& body) {
  for (int64_t begin = 0; begin < cols; begin += kBlock) AddSums(begin, Min(begin + kBlock, cols), total, body);
}

// The row as float32: in place, or converted into `copy`.
inline const float* AsFloats(const RowArray& array, int64_t element, int64_t cols, float* copy) {
  const void* row = array.At(element);
  if (array.dtype == Dtype::kF32) return static_cast<const float*>(row);
  WithFloat(array.dtype, [&](auto element_type) {
    using Element = decltype(element_type);
    auto* from = static_cast<const typename Element::Storage*>(row);
    Sweep(0, cols, [&](int64_t i, auto lanes, int) { Write<F32>(copy + i, Read<Element>(from + i, lanes), lanes); });
  });
  return copy;
}

// Writes value(i, lanes), rounded to the array's element type, to the row.
template <class Value>
inline void WriteRow(const RowArray& array, int64_t element, int64_t cols, const Value& value) {
  WithFloat(array.dtype, [&](auto element_type) {
    using Element = decltype(element_type);
    auto* to = static_cast<typename Element::Storage*>(array.At(element));
    Sweep(0, cols, [&](int64_t i, auto lanes, int) __attribute__((always_inline)) {
      Write<Element>(to + i, value(i, lanes), lanes);
    });
  });
}

}  // namespace zenith::ZENITH_ISA
