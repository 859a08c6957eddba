// The product of two blocks of bfloat16 on AMX: eight tile registers, 2 x 2 of them sums.
#pragma once

#include <cstdint>

#include "bf16.h"

namespace zenith::ZENITH_ISA {

#if defined(__AMX_BF16__)
constexpr int kTileStep = 2 * kTilePairs;  // bfloat16 along the contracted axis that one tile product takes

// c[16 R, 32] = sum over k < depth of A[16 R, depth] B[depth, 16 C], R and C 1 or 2, depth a multiple of kTileStep. A
// has rows `a_row` elements apart; each 16 columns of B are in pairs by themselves, [depth / 2][16][2]. Of c, with rows
// of 32 floats, the first 16 C columns are written.
template <int R, int C>
inline void TileProduct(const uint16_t* a, int64_t a_row, const uint16_t* b, int64_t depth, float* c) {
  constexpr int64_t kLine = 4 * kTileRows;
  const uint16_t *lower = a + kTileRows * a_row, *right = b + kTileRows * depth;
  // The intrinsics do not tell the compiler what they read.
  asm volatile("" ::: "memory");
  _tile_zero(0);
  if constexpr (C == 2) _tile_zero(1);
  if constexpr (R == 2) _tile_zero(2);
  if constexpr (R == 2 && C == 2) _tile_zero(3);
  for (int64_t k = 0; k < depth; k += kTileStep) {
    _tile_loadd(6, b + k * kTileRows, kLine);
    if constexpr (C == 2) _tile_loadd(7, right + k * kTileRows, kLine);
    _tile_loadd(4, a + k, a_row * 2);
    if constexpr (R == 2) _tile_loadd(5, lower + k, a_row * 2);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (C == 2) _tile_dpbf16ps(1, 4, 7);
    if constexpr (R == 2) _tile_dpbf16ps(2, 5, 6);
    if constexpr (R == 2 && C == 2) _tile_dpbf16ps(3, 5, 7);
  }
  constexpr int64_t kRow = 2 * kTileRows, kBelow = kTileRows * kRow;
  _tile_stored(0, c, kRow * 4);
  if constexpr (C == 2) _tile_stored(1, c + kTileRows, kRow * 4);
  if constexpr (R == 2) _tile_stored(2, c + kBelow, kRow * 4);
  if constexpr (R == 2 && C == 2) _tile_stored(3, c + kBelow + kTileRows, kRow * 4);
  asm volatile("" ::: "memory");
}
#endif

}  // namespace zenith::ZENITH_ISA
