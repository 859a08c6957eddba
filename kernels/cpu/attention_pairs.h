// The two products of attention on bfloat16 operands, two neighbours of the contracted axis at a time (vec/bf16.h):
//
//   x[s, t] = sum_d K[s, d] Q[t, d]       K in place, Q packed as [d / 2][t][d % 2]
//   O^T[e, t] += sum_s V^T[e, s] p[s, t]  V packed as V^T, p rounded and packed as [s / 2][t][s % 2]
//
// Products of bfloat16 are exact in float32, so that of all roundings only that of p is not there in float32. Tiles
// alone are worth it: the products of pairs that AVX512-BF16 has are no faster than those of float32.
#pragma once

#include "attention_tile.h"
#include "elements.h"
#include "vec.h"

namespace zenith::ZENITH_ISA {

constexpr int64_t kPairRows = 16;   // rows of a left-hand side come in groups of so many
constexpr int64_t kPairDepth = 32;  // elements along a contracted axis likewise, padded with zeros
constexpr int kPairVecs = 2;        // queries of a panel: two tiles, to go with two of keys
constexpr int64_t kPairLanes = kPairVecs * kWidth;

inline int64_t RoundUp(int64_t a, int64_t multiple) { return CeilDiv(a, multiple) * multiple; }

// Whether the backward makes K Q^T of tiles, whatever the other operands are. The forward whose maximum it reads does
// the same: only then is no logit above it. Each sum runs over tiles in the same order, wherever it lies in a block.
inline bool LogitsInTiles(const AttentionProblem& problem) {
  return kHasTiles && problem.q.dtype == Dtype::kBf16 && problem.k.dtype == Dtype::kBf16;
}

#if defined(__AMX_BF16__)

// C[rows, NV * kWidth] = or += A(rows, depth) B[depth / 2][NV * kWidth][2], with groups of kPairRows rows.
template <int NV>
inline void PairProduct(const uint16_t* a, int64_t row, const uint16_t* b, int64_t rows, int64_t depth, float* c,
                        bool adds) {
  int64_t m = 0;
  for (; m + 2 * kPairRows <= rows; m += 2 * kPairRows) {
    TileUpdate<2, NV>(a + m * row, row, b, depth / 2, c + m * NV * kWidth, adds);
  }
  if (m < rows) TileUpdate<1, NV>(a + m * row, row, b, depth / 2, c + m * NV * kWidth, adds);
}

// dst[padded_rows, padded_cols] = src, padded with zeros.
inline void CopyPadded(const Matrix& src, int64_t rows, int64_t cols, int64_t padded_rows, int64_t padded_cols,
                       uint16_t* dst) {
  auto* from = static_cast<const uint16_t*>(src.data);
  for (int64_t r = 0; r < padded_rows; ++r, dst += padded_cols) {
    const int64_t live = r < rows ? cols : 0;
    if (src.col == 1) {
      __builtin_memcpy(dst, from + (live == 0 ? 0 : r * src.row), static_cast<size_t>(live) * 2);
    } else {
      for (int64_t c = 0; c < live; ++c) dst[c] = from[r * src.row + c * src.col];
    }
    for (int64_t c = live; c < padded_cols; ++c) dst[c] = 0;
  }
}

// dst[c / 2][lanes][c % 2] = src(r, c), padded with zeros to `lanes` rows and a multiple of kPairDepth columns.
inline void PackQueries(const Matrix& src, int64_t rows, int64_t cols, int64_t lanes, uint16_t* dst) {
  alignas(64) uint16_t part[kPanelLanes * kPairDepth];
  for (int64_t c = 0; c < cols; c += kPairDepth) {
    const Matrix view{static_cast<const uint16_t*>(src.data) + c * src.col, src.dtype, src.row, src.col};
    CopyPadded(view, rows, Min(kPairDepth, cols - c), lanes, kPairDepth, part);
    const Matrix words{part, Dtype::kF32, kPairDepth / 2, 1};  // a pair moves like a float
    CopyTransposed(words, lanes, kPairDepth / 2, reinterpret_cast<float*>(dst + c * lanes), lanes);
  }
}

// dst[e, s] = src(s, e), rows of `stride` elements, padded with zeros to multiples of kPairDepth both ways.
inline void PackValues(const Matrix& src, int64_t keys, int64_t cols, int64_t stride, uint16_t* dst) {
  for (int64_t e = 0; e < RoundUp(cols, kPairDepth); e += kWidth) {
    for (int64_t s = 0; s < keys; s += kPairDepth) {
      alignas(64) uint16_t part[kPairDepth * kWidth];
      const uint16_t* from = static_cast<const uint16_t*>(src.data) + s * src.row + e * src.col;
      int64_t row = src.row;
      if (src.col != 1 || e + kWidth > cols || s + kPairDepth > keys) {
        const int64_t live = e < cols ? Min(kWidth, cols - e) : 0;
        CopyPadded({live > 0 ? from : src.data, src.dtype, src.row, src.col}, Min(kPairDepth, keys - s), live,
                   kPairDepth, kWidth, part);
        from = part;
        row = kWidth;
      }
      Vec block[kWidth];
#pragma GCC unroll 16
      for (int i = 0; i < kWidth; ++i) block[i] = AsVec(ZipPairs(from + 2 * i * row, from + (2 * i + 1) * row));
      Transpose(block);
#pragma GCC unroll 16
      for (int i = 0; i < kWidth; ++i) StorePairs(dst + (e + i) * stride + s, AsPairs(block[i]));
    }
  }
}

// p[s / 2][lanes][s % 2] = f(s, vector) rounded, padded with zeros to a multiple of kPairDepth keys. `p` may be where f
// reads rows s and s + 1 of a tile: what it needs later lies behind.
template <int NV, class F>
inline void StoreProbabilities(int64_t begin, int64_t end, uint16_t* p, F f) {
  for (int64_t s = begin; s < end; s += 2) {
    for (int i = 0; i < NV; ++i) {
      const Vec first = f(s, i), second = s + 1 < end ? f(s + 1, i) : Broadcast(0.0f);
      StorePairs(p + (s * NV + 2 * i) * kWidth, PairUp(first, second));
    }
  }
}
template <int NV>
inline void PadProbabilities(int64_t keys, uint16_t* p) {
  for (int64_t s = RoundUp(keys, 2); s < RoundUp(keys, kPairDepth); s += 2) {
    for (int i = 0; i < NV; ++i) {
      StorePairs(p + (s * NV + 2 * i) * kWidth, PairUp(Broadcast(0.0f), Broadcast(0.0f)));
    }
  }
}

// dst[c / 32][r / 2][c % 32][r % 2] = src(r, c) for kPairLanes rows, padded with zeros; 32 columns take `stride`.
inline void PackRowPairs(const Matrix& src, int64_t rows, int64_t cols, int64_t stride, uint16_t* dst) {
  alignas(64) uint16_t part[kPairLanes * kPairLanes];
  for (int64_t c = 0; c < cols; c += kPairLanes, dst += stride) {
    const Matrix view{static_cast<const uint16_t*>(src.data) + c * src.col, src.dtype, src.row, src.col};
    CopyPadded(view, rows, Min(kPairLanes, cols - c), kPairLanes, kPairLanes, part);
    for (int64_t r = 0; r < kPairLanes; r += 2) {
      const uint16_t *even = part + r * kPairLanes, *odd = even + kPairLanes;
      StorePairs(dst + r * kPairLanes, ZipPairs(even, odd));
      StorePairs(dst + (r + 1) * kPairLanes, ZipPairs(even + kWidth, odd + kWidth));
    }
  }
}

// dst[s, t] = x[s, t] rounded, rows of `stride` elements, and 0 for t from `queries` to kPairLanes.
inline void RoundRows(const float* x, int64_t keys, int64_t queries, int64_t stride, uint16_t* dst) {
  for (int64_t s = 0; s < keys; ++s, dst += stride) {
    if (queries > 0) StorePairs(dst, RoundRow(Load(x + s * kPairLanes), Load(x + s * kPairLanes + kWidth)));
    for (int64_t t = queries; t < kPairLanes; ++t) dst[t] = 0;
  }
}
#endif

}  // namespace zenith::ZENITH_ISA
