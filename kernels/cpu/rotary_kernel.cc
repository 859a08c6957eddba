#include "rotary.h"

#include "elements.h"
#include "vec.h"

namespace zenith::ZENITH_ISA {
namespace {

template <class Element>
inline Vec LoadLanes(const typename Element::Storage* p, int64_t n) {
  return n == kWidth ? Element::LoadVec(p) : Element::LoadFirst(p, n);
}
template <class Element>
inline void StoreLanes(typename Element::Storage* p, int64_t n, Vec x) {
  n == kWidth ? Element::StoreVec(p, x) : Element::StoreFirst(p, n, x);
}

// Both of each of n <= kWidth pairs: the features i, i + 1, ... and i + half, ...
template <class Element>
struct HalfPairs {
  using Storage = typename Element::Storage;
  static void Load(const Storage* p, int64_t i, int64_t half, int64_t n, Vec* a, Vec* b) {
    *a = LoadLanes<Element>(p + i, n);
    *b = LoadLanes<Element>(p + half + i, n);
  }
  static void Store(Storage* p, int64_t i, int64_t half, int64_t n, Vec a, Vec b) {
    StoreLanes<Element>(p + i, n, a);
    StoreLanes<Element>(p + half + i, n, b);
  }
};

// The same for the features 2 i, 2 i + 2, ... and 2 i + 1, ...
template <class Element>
struct InterleavedPairs {
  using Storage = typename Element::Storage;
  static void Load(const Storage* p, int64_t i, int64_t, int64_t n, Vec* a, Vec* b) {
    const int64_t first = Min(2 * n, kWidth), second = 2 * n - first;
    const Vec low = LoadLanes<Element>(p + 2 * i, first);
    const Vec high = second > 0 ? LoadLanes<Element>(p + 2 * i + kWidth, second) : Broadcast(0.0f);
    Deinterleave(low, high, a, b);
  }
  static void Store(Storage* p, int64_t i, int64_t, int64_t n, Vec a, Vec b) {
    const int64_t first = Min(2 * n, kWidth), second = 2 * n - first;
    Vec low, high;
    Interleave(a, b, &low, &high);
    StoreLanes<Element>(p + 2 * i, first, low);
    if (second > 0) StoreLanes<Element>(p + 2 * i + kWidth, second, high);
  }
};

// A table of r/2 columns: one number for both of a pair.
template <class Element>
struct SharedPairs {
  static void Load(const typename Element::Storage* p, int64_t i, int64_t, int64_t n, Vec* a, Vec* b) {
    *a = *b = LoadLanes<Element>(p + i, n);
  }
};

template <class Data, class Table, class Storage, class TableStorage>
inline void RotateRow(const RotaryProblem& problem, const Storage* x, const TableStorage* cos, const TableStorage* sin,
                      Storage* out) {
  const int64_t half = problem.rotated / 2;
  for (int64_t i = 0; i < half; i += kWidth) {
    const int64_t n = Min(kWidth, half - i);
    Vec xa, xb, cos_a, cos_b, sin_a, sin_b;
    Data::Load(x, i, half, n, &xa, &xb);
    Table::Load(cos, i, half, n, &cos_a, &cos_b);
    Table::Load(sin, i, half, n, &sin_a, &sin_b);
    if (problem.transposed) {
      const Vec zero = Broadcast(0.0f), swapped = zero - sin_b;
      sin_b = zero - sin_a;
      sin_a = swapped;
    }
    const Vec a = xa * cos_a - xb * sin_a, b = Fma(xa, sin_b, xb * cos_b);
    Data::Store(out, i, half, n, a, b);
  }
  if (x != out) __builtin_memcpy(out + 2 * half, x + 2 * half, (problem.features - 2 * half) * sizeof(Storage));
}

template <class Data, class Table, class Storage, class TableStorage>
void RotateRows(const RotaryProblem& problem, int64_t first_row, int64_t last_row, const Storage* x,
                const TableStorage* cos, const TableStorage* sin, Storage* out) {
  int64_t index[kMaxRotaryDims];
  int64_t rest = first_row, x_at = 0, cos_at = 0, sin_at = 0, out_at = 0;
  auto step = [&](int d, int64_t count) {
    x_at += count * problem.x_strides[d];
    cos_at += count * problem.cos_strides[d];
    sin_at += count * problem.sin_strides[d];
    out_at += count * problem.out_strides[d];
  };
  for (int d = problem.n_dims - 1; d >= 0; --d) {
    index[d] = rest % problem.dims[d];
    rest /= problem.dims[d];
    step(d, index[d]);
  }
  for (int64_t row = first_row; row < last_row; ++row) {
    RotateRow<Data, Table>(problem, x + x_at, cos + cos_at, sin + sin_at, out + out_at);
    for (int d = problem.n_dims - 1; d >= 0; --d) {  // the next row
      step(d, 1);
      if (++index[d] < problem.dims[d]) break;
      step(d, -problem.dims[d]);
      index[d] = 0;
    }
  }
}

void Run(const RotaryProblem& problem, int64_t first_row, int64_t last_row) {
  WithFloat(problem.dtype, [&](auto element) {
    WithFloat(problem.table_dtype, [&](auto table_element) {
      using E = decltype(element);
      using T = decltype(table_element);
      auto* x = static_cast<const typename E::Storage*>(problem.x);
      auto* cos = static_cast<const typename T::Storage*>(problem.cos);
      auto* sin = static_cast<const typename T::Storage*>(problem.sin);
      auto* out = static_cast<typename E::Storage*>(problem.out);
      auto run = [&](auto rotate) { rotate(problem, first_row, last_row, x, cos, sin, out); };
      using X = typename E::Storage;
      using C = typename T::Storage;
      if (problem.interleaved) {
        run(problem.full_table ? RotateRows<InterleavedPairs<E>, InterleavedPairs<T>, X, C>
                               : RotateRows<InterleavedPairs<E>, SharedPairs<T>, X, C>);
      } else {
        run(problem.full_table ? RotateRows<HalfPairs<E>, HalfPairs<T>, X, C>
                               : RotateRows<HalfPairs<E>, SharedPairs<T>, X, C>);
      }
    });
  });
}

}  // namespace

const RotaryKernel kRotary = {Run};

}  // namespace zenith::ZENITH_ISA
