// Reading and writing arrays of any element type and strides as float32 tiles.
#pragma once

#include "dtype.h"
#include "vec.h"

namespace zenith::ZENITH_ISA {

struct F32 {
  using Storage = float;
  static Vec LoadVec(const float* p) { return Load(p); }
  static void StoreVec(float* p, Vec x) { Store(p, x); }
  static Vec LoadFirst(const float* p, int64_t n) { return ZENITH_ISA::LoadFirst(p, n); }
  static void StoreFirst(float* p, int64_t n, Vec x) { ZENITH_ISA::StoreFirst(p, n, x); }
};
struct Bf16 {
  using Storage = uint16_t;
  static Vec LoadVec(const uint16_t* p) { return LoadBf16(p); }
  static void StoreVec(uint16_t* p, Vec x) { StoreBf16(p, x); }
  static Vec LoadFirst(const uint16_t* p, int64_t n) { return ZENITH_ISA::LoadFirstBf16(p, n); }
  static void StoreFirst(uint16_t* p, int64_t n, Vec x) { ZENITH_ISA::StoreFirstBf16(p, n, x); }
};
struct F16 {
  using Storage = uint16_t;
  static Vec LoadVec(const uint16_t* p) { return LoadF16(p); }
  static void StoreVec(uint16_t* p, Vec x) { StoreF16(p, x); }
  static Vec LoadFirst(const uint16_t* p, int64_t n) { return ZENITH_ISA::LoadFirstF16(p, n); }
  static void StoreFirst(uint16_t* p, int64_t n, Vec x) { ZENITH_ISA::StoreFirstF16(p, n, x); }
};
struct Pred {  // true is 1.0, false is 0.0
  using Storage = uint8_t;
  static Vec LoadVec(const uint8_t* p) { return LoadPred(p); }
};

// A matrix inside an operand: element (r, c) is at data + r * row + c * col, counted in elements.
template <class Void>
struct MatrixView {
  Void* data;
  Dtype dtype;
  int64_t row, col;
};
using Matrix = MatrixView<const void>;
using MutableMatrix = MatrixView<void>;

inline int64_t Min(int64_t a, int64_t b) { return a < b ? a : b; }

// `count` <= kWidth elements `stride` apart; the other lanes are 0.
template <class Element>
inline Vec LoadSome(const typename Element::Storage* p, int64_t stride, int64_t count) {
  if (stride == 1 && count == kWidth) return Element::LoadVec(p);
  typename Element::Storage lanes[kWidth] = {};
  for (int64_t i = 0; i < count; ++i) lanes[i] = p[i * stride];
  return Element::LoadVec(lanes);
}

template <class Element>
inline void StoreSome(typename Element::Storage* p, int64_t stride, int64_t count, Vec x) {
  if (stride == 1 && count == kWidth) return Element::StoreVec(p, x);
  typename Element::Storage lanes[kWidth];
  Element::StoreVec(lanes, x);
  for (int64_t i = 0; i < count; ++i) p[i * stride] = lanes[i];
}

// block[i] = `count` elements of row i, 0 in the rows from `live` on.
template <class Element>
inline void LoadBlock(const typename Element::Storage* p, int64_t row, int64_t col, int64_t live, int64_t count,
                      Vec block[kWidth]) {
  if (live == kWidth && count == kWidth && col == 1) {
#pragma GCC unroll 16
    for (int i = 0; i < kWidth; ++i) block[i] = Element::LoadVec(p + i * row);
    return;
  }
  for (int i = 0; i < kWidth; ++i) {
    block[i] = i < live ? LoadSome<Element>(p + i * row, col, count) : Broadcast(0.0f);
  }
}

// Calls f with the Element type of `dtype`.
template <class F>
inline void WithFloat(Dtype dtype, F f) {
  switch (dtype) {
    case Dtype::kF32: return f(F32{});
    case Dtype::kBf16: return f(Bf16{});
    case Dtype::kF16: return f(F16{});
    case Dtype::kPred: return;  // refused by the handlers where a float is needed
  }
}
template <class F>
inline void WithElement(Dtype dtype, F f) {
  dtype == Dtype::kPred ? f(Pred{}) : WithFloat(dtype, f);
}

// dst[r, c] = src(r, c), row-major with `cols` columns.
inline void CopyRows(const Matrix& src, int64_t rows, int64_t cols, float* dst) {
  WithElement(src.dtype, [&](auto element) {
    using Element = decltype(element);
    auto* from = static_cast<const typename Element::Storage*>(src.data);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < cols; c += kWidth) {
        const int64_t count = Min(kWidth, cols - c);
        Vec x = LoadSome<Element>(from + r * src.row + c * src.col, src.col, count);
        StoreSome<F32>(dst + r * cols + c, 1, count, x);
      }
    }
  });
}

// dst[c, r] = src(r, c) for r < rows and 0 up to `lanes`, a multiple of kWidth.
inline void CopyTransposed(const Matrix& src, int64_t rows, int64_t cols, float* dst, int64_t lanes) {
  WithElement(src.dtype, [&](auto element) {
    using Element = decltype(element);
    auto* from = static_cast<const typename Element::Storage*>(src.data);
    for (int64_t r = 0; r < lanes; r += kWidth) {
      const int64_t live = rows <= r ? 0 : Min(kWidth, rows - r);
      if (src.row == 1) {
        for (int64_t c = 0; c < cols; ++c) {
          Store(dst + c * lanes + r, LoadSome<Element>(from + r + c * src.col, 1, live));
        }
        continue;
      }
      for (int64_t c = 0; c < cols; c += kWidth) {
        const int64_t count = Min(kWidth, cols - c);
        Vec block[kWidth];
        LoadBlock<Element>(from + r * src.row + c * src.col, src.row, src.col, live, count, block);
        Transpose(block);
        for (int i = 0; i < count; ++i) Store(dst + (c + i) * lanes + r, block[i]);
      }
    }
  });
}

// dst = src as the left-hand side of a product (Lhs in matmul.h), the rows of a register tile side by side: element
// (r, c) is at dst[(r / kRowsPerTile * cols + c) * kRowsPerTile + r % kRowsPerTile]. The rows that the last tile lacks
// are 0.
inline void PackTiles(const Matrix& src, int64_t rows, int64_t cols, float* dst) {
  WithElement(src.dtype, [&](auto element) {
    using Element = decltype(element);
    auto* from = static_cast<const typename Element::Storage*>(src.data);
    for (int64_t r = 0; r < rows; r += kWidth) {
      const int64_t live = Min(kWidth, rows - r);
      float* const to = dst + r * cols;
      const bool both = live > kRowsPerTile;  // the second of two tiles may lie beyond the end
      auto store = [&](int64_t c, Vec x) {
        float* const first = to + c * kRowsPerTile;
        if constexpr (kWidth == kRowsPerTile) Store(first, x);
        else if (both) StoreHalves(first, first + kRowsPerTile * cols, x);
        else StoreFirstHalf(first, x);
      };
      if (src.row == 1) {
        for (int64_t c = 0; c < cols; ++c) store(c, LoadSome<Element>(from + r + c * src.col, 1, live));
        continue;
      }
      for (int64_t c = 0; c < cols; c += kWidth) {
        const int64_t count = Min(kWidth, cols - c);
        Vec block[kWidth];
        LoadBlock<Element>(from + r * src.row + c * src.col, src.row, src.col, live, count, block);
        Transpose(block);
        if (count == kWidth) {
#pragma GCC unroll 16
          for (int i = 0; i < kWidth; ++i) store(c + i, block[i]);
        } else {
          for (int i = 0; i < count; ++i) store(c + i, block[i]);
        }
      }
    }
  });
}

// dst(r, c) = src[c, r] * scale[r] for r < rows, rounded to the element type of dst.
inline void StoreTransposed(const float* src, int64_t lanes, const float* scale, int64_t rows, int64_t cols,
                            const MutableMatrix& dst) {
  WithFloat(dst.dtype, [&](auto element) {
    using Element = decltype(element);
    auto* to = static_cast<typename Element::Storage*>(dst.data);
    for (int64_t r = 0; r < rows; r += kWidth) {
      const int64_t live = Min(kWidth, rows - r);
      const Vec factor = Load(scale + r);
      for (int64_t c = 0; c < cols; c += kWidth) {
        const int64_t count = Min(kWidth, cols - c);
        Vec block[kWidth];
        for (int i = 0; i < kWidth; ++i) {
          block[i] = i < count ? Load(src + (c + i) * lanes + r) * factor : Broadcast(0.0f);
        }
        Transpose(block);
        for (int i = 0; i < live; ++i) {
          StoreSome<Element>(to + (r + i) * dst.row + c * dst.col, dst.col, count, block[i]);
        }
      }
    }
  });
}

// Whether no element is an infinity or NaN.
inline bool AllFinite(const Matrix& src, int64_t rows, int64_t cols) {
  Vec zero_or_nan = Broadcast(0.0f);
  WithFloat(src.dtype, [&](auto element) {
    using Element = decltype(element);
    auto* from = static_cast<const typename Element::Storage*>(src.data);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < cols; c += kWidth) {
        Vec x = LoadSome<Element>(from + r * src.row + c * src.col, src.col, Min(kWidth, cols - c));
        zero_or_nan = Fma(x, Broadcast(0.0f), zero_or_nan);
      }
    }
  });
  float lanes[kWidth];
  Store(lanes, zero_or_nan);
  for (float lane : lanes) {
    if (lane != lane) return false;
  }
  return true;
}

}  // namespace zenith::ZENITH_ISA
