// Where the elements of a stretch of an index lie, for loops that read or write them in vectors.
#pragma once

#include "elements.h"
#include "matmul_problem.h"

namespace zenith::ZENITH_ISA {

// The offsets of the elements first .. first + count of an index, count <= kMost: evenly spaced, or from a table where
// the stretch goes from one run of the last axis to the next.
template <int kMost>
class Places {
 public:
  Places(const StridedIndex& index, int64_t first, int64_t count)
      : offset_(index.Offset(first)), step_(index.Step()), even_(count <= index.Run(first)) {
    if (even_) return;
    for (int64_t i = 0; i < count;) {
      const int64_t run = Min(count - i, index.Run(first + i)), offset = index.Offset(first + i);
      for (int64_t j = 0; j < run; ++j) table_[i + j] = offset + j * step_;
      i += run;
    }
  }
  int64_t operator[](int64_t i) const { return even_ ? offset_ + i * step_ : table_[i]; }
  bool even() const { return even_; }
  int64_t step() const { return step_; }
  // Whether the `count` elements from `i` on are neighbours.
  bool Dense(int64_t i, int64_t count) const {
    if (even_) return step_ == 1 || count == 1;
    for (int64_t j = 1; j < count; ++j) {
      if (table_[i + j] != table_[i] + j) return false;
    }
    return true;
  }

 private:
  int64_t offset_, step_;
  bool even_;
  int64_t table_[kMost];
};

// The `count` <= kWidth elements from place i on; the other lanes are 0.
template <class Element, int kMost>
inline Vec LoadPlaces(const typename Element::Storage* p, const Places<kMost>& places, int64_t i, int64_t count) {
  if (places.Dense(i, count)) {
    return count == kWidth ? Element::LoadVec(p + places[i]) : Element::LoadFirst(p + places[i], count);
  }
  typename Element::Storage lanes[kWidth] = {};
  for (int64_t j = 0; j < count; ++j) lanes[j] = p[places[i + j]];
  return Element::LoadVec(lanes);
}

template <class Element, int kMost>
inline void StorePlaces(typename Element::Storage* p, const Places<kMost>& places, int64_t i, int64_t count, Vec x) {
  if (places.Dense(i, count)) {
    return count == kWidth ? Element::StoreVec(p + places[i], x) : Element::StoreFirst(p + places[i], count, x);
  }
  typename Element::Storage lanes[kWidth];
  Element::StoreVec(lanes, x);
  for (int64_t j = 0; j < count; ++j) p[places[i + j]] = lanes[j];
}

}  // namespace zenith::ZENITH_ISA
