// AVX2 with FMA and F16C: 16 registers of 8 floats.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace zenith::ZENITH_ISA {

using Vec = __m256;
using Mask = __m256;
constexpr int kWidth = 8;
constexpr int kRowsPerTile = 4;  // 4 x 3 accumulators and 4 operands fill the 16 registers
constexpr int kVecsPerTile = 3;

inline Vec Load(const float* p) { return _mm256_loadu_ps(p); }
inline void Store(float* p, Vec x) { _mm256_storeu_ps(p, x); }
inline __m256i FirstLanes(int64_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline Vec LoadFirst(const float* p, int64_t n) { return _mm256_maskload_ps(p, FirstLanes(n)); }
inline void StoreFirst(float* p, int64_t n, Vec x) { _mm256_maskstore_ps(p, FirstLanes(n), x); }
inline void StoreHalves(float* first, float* second, Vec x) {
  _mm_storeu_ps(first, _mm256_castps256_ps128(x));
  _mm_storeu_ps(second, _mm256_extractf128_ps(x, 1));
}
inline void StoreFirstHalf(float* p, Vec x) { _mm_storeu_ps(p, _mm256_castps256_ps128(x)); }
inline Vec Broadcast(float x) { return _mm256_set1_ps(x); }
inline Vec Iota() { return _mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7); }
inline Vec Fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
inline Vec ProductError(Vec a, Vec b, Vec product) { return _mm256_fmsub_ps(a, b, product); }
inline Vec MaxOrSecond(Vec a, Vec b) { return _mm256_max_ps(a, b); }
inline Vec MinOrSecond(Vec a, Vec b) { return _mm256_min_ps(a, b); }
inline Vec Abs(Vec x) { return _mm256_andnot_ps(Broadcast(-0.0f), x); }
inline Vec CopySign(Vec magnitude, Vec sign) {
  return _mm256_or_ps(_mm256_andnot_ps(Broadcast(-0.0f), magnitude), _mm256_and_ps(Broadcast(-0.0f), sign));
}
inline float SumLanes(Vec x) {
  __m128 half = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}
inline float MaxLanes(Vec x) {
  __m128 half = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  half = _mm_max_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}
inline Mask Less(Vec a, Vec b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
inline Mask LessEqual(Vec a, Vec b) { return _mm256_cmp_ps(a, b, _CMP_LE_OQ); }
inline Mask And(Mask a, Mask b) { return _mm256_and_ps(a, b); }
inline Vec Select(Mask m, Vec if_true, Vec if_false) { return _mm256_blendv_ps(if_false, if_true, m); }
inline Vec Pow2(Vec n) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(n + Broadcast(12582912.0f + 127.0f)), 23));
}
inline Vec MulPow2(Vec x, Vec n) {
  const Vec half = _mm256_round_ps(n * Broadcast(0.5f), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  return x * Pow2(half) * Pow2(n - half);
}
inline Vec Significand(Vec x, Vec* e) {
  const __m256i above = _mm256_sub_epi32(_mm256_castps_si256(x), _mm256_set1_epi32(0x3f400000));  // 0.75
  const __m256i exponent = _mm256_srai_epi32(above, 23);
  *e = _mm256_cvtepi32_ps(exponent);
  return _mm256_castsi256_ps(_mm256_sub_epi32(_mm256_castps_si256(x), _mm256_slli_epi32(exponent, 23)));
}
inline Vec ZeroWhere(Mask m, Vec x) { return _mm256_andnot_ps(m, x); }
inline Vec ExponentFromLowBits(Vec x) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(x), 23)); }

inline Vec LoadBf16(const uint16_t* p) {
  __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}
inline Vec LoadF16(const uint16_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline Vec LoadPred(const uint8_t* p) {
  __m256i words = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  __m256i zero = _mm256_cmpeq_epi32(words, _mm256_setzero_si256());
  return _mm256_andnot_ps(_mm256_castsi256_ps(zero), Broadcast(1.0f));
}
inline void StoreBf16(uint16_t* p, Vec x) {
  __m256i bits = _mm256_castps_si256(x);
  __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  rounded = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
  __m128i packed = _mm_packus_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), packed);
}
inline void StoreF16(uint16_t* p, Vec x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
// There are no masked loads and stores of 16 bits.
inline Vec LoadFirstBf16(const uint16_t* p, int64_t n) {
  uint16_t lanes[kWidth] = {};
  __builtin_memcpy(lanes, p, n * sizeof *p);
  return LoadBf16(lanes);
}
inline Vec LoadFirstF16(const uint16_t* p, int64_t n) {
  uint16_t lanes[kWidth] = {};
  __builtin_memcpy(lanes, p, n * sizeof *p);
  return LoadF16(lanes);
}
inline void StoreFirstBf16(uint16_t* p, int64_t n, Vec x) {
  uint16_t lanes[kWidth];
  StoreBf16(lanes, x);
  __builtin_memcpy(p, lanes, n * sizeof *p);
}
inline void StoreFirstF16(uint16_t* p, int64_t n, Vec x) {
  uint16_t lanes[kWidth];
  StoreF16(lanes, x);
  __builtin_memcpy(p, lanes, n * sizeof *p);
}

inline void Interleave(Vec a, Vec b, Vec* first, Vec* second) {
  const Vec low = _mm256_unpacklo_ps(a, b), high = _mm256_unpackhi_ps(a, b);
  *first = _mm256_permute2f128_ps(low, high, 0x20);
  *second = _mm256_permute2f128_ps(low, high, 0x31);
}
inline void Deinterleave(Vec first, Vec second, Vec* a, Vec* b) {
  const Vec low = _mm256_permute2f128_ps(first, second, 0x20), high = _mm256_permute2f128_ps(first, second, 0x31);
  *a = _mm256_shuffle_ps(low, high, 0x88);  // of each 128-bit half: 0, 2 of low, 0, 2 of high
  *b = _mm256_shuffle_ps(low, high, 0xdd);
}

inline __attribute__((always_inline)) void Transpose(Vec r[kWidth]) {
  Vec t[8];
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {  // r[i + j]: in 128-bit lane L, column 4 L + j of the rows i .. i + 3
    r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
    r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
    r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
  }
  for (int j = 0; j < 4; ++j) {
    t[j] = _mm256_permute2f128_ps(r[j], r[4 + j], 0x20);
    t[4 + j] = _mm256_permute2f128_ps(r[j], r[4 + j], 0x31);
  }
  for (int i = 0; i < 8; ++i) r[i] = t[i];
}

}  // namespace zenith::ZENITH_ISA
