// The register-blocked product of a strided matrix with a packed one.
#pragma once

#include "vec.h"

namespace zenith::ZENITH_ISA {

// The left-hand side of a product: element (m, k) is data[m / kRowsPerTile * tile + m % kRowsPerTile * row + k * col].
//
// In place, a matrix with any strides; packed (elements.h, PackTiles), the rows of a register tile side by side, so that
// the tile reads one stream of memory.
struct Lhs {
  const float* data;
  int64_t row, col, tile;

  const float* Row(int64_t m) const { return data + m / kRowsPerTile * tile + m % kRowsPerTile * row; }
};

inline Lhs Strided(const float* data, int64_t row, int64_t col) { return {data, row, col, kRowsPerTile * row}; }

// One register tile, M rows by NV vectors of C[m, :] = finish(C[m, :], sum_k A(m, k) B[k, :]).
template <int M, int NV, class Finish>
inline __attribute__((always_inline)) void MatmulTile(const float* a, int64_t row, int64_t col, int64_t tile,
                                                      const float* b, int64_t depth, float* c, Finish finish) {
  constexpr int kLanes = NV * kWidth;
  Vec acc[M][NV];
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 3
    for (int v = 0; v < NV; ++v) acc[m][v] = Broadcast(0.0f);
  }
  for (int64_t k = 0; k < depth; ++k, a += col, b += kLanes) {
    Vec rhs[NV];
#pragma GCC unroll 3
    for (int v = 0; v < NV; ++v) rhs[v] = Load(b + v * kWidth);
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
      const Vec lhs = Broadcast(a[m / kRowsPerTile * tile + m % kRowsPerTile * row]);
#pragma GCC unroll 3
      for (int v = 0; v < NV; ++v) acc[m][v] = Fma(lhs, rhs[v], acc[m][v]);
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 3
    for (int v = 0; v < NV; ++v) finish(c + m * kLanes + v * kWidth, v, acc[m][v]);
  }
}

// C[rows, NV * kWidth] from A(rows, depth) and B[depth, NV * kWidth], packed, from row `begin` on.
// `finish(float* c, int v, Vec sum)` writes a sum to the v-th vector of a row of C.
//
// One vector a row leaves registers for twice the rows, which it needs to keep the multipliers busy. The rows left over
// go through tiles of half the height, and so on.
template <int NV, int M = (NV == 1 ? 2 : 1) * kRowsPerTile, class Finish>
inline void Matmul(const Lhs& a, const float* b, int64_t rows, int64_t depth, float* c, Finish finish,
                   int64_t begin = 0) {
  int64_t m = begin;
  for (; m + M <= rows; m += M) {
    MatmulTile<M, NV>(a.Row(m), a.row, a.col, a.tile, b, depth, c + m * NV * kWidth, finish);
  }
  if constexpr (M > 1) {
    if (m < rows) Matmul<NV, M / 2>(a, b, rows, depth, c, finish, m);
  }
}

}  // namespace zenith::ZENITH_ISA
