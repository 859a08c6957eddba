// AVX-512 with BW, DQ and VL: 32 registers of 16 floats.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace zenith::ZENITH_ISA {

using Vec = __m512;
using Mask = __mmask16;
constexpr int kWidth = 16;
constexpr int kRowsPerTile = 8;  // a register tile of 8 x 3 accumulators leaves 8 registers for the operands
constexpr int kVecsPerTile = 3;

inline Vec Load(const float* p) { return _mm512_loadu_ps(p); }
inline void Store(float* p, Vec x) { _mm512_storeu_ps(p, x); }
// The first n <= kWidth elements, and nothing beyond them; the other lanes are 0.
inline Mask FirstLanes(int64_t n) { return static_cast<Mask>(0xffffu >> (kWidth - n)); }
inline Vec LoadFirst(const float* p, int64_t n) { return _mm512_maskz_loadu_ps(FirstLanes(n), p); }
inline void StoreFirst(float* p, int64_t n, Vec x) { _mm512_mask_storeu_ps(p, FirstLanes(n), x); }
// The first and the second half of the lanes.
inline void StoreHalves(float* first, float* second, Vec x) {
  _mm256_storeu_ps(first, _mm512_castps512_ps256(x));
  _mm256_storeu_ps(second, _mm512_extractf32x8_ps(x, 1));
}
inline void StoreFirstHalf(float* p, Vec x) { _mm256_storeu_ps(p, _mm512_castps512_ps256(x)); }
inline Vec Broadcast(float x) { return _mm512_set1_ps(x); }
inline Vec Iota() { return _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15); }
inline Vec Fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
// a b - product, exactly: the rounding error of product = a * b.
inline Vec ProductError(Vec a, Vec b, Vec product) { return _mm512_fmsub_ps(a, b, product); }
// max(a, b), and b where either is NaN.
inline Vec MaxOrSecond(Vec a, Vec b) { return _mm512_max_ps(a, b); }
// min(a, b), and b where either is NaN.
inline Vec MinOrSecond(Vec a, Vec b) { return _mm512_min_ps(a, b); }
inline Vec Abs(Vec x) { return _mm512_abs_ps(x); }
inline Vec CopySign(Vec magnitude, Vec sign) {
  return _mm512_or_ps(_mm512_andnot_ps(Broadcast(-0.0f), magnitude), _mm512_and_ps(Broadcast(-0.0f), sign));
}
// Of all lanes; the sum is one of sums.
inline float SumLanes(Vec x) { return _mm512_reduce_add_ps(x); }
inline float MaxLanes(Vec x) { return _mm512_reduce_max_ps(x); }
inline Mask Less(Vec a, Vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
inline Mask LessEqual(Vec a, Vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ); }
inline Mask And(Mask a, Mask b) { return a & b; }
inline Vec Select(Mask m, Vec if_true, Vec if_false) { return _mm512_mask_blend_ps(m, if_false, if_true); }
// 2^n for an integral n in [-126, 127]. Adding 1.5 * 2^23 + 127 leaves n + 127 in the lowest bits of the significand.
inline Vec Pow2(Vec n) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(n + Broadcast(12582912.0f + 127.0f)), 23));
}
// x 2^n for an integral n in [-252, 254], rounded once.
inline Vec MulPow2(Vec x, Vec n) { return _mm512_scalef_ps(x, n); }
// x = m 2^e with m in [0.75, 1.5) and an integral e, for x positive, finite and normal.
inline Vec Significand(Vec x, Vec* e) {
  const Vec m = _mm512_getmant_ps(x, _MM_MANT_NORM_p75_1p5, _MM_MANT_SIGN_src);
  const Vec floor_log2 = _mm512_getexp_ps(x);
  *e = _mm512_mask_add_ps(floor_log2, Less(m, Broadcast(1.0f)), floor_log2, Broadcast(1.0f));
  return m;
}
inline Vec ZeroWhere(Mask m, Vec x) { return _mm512_maskz_mov_ps(_mm512_knot(m), x); }
// 2^(b - 127) where b is what the lowest eight bits of x say.
inline Vec ExponentFromLowBits(Vec x) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(x), 23)); }

inline Vec WidenBf16(__m256i half) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}
inline Vec LoadBf16(const uint16_t* p) {
  return WidenBf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline Vec LoadFirstBf16(const uint16_t* p, int64_t n) {
  return WidenBf16(_mm256_maskz_loadu_epi16(FirstLanes(n), p));
}
inline Vec LoadFirstF16(const uint16_t* p, int64_t n) {
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(FirstLanes(n), p));
}
inline Vec LoadF16(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline Vec LoadPred(const uint8_t* p) {
  __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return Select(_mm_test_epi8_mask(bytes, bytes), Broadcast(1.0f), Broadcast(0.0f));
}
#if defined(__AVX512BF16__)
// A subnormal x counts as 0.
inline __m256i NarrowBf16(Vec x) { return (__m256i)_mm512_cvtneps_pbh(x); }
#else
inline __m256i NarrowBf16(Vec x) {
  __m512i bits = _mm512_castps_si512(x);
  __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
  rounded = _mm512_mask_blend_epi32(_mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), rounded, quiet);
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
}
#endif
inline __m256i NarrowF16(Vec x) { return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline void StoreBf16(uint16_t* p, Vec x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), NarrowBf16(x)); }
inline void StoreF16(uint16_t* p, Vec x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), NarrowF16(x)); }
inline void StoreFirstBf16(uint16_t* p, int64_t n, Vec x) {
  _mm256_mask_storeu_epi16(p, FirstLanes(n), NarrowBf16(x));
}
inline void StoreFirstF16(uint16_t* p, int64_t n, Vec x) { _mm256_mask_storeu_epi16(p, FirstLanes(n), NarrowF16(x)); }

// a0 b0 a1 b1 ... in two vectors, and the way back.
inline void Interleave(Vec a, Vec b, Vec* first, Vec* second) {
  const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  *first = _mm512_permutex2var_ps(a, low, b);
  *second = _mm512_permutex2var_ps(a, high, b);
}
inline void Deinterleave(Vec first, Vec second, Vec* a, Vec* b) {
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const __m512i odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
  *a = _mm512_permutex2var_ps(first, even, second);
  *b = _mm512_permutex2var_ps(first, odd, second);
}

inline __attribute__((always_inline)) void Transpose(Vec r[kWidth]) {
  Vec t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
  }
  auto lo64 = [](Vec a, Vec b) {
    return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
  };
  auto hi64 = [](Vec a, Vec b) {
    return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
  };
  for (int i = 0; i < 16; i += 4) {  // r[i + j]: in 128-bit lane L, column 4 L + j of the rows i .. i + 3
    r[i] = lo64(t[i], t[i + 2]);
    r[i + 1] = hi64(t[i], t[i + 2]);
    r[i + 2] = lo64(t[i + 1], t[i + 3]);
    r[i + 3] = hi64(t[i + 1], t[i + 3]);
  }
  for (int j = 0; j < 4; ++j) {
    Vec even_top = _mm512_shuffle_f32x4(r[j], r[4 + j], 0x88), odd_top = _mm512_shuffle_f32x4(r[j], r[4 + j], 0xdd);
    Vec even_low = _mm512_shuffle_f32x4(r[8 + j], r[12 + j], 0x88);
    Vec odd_low = _mm512_shuffle_f32x4(r[8 + j], r[12 + j], 0xdd);
    t[j] = _mm512_shuffle_f32x4(even_top, even_low, 0x88);
    t[4 + j] = _mm512_shuffle_f32x4(odd_top, odd_low, 0x88);
    t[8 + j] = _mm512_shuffle_f32x4(even_top, even_low, 0xdd);
    t[12 + j] = _mm512_shuffle_f32x4(odd_top, odd_low, 0xdd);
  }
  for (int i = 0; i < 16; ++i) r[i] = t[i];
}

}  // namespace zenith::ZENITH_ISA
