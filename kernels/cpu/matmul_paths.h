// The inner loops of a product for each way to multiply: float32 by fused multiply-add, pairs of bfloat16, their tiles.
//
// kRows and kCols are the extents of panels, kStrip that of the columns packed together; kDepth, kBlockRows, kBlockCols
// those of blocks; kChunk is how many rows of rhs are packed at a time.
//
// A path says how a panel of rows of the left-hand side and a panel of columns of the right-hand side are laid out, and
// multiplies two of them. Sums over long k are sums of sums of blocks of it: rounding errors grow with the number of
// terms.
#pragma once

#include "matmul.h"
#include "matmul_pack.h"

namespace zenith::ZENITH_ISA {

// c = sums, or c += sums.
inline void Keep(float* c, Vec sum, bool add) { Store(c, add ? Load(c) + sum : sum); }

template <int N>
struct Lanes {
  static constexpr int value = N;
};

// Calls f with the number of vectors, 1 to 3, of a width as a constant.
template <class F>
inline void WithVecs(int64_t width, F f) {
  switch (width / kWidth) {
    case 1: return f(Lanes<1>{});
    case 2: return f(Lanes<2>{});
    case 3: return f(Lanes<3>{});
  }
}

// float32, or anything widened to it.
struct FloatPath {
  using Stored = float;
  static constexpr int64_t kRows = 2 * kRowsPerTile, kCols = kVecsPerTile * kWidth, kStrip = kCols, kDepthStep = 1;
  static constexpr int64_t kChunk = 16, kDepth = 256, kBlockRows = 256, kBlockCols = 8 * kCols;

  static int64_t Width(int64_t cols) { return Min(RoundUp(cols, kWidth), kCols); }
  static int64_t StripWidth(int64_t cols) { return Width(cols); }

  static void Pack(const MatmulOperand& rhs, int64_t p, const DepthPlaces& ks, int64_t depth, const ColPlaces& cs,
                   int64_t cols, float* to) {
    WithFloat(rhs.dtype, [&](auto element) {
      using Element = decltype(element);
      auto* from = static_cast<const typename Element::Storage*>(rhs.data) + rhs.parallel.Offset(p);
      PackFloats<Element>(from, ks, depth, cs, cols, Width(cols), to);
    });
  }
  static const float* InPlace(const MatmulOperand& lhs, const RowPlaces& rs, const DepthPlaces& ks, int64_t, int64_t) {
    if (lhs.dtype != Dtype::kF32 || !rs.even() || !ks.even() || ks.step() != 1) return nullptr;
    return static_cast<const float*>(lhs.data) + rs[0] + ks[0];
  }
  static void CopyRows(const MatmulOperand& lhs, int64_t p, const RowPlaces& rs, int64_t rows, const DepthPlaces& ks,
                       int64_t depth, float* to, int64_t stride) {
    WithFloat(lhs.dtype, [&](auto element) {
      using Element = decltype(element);
      auto* from = static_cast<const typename Element::Storage*>(lhs.data) + lhs.parallel.Offset(p);
      CopyToRows<Element, F32>(from, rs, rows, ks, depth, to, stride, rows, depth);
    });
  }
  static void Product(const float* a, int64_t a_row, int64_t rows, const float* b, int64_t cols, int64_t depth,
                      bool add, float* c) {
    WithVecs(Width(cols), [&](auto lanes) {
      Matmul<decltype(lanes)::value>(Strided(a, a_row, 1), b, rows, depth, c,
                                     [add](float* to, int, Vec sum) { Keep(to, sum, add); });
    });
  }
  static void Begin() {}
  static void End() {}
};

#if defined(__AVX512BF16__)
// One register tile, M rows by NV vectors: c = sum_k A[m, k] B[k, :] over pairs.
template <int M, int NV>
inline __attribute__((always_inline)) void PairTile(const uint16_t* a, int64_t a_row, const uint16_t* b, int64_t depth,
                                                    bool add, float* c) {
  Vec acc[M][NV];
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 3
    for (int v = 0; v < NV; ++v) acc[m][v] = Broadcast(0.0f);
  }
  for (int64_t k = 0; k < depth; k += 2, b += 2 * NV * kWidth) {
    Pairs rhs[NV];
#pragma GCC unroll 3
    for (int v = 0; v < NV; ++v) rhs[v] = LoadPairs(b + v * 2 * kWidth);
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
      const Pairs lhs = BroadcastPair(a + m * a_row + k);
#pragma GCC unroll 3
      for (int v = 0; v < NV; ++v) acc[m][v] = FmaPairs(lhs, rhs[v], acc[m][v]);
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 3
    for (int v = 0; v < NV; ++v) Keep(c + (m * NV + v) * kWidth, acc[m][v], add);
  }
}

template <int NV, int M = (NV == 1 ? 2 : 1) * kRowsPerTile>
inline void PairProduct(const uint16_t* a, int64_t a_row, int64_t rows, const uint16_t* b, int64_t depth, bool add,
                        float* c) {
  int64_t m = 0;
  for (; m + M <= rows; m += M) PairTile<M, NV>(a + m * a_row, a_row, b, depth, add, c + m * NV * kWidth);
  if constexpr (M > 1) {
    if (m < rows) PairProduct<NV, M / 2>(a + m * a_row, a_row, rows - m, b, depth, add, c + m * NV * kWidth);
  }
}

// What pairs and tiles have in common: bfloat16 stays as it is.
template <int64_t kStep>
struct Bf16Operands {
  using Stored = uint16_t;
  static constexpr int64_t kDepthStep = kStep;

  static const uint16_t* InPlace(const MatmulOperand& lhs, const RowPlaces& rs, const DepthPlaces& ks, int64_t depth) {
    if (!rs.even() || !ks.even() || ks.step() != 1 || depth % kStep != 0) return nullptr;
    return static_cast<const uint16_t*>(lhs.data) + rs[0] + ks[0];
  }
  static void CopyRows(const MatmulOperand& lhs, int64_t p, const RowPlaces& rs, int64_t rows, const DepthPlaces& ks,
                       int64_t depth, uint16_t* to, int64_t stride, int64_t all_rows) {
    auto* from = static_cast<const uint16_t*>(lhs.data) + lhs.parallel.Offset(p);
    if (ks.even() && ks.step() == 1) {
      return CopyDenseRows(from, rs, rows, ks[0], depth, to, stride, all_rows, RoundUp(depth, kStep));
    }
    CopyToRows<Bf16, Bf16>(from, rs, rows, ks, depth, to, stride, all_rows, RoundUp(depth, kStep));
  }
};

struct PairPath : Bf16Operands<2> {
  static constexpr int64_t kRows = 2 * kRowsPerTile, kCols = kVecsPerTile * kWidth, kStrip = kCols;
  static constexpr int64_t kChunk = 32, kDepth = 512, kBlockRows = 256, kBlockCols = 8 * kCols;

  static int64_t Width(int64_t cols) { return Min(RoundUp(cols, kWidth), kCols); }
  static int64_t StripWidth(int64_t cols) { return Width(cols); }
  static const uint16_t* InPlace(const MatmulOperand& lhs, const RowPlaces& rs, const DepthPlaces& ks, int64_t,
                                 int64_t depth) {
    return Bf16Operands::InPlace(lhs, rs, ks, depth);
  }
  static void Pack(const MatmulOperand& rhs, int64_t p, const DepthPlaces& ks, int64_t depth, const ColPlaces& cs,
                   int64_t cols, uint16_t* to) {
    auto* from = static_cast<const uint16_t*>(rhs.data) + rhs.parallel.Offset(p);
    PackPairs(from, ks, depth, cs, cols, Width(cols), RoundUp(depth, kDepthStep), to);
  }
  static void CopyRows(const MatmulOperand& lhs, int64_t p, const RowPlaces& rs, int64_t rows, const DepthPlaces& ks,
                       int64_t depth, uint16_t* to, int64_t stride) {
    Bf16Operands::CopyRows(lhs, p, rs, rows, ks, depth, to, stride, rows);
  }
  static void Product(const uint16_t* a, int64_t a_row, int64_t rows, const uint16_t* b, int64_t cols, int64_t depth,
                      bool add, float* c) {
    WithVecs(Width(cols), [&](auto lanes) {
      PairProduct<decltype(lanes)::value>(a, a_row, rows, b, RoundUp(depth, kDepthStep), add, c);
    });
  }
  static void Begin() {}
  static void End() {}
};
#endif

#if defined(__AMX_BF16__)
struct TilePath : Bf16Operands<kTileStep> {
  static constexpr int64_t kRows = 2 * kTileRows, kCols = 2 * kTileRows, kStrip = kTileRows;
  static constexpr int64_t kChunk = 32, kDepth = 1024, kBlockRows = 512, kBlockCols = 16 * kCols;

  static int64_t Width(int64_t) { return kCols; }
  static int64_t StripWidth(int64_t) { return kStrip; }
  // Tiles are read whole. Rows a multiple of 2048 bytes apart fall on the same few lines of the first cache.
  static const uint16_t* InPlace(const MatmulOperand& lhs, const RowPlaces& rs, const DepthPlaces& ks, int64_t rows,
                                 int64_t depth) {
    if (rows % kTileRows != 0 || rs.step() % 1024 == 0) return nullptr;
    return Bf16Operands::InPlace(lhs, rs, ks, depth);
  }
  static void Pack(const MatmulOperand& rhs, int64_t p, const DepthPlaces& ks, int64_t depth, const ColPlaces& cs,
                   int64_t cols, uint16_t* to) {
    auto* from = static_cast<const uint16_t*>(rhs.data) + rhs.parallel.Offset(p);
    PackPairs(from, ks, depth, cs, cols, kTileRows, RoundUp(depth, kDepthStep), to);
  }
  static void CopyRows(const MatmulOperand& lhs, int64_t p, const RowPlaces& rs, int64_t rows, const DepthPlaces& ks,
                       int64_t depth, uint16_t* to, int64_t stride) {
    Bf16Operands::CopyRows(lhs, p, rs, rows, ks, depth, to, stride, RoundUp(rows, kTileRows));
  }
  static void Product(const uint16_t* a, int64_t a_row, int64_t rows, const uint16_t* b, int64_t cols, int64_t depth,
                      bool add, float* c) {
    alignas(64) float block[kRows * kCols];
    float* to = add ? block : c;
    const int64_t steps = CeilDiv(depth, kTileStep);
    constexpr decltype(&TileProduct<1, 1>) kProducts[2][2] = {{TileProduct<1, 1>, TileProduct<1, 2>},
                                                              {TileProduct<2, 1>, TileProduct<2, 2>}};
    kProducts[rows > kTileRows][cols > kTileRows](a, a_row, b, steps * kTileStep, to);
    if (!add) return;
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t i = r * kCols; i < r * kCols + RoundUp(cols, kTileRows); i += kWidth) {
        Store(c + i, Load(c + i) + Load(block + i));
      }
    }
  }
  static void Begin() { ConfigureTiles(); }
  static void End() { ReleaseTiles(); }
};
#endif

}  // namespace zenith::ZENITH_ISA
