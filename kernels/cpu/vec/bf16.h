// Products of bfloat16 pairs, and tiles of them, where the processor has them: AVX512-BF16 and AMX.
//
// Both take operands in "pairs": two neighbours along the contracted axis lie side by side, so that the right-hand side
// of a product C[m, n] += sum_k A[m, k] B[k, n] is stored as B[k / 2][n][k % 2] (Intel calls it VNNI).
#pragma once

#include <cstdint>

namespace zenith::ZENITH_ISA {

#if defined(__AVX512BF16__)
constexpr bool kHasPairs = true;

// Sixteen pairs of bfloat16.
using Pairs = __m512i;

inline Pairs LoadPairs(const uint16_t* p) { return _mm512_loadu_si512(p); }
// The same pair in each lane.
inline Pairs BroadcastPair(const uint16_t* p) {
  int32_t pair;
  __builtin_memcpy(&pair, p, sizeof pair);
  return _mm512_set1_epi32(pair);
}
// Lane i pairs even[i] with odd[i]: sixteen elements of each of two rows, side by side.
inline Pairs ZipPairs(const uint16_t* even, const uint16_t* odd) {
  const __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(even)));
  const __m512i high = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(odd)));
  return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}
inline void StorePairs(uint16_t* p, Pairs x) { _mm512_storeu_si512(p, x); }
// acc + a[0] b[0] + a[1] b[1] in each lane. Subnormals count as 0.
inline Vec FmaPairs(Pairs a, Pairs b, Vec acc) {
  return _mm512_dpbf16_ps(acc, (__m512bh)a, (__m512bh)b);
}
// Each lane of both, rounded to bfloat16 (subnormals to 0), side by side.
inline Pairs PairUp(Vec first, Vec second) {
  const __m512i halves = (__m512i)_mm512_cvtne2ps_pbh(second, first);
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                                         5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(order, halves);
}
// Both rounded likewise, one after the other.
inline Pairs RoundRow(Vec first, Vec second) { return (__m512i)_mm512_cvtne2ps_pbh(second, first); }
inline Vec AsVec(Pairs x) { return _mm512_castsi512_ps(x); }
inline Pairs AsPairs(Vec x) { return _mm512_castps_si512(x); }
#else
constexpr bool kHasPairs = false;
#endif

#if defined(__AMX_BF16__)
constexpr bool kHasTiles = true;
constexpr int kTileRows = 16;   // of a tile of float32, 16 x 16, or of bfloat16 pairs, 16 x 16 x 2
constexpr int kTilePairs = 16;  // along the contracted axis

// How the tile registers are laid out; the first 64 bytes that LDTILECFG reads.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// All eight tiles at their full size, from here to ReleaseTiles. A thread's tiles are its own; what they hold is lost in
// every call that may use them itself.
inline void ConfigureTiles() {
  TileConfig config;
  for (int i = 0; i < 8; ++i) {
    config.row_bytes[i] = 64;
    config.rows[i] = kTileRows;
  }
  asm volatile("" : : "r"(&config) : "memory");  // the intrinsic says of the first bytes alone that they are read
  _tile_loadconfig(&config);
}
inline void ReleaseTiles() { _tile_release(); }

// Four products of tiles a round, of zeros, which wait for nothing; for peak_kernel.cc.
// Returns the operations done.
inline double MultiplyTiles(int64_t rounds) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  _tile_zero(6);
  _tile_zero(7);
  for (int64_t i = 0; i < rounds; ++i) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  return 4.0 * 2 * kTileRows * 16 * 2 * kTilePairs * static_cast<double>(rounds);
}

// C[R * 16, NV * 16] = or += A[R * 16, 2 pairs] B[pairs, NV * 16], both in pairs and `pairs` a multiple of 16, R and NV 1
// or 2: the tiles 0 to 3 hold the sums, 4 and 5 A, 6 and 7 B. `row` is the distance between rows of A in elements.
//
// A tile register is named by a literal.
template <int R, int NV>
inline void TileUpdate(const uint16_t* a, int64_t row, const uint16_t* b, int64_t pairs, float* c, bool adds) {
  constexpr int64_t kLanes = NV * 16, kRowBytes = kLanes * 4;
  float* const low = c + 16 * kLanes;
  asm volatile("" ::: "memory");  // the compiler does not know what a tile load reads
  if (adds) {
    _tile_loadd(0, c, kRowBytes);
    if constexpr (NV > 1) _tile_loadd(1, c + 16, kRowBytes);
    if constexpr (R > 1) _tile_loadd(2, low, kRowBytes);
    if constexpr (R > 1 && NV > 1) _tile_loadd(3, low + 16, kRowBytes);
  } else {
    _tile_zero(0);
    if constexpr (NV > 1) _tile_zero(1);
    if constexpr (R > 1) _tile_zero(2);
    if constexpr (R > 1 && NV > 1) _tile_zero(3);
  }
  for (int64_t p = 0; p < pairs; p += kTilePairs, a += 2 * kTilePairs, b += 2 * kTilePairs * kLanes) {
    _tile_loadd(6, b, kRowBytes);
    _tile_loadd(4, a, row * 2);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (NV > 1) {
      _tile_loadd(7, b + 32, kRowBytes);
      _tile_dpbf16ps(1, 4, 7);
    }
    if constexpr (R > 1) {
      _tile_loadd(5, a + 16 * row, row * 2);
      _tile_dpbf16ps(2, 5, 6);
    }
    if constexpr (R > 1 && NV > 1) _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, c, kRowBytes);
  if constexpr (NV > 1) _tile_stored(1, c + 16, kRowBytes);
  if constexpr (R > 1) _tile_stored(2, low, kRowBytes);
  if constexpr (R > 1 && NV > 1) _tile_stored(3, low + 16, kRowBytes);
}
#else
constexpr bool kHasTiles = false;
inline void ConfigureTiles() {}
inline void ReleaseTiles() {}
#endif

}  // namespace zenith::ZENITH_ISA
