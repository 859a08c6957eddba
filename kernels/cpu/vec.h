// One vector of float32 and the few operations the kernels need, for each instruction set. Every intrinsic of the
// project is in this file.
//
// A source that includes it is compiled once per instruction set, with that set's compiler flags and with ZENITH_ISA
// naming the namespace its symbols live in. The flags choose the section below. Such sources use no standard-library
// templates: the linker keeps one copy of those, and it could be the one that needs AVX-512.
//
// GCC and Clang give +, -, * and / on the register types themselves.
#pragma once

#include <cstdint>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#ifndef ZENITH_ISA
#error "compile with -DZENITH_ISA=portable, avx2 or avx512"
#endif

namespace zenith::ZENITH_ISA {

#if defined(__AVX512F__)  // with BW, DQ and VL; 32 registers of 16 floats

using Vec = __m512;
using Mask = __mmask16;
constexpr int kWidth = 16;
constexpr int kRowsPerTile = 8;  // a register tile of 8 x 3 accumulators leaves 8 registers for the operands
constexpr int kVecsPerTile = 3;

inline Vec Load(const float* p) { return _mm512_loadu_ps(p); }
inline void Store(float* p, Vec x) { _mm512_storeu_ps(p, x); }
inline Vec Broadcast(float x) { return _mm512_set1_ps(x); }
inline Vec Iota() { return _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15); }
inline Vec Fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
// max(a, b), and b where either is NaN.
inline Vec MaxOrSecond(Vec a, Vec b) { return _mm512_max_ps(a, b); }
inline Vec Abs(Vec x) { return _mm512_abs_ps(x); }
inline Vec CopySign(Vec magnitude, Vec sign) {
  return _mm512_or_ps(_mm512_andnot_ps(Broadcast(-0.0f), magnitude), _mm512_and_ps(Broadcast(-0.0f), sign));
}
inline Mask Less(Vec a, Vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
inline Mask LessEqual(Vec a, Vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ); }
inline Mask And(Mask a, Mask b) { return a & b; }
inline Vec Select(Mask m, Vec if_true, Vec if_false) { return _mm512_mask_blend_ps(m, if_false, if_true); }
// 2^n for an integral n in [-126, 127]. Adding 1.5 * 2^23 + 127 leaves n + 127 in the lowest bits of the significand.
inline Vec Pow2(Vec n) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(n + Broadcast(12582912.0f + 127.0f)), 23));
}

inline Vec LoadBf16(const uint16_t* p) {
  __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}
inline Vec LoadF16(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline Vec LoadPred(const uint8_t* p) {
  __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return Select(_mm_test_epi8_mask(bytes, bytes), Broadcast(1.0f), Broadcast(0.0f));
}
inline void StoreBf16(uint16_t* p, Vec x) {
  __m512i bits = _mm512_castps_si512(x);
  __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
  rounded = _mm512_mask_blend_epi32(_mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), rounded, quiet);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
}
inline void StoreF16(uint16_t* p, Vec x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

inline void Transpose(Vec r[kWidth]) {
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

#elif defined(__AVX2__)  // with FMA and F16C; 16 registers of 8 floats

using Vec = __m256;
using Mask = __m256;
constexpr int kWidth = 8;
constexpr int kRowsPerTile = 4;  // 4 x 3 accumulators and 4 operands fill the 16 registers
constexpr int kVecsPerTile = 3;

inline Vec Load(const float* p) { return _mm256_loadu_ps(p); }
inline void Store(float* p, Vec x) { _mm256_storeu_ps(p, x); }
inline Vec Broadcast(float x) { return _mm256_set1_ps(x); }
inline Vec Iota() { return _mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7); }
inline Vec Fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
inline Vec MaxOrSecond(Vec a, Vec b) { return _mm256_max_ps(a, b); }
inline Vec Abs(Vec x) { return _mm256_andnot_ps(Broadcast(-0.0f), x); }
inline Vec CopySign(Vec magnitude, Vec sign) {
  return _mm256_or_ps(_mm256_andnot_ps(Broadcast(-0.0f), magnitude), _mm256_and_ps(Broadcast(-0.0f), sign));
}
inline Mask Less(Vec a, Vec b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
inline Mask LessEqual(Vec a, Vec b) { return _mm256_cmp_ps(a, b, _CMP_LE_OQ); }
inline Mask And(Mask a, Mask b) { return _mm256_and_ps(a, b); }
inline Vec Select(Mask m, Vec if_true, Vec if_false) { return _mm256_blendv_ps(if_false, if_true, m); }
inline Vec Pow2(Vec n) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(n + Broadcast(12582912.0f + 127.0f)), 23));
}

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

inline void Transpose(Vec r[kWidth]) {
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

#else  // portable: GCC and Clang vector extensions, four floats (SSE2, NEON, VSX, or scalar code)

typedef float Vec __attribute__((vector_size(16)));
typedef int32_t Mask __attribute__((vector_size(16)));
constexpr int kWidth = 4;
constexpr int kRowsPerTile = 4;
constexpr int kVecsPerTile = 3;

inline Vec Load(const float* p) {
  Vec x;
  __builtin_memcpy(&x, p, sizeof x);
  return x;
}
inline void Store(float* p, Vec x) { __builtin_memcpy(p, &x, sizeof x); }
inline Vec Broadcast(float x) { return Vec{x, x, x, x}; }
inline Vec Iota() { return Vec{0, 1, 2, 3}; }
inline Vec Fma(Vec a, Vec b, Vec c) { return a * b + c; }
inline Vec Select(Mask m, Vec if_true, Vec if_false) { return (Vec)((m & (Mask)if_true) | (~m & (Mask)if_false)); }
inline Vec MaxOrSecond(Vec a, Vec b) { return Select(a > b, a, b); }
inline Vec Abs(Vec x) { return (Vec)((Mask)x & 0x7fffffff); }
inline Vec CopySign(Vec magnitude, Vec sign) {
  return (Vec)(((Mask)magnitude & 0x7fffffff) | ((Mask)sign & ~0x7fffffff));
}
inline Mask Less(Vec a, Vec b) { return a < b; }
inline Mask LessEqual(Vec a, Vec b) { return a <= b; }
inline Mask And(Mask a, Mask b) { return a & b; }
inline Vec Pow2(Vec n) { return (Vec)((Mask)(n + Broadcast(12582912.0f + 127.0f)) << 23); }

inline float FromBits(uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
}
inline uint32_t ToBits(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return bits;
}
inline float F16ToF32(uint16_t h) {
  uint32_t sign = uint32_t{h & 0x8000u} << 16, exponent = (h >> 10) & 31u, significand = h & 0x3ffu;
  if (exponent == 0) return FromBits(sign | ToBits(static_cast<float>(significand) * 0x1p-24f));
  return FromBits(sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | significand << 13);
}
inline uint16_t F32ToF16(float x) {
  uint32_t bits = ToBits(x), sign = (bits >> 16) & 0x8000u;
  bits &= 0x7fffffffu;
  if (bits > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u | ((bits >> 13) & 0x1ffu));
  if (bits >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // rounds to 65536 or more
  if (bits < 0x38800000u) {  // subnormal: adding 0.5 puts the last place of f16 at the last place of f32
    return static_cast<uint16_t>(sign | (ToBits(FromBits(bits) + 0.5f) - 0x3f000000u));
  }
  return static_cast<uint16_t>(sign | ((bits - 0x38000000u + 0xfffu + ((bits >> 13) & 1u)) >> 13));
}
inline uint16_t F32ToBf16(float x) {
  uint32_t bits = ToBits(x);
  if (x != x) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

inline Vec LoadBf16(const uint16_t* p) {
  return Vec{FromBits(uint32_t{p[0]} << 16), FromBits(uint32_t{p[1]} << 16), FromBits(uint32_t{p[2]} << 16),
             FromBits(uint32_t{p[3]} << 16)};
}
inline Vec LoadF16(const uint16_t* p) { return Vec{F16ToF32(p[0]), F16ToF32(p[1]), F16ToF32(p[2]), F16ToF32(p[3])}; }
inline Vec LoadPred(const uint8_t* p) { return Vec{p[0] ? 1.f : 0.f, p[1] ? 1.f : 0.f, p[2] ? 1.f : 0.f, p[3] ? 1.f : 0.f}; }
inline void StoreBf16(uint16_t* p, Vec x) {
  for (int i = 0; i < 4; ++i) p[i] = F32ToBf16(x[i]);
}
inline void StoreF16(uint16_t* p, Vec x) {
  for (int i = 0; i < 4; ++i) p[i] = F32ToF16(x[i]);
}

inline void Transpose(Vec r[kWidth]) {
  Vec t[4];
  for (int i = 0; i < 4; ++i) t[i] = Vec{r[0][i], r[1][i], r[2][i], r[3][i]};
  for (int i = 0; i < 4; ++i) r[i] = t[i];
}

#endif

}  // namespace zenith::ZENITH_ISA
