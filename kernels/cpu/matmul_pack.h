// Copies of blocks of the operands of a product, in the order in which its inner loops read them.
//
// The right-hand side goes into panels of a few vectors of columns, B[k][column] in float32 or B[k / 2][column][k % 2]
// in pairs of bfloat16; the left-hand side, where it cannot be read in place, into rows. What lies outside is 0.
#pragma once

#include "places.h"

namespace zenith::ZENITH_ISA {

constexpr int64_t kMaxDepth = 1024;     // of a block
constexpr int64_t kMaxPanelCols = 128;  // of a panel
constexpr int64_t kMaxRows = 64;        // of a panel of rows
using DepthPlaces = Places<kMaxDepth>;
using ColPlaces = Places<kMaxPanelCols>;
using RowPlaces = Places<kMaxRows>;

inline int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t RoundUp(int64_t a, int64_t b) { return CeilDiv(a, b) * b; }

// to[k * width + c] = from(k, c) for k < depth and c < cols, as float32; 0 up to the width, a multiple of kWidth.
template <class Element>
inline void PackFloats(const typename Element::Storage* from, const DepthPlaces& ks, int64_t depth, const ColPlaces& cs,
                       int64_t cols, int64_t width, float* to) {
  for (int64_t c = 0; c < width; c += kWidth) {
    const int64_t live = c < cols ? Min(kWidth, cols - c) : 0;
    if (live == 0 || cs.Dense(c, live) || depth < kWidth / 2) {
      for (int64_t k = 0; k < depth; ++k) {
        const Vec x = live == 0 ? Broadcast(0.0f) : LoadPlaces<Element>(from + ks[k], cs, c, live);
        Store(to + k * width + c, x);
      }
      continue;
    }
    for (int64_t k = 0; k < depth; k += kWidth) {
      const int64_t count = Min(kWidth, depth - k);
      Vec block[kWidth];
      for (int i = 0; i < kWidth; ++i) {
        block[i] = i < live ? LoadPlaces<Element>(from + cs[c + i], ks, k, count) : Broadcast(0.0f);
      }
      Transpose(block);
      for (int i = 0; i < count; ++i) Store(to + (k + i) * width + c, block[i]);
    }
  }
}

// to[r * stride + k] = from(r, k) for r < rows and k < depth, as elements of To; 0 up to `all_rows` and `all_depth`.
template <class From, class To>
inline void CopyToRows(const typename From::Storage* from, const RowPlaces& rs, int64_t rows, const DepthPlaces& ks,
                       int64_t depth, typename To::Storage* to, int64_t stride, int64_t all_rows, int64_t all_depth) {
  const bool transposed = !ks.Dense(0, Min(depth, kWidth));
  for (int64_t r = 0; r < all_rows; r += transposed ? kWidth : 1) {
    const int64_t live = r < rows ? Min(kWidth, rows - r) : 0;
    for (int64_t k = 0; k < all_depth; k += kWidth) {
      const int64_t count = k < depth ? Min(kWidth, depth - k) : 0, room = Min(kWidth, all_depth - k);
      if (!transposed) {
        const Vec x = live > 0 && count > 0 ? LoadPlaces<From>(from + rs[r], ks, k, count) : Broadcast(0.0f);
        StoreSome<To>(to + r * stride + k, 1, room, x);
        continue;
      }
      Vec block[kWidth];
      for (int i = 0; i < kWidth; ++i) {
        block[i] = i < count && live > 0 ? LoadPlaces<From>(from + ks[k + i], rs, r, live) : Broadcast(0.0f);
      }
      Transpose(block);
      for (int i = 0; i < Min(kWidth, all_rows - r); ++i) StoreSome<To>(to + (r + i) * stride + k, 1, room, block[i]);
    }
  }
}

// to[r * stride + k] = from(r, k), where the elements of a row are neighbours and stay what they are.
inline void CopyDenseRows(const uint16_t* from, const RowPlaces& rs, int64_t rows, int64_t first, int64_t depth,
                          uint16_t* to, int64_t stride, int64_t all_rows, int64_t all_depth) {
  for (int64_t r = 0; r < all_rows; ++r, to += stride) {
    const int64_t live = r < rows ? depth : 0;
    if (live > 0) __builtin_memcpy(to, from + rs[r] + first, live * 2);
    for (int64_t k = live; k < all_depth; ++k) to[k] = 0;
  }
}

#if defined(__AVX512BF16__)
// The columns of rhs in pairs: to[k / 2 * width + c] = (from(k, c), from(k + 1, c)), 0 up to `all_depth`, even.
inline void PackPairs(const uint16_t* from, const DepthPlaces& ks, int64_t depth, const ColPlaces& cs, int64_t cols,
                      int64_t width, int64_t all_depth, uint16_t* to) {
  static const uint16_t kZeros[kWidth] = {};
  for (int64_t c = 0; c < width; c += kWidth) {
    const int64_t live = c < cols ? Min(kWidth, cols - c) : 0;
    if (live == kWidth && cs.Dense(c, kWidth)) {
      const uint16_t* base = from + cs[c];
      for (int64_t k = 0; k < all_depth; k += 2) {
        const uint16_t* even = k < depth ? base + ks[k] : kZeros;
        const uint16_t* odd = k + 1 < depth ? base + ks[k + 1] : kZeros;
        StorePairs(to + (k / 2 * width + c) * 2, ZipPairs(even, odd));
      }
      continue;
    }
    for (int64_t k = 0; k < all_depth;) {
      // Along k pairs lie as they are wanted: they move as float32 would.
      if (k + 2 * kWidth <= depth && ks.Dense(k, 2 * kWidth)) {
        Vec block[kWidth];
        for (int i = 0; i < kWidth; ++i) {
          block[i] = Broadcast(0.0f);
          if (i < live) __builtin_memcpy(&block[i], from + cs[c + i] + ks[k], sizeof(Vec));
        }
        Transpose(block);
        for (int i = 0; i < kWidth; ++i) __builtin_memcpy(to + ((k / 2 + i) * width + c) * 2, &block[i], sizeof(Vec));
        k += 2 * kWidth;
        continue;
      }
      for (int64_t end = Min(all_depth, k + 2 * kWidth); k < end; ++k) {
        for (int64_t i = 0; i < kWidth; ++i) {
          to[(k / 2 * width + c + i) * 2 + k % 2] = k < depth && i < live ? from[cs[c + i] + ks[k]] : uint16_t{0};
        }
      }
    }
  }
}
#endif

}  // namespace zenith::ZENITH_ISA
