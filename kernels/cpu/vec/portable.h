// GCC and Clang vector extensions: four floats (SSE2, NEON, VSX, or scalar code).
#pragma once

#include <cstdint>

namespace zenith::ZENITH_ISA {

typedef float Vec __attribute__((vector_size(16)));
typedef int32_t Mask __attribute__((vector_size(16)));
typedef uint32_t Bits __attribute__((vector_size(16)));
constexpr int kWidth = 4;
constexpr int kRowsPerTile = 4;
constexpr int kVecsPerTile = 3;

inline Vec Load(const float* p) {
  Vec x;
  __builtin_memcpy(&x, p, sizeof x);
  return x;
}
inline void Store(float* p, Vec x) { __builtin_memcpy(p, &x, sizeof x); }
inline Vec LoadFirst(const float* p, int64_t n) {
  Vec x = {};
  __builtin_memcpy(&x, p, n * sizeof *p);
  return x;
}
inline void StoreFirst(float* p, int64_t n, Vec x) { __builtin_memcpy(p, &x, n * sizeof *p); }
inline void StoreFirstHalf(float* p, Vec x) { __builtin_memcpy(p, &x, sizeof x / 2); }
inline void StoreHalves(float* first, float* second, Vec x) {
  __builtin_memcpy(first, &x, sizeof x / 2);
  __builtin_memcpy(second, reinterpret_cast<const char*>(&x) + sizeof x / 2, sizeof x / 2);
}
inline Vec Broadcast(float x) { return Vec{x, x, x, x}; }
inline Vec Iota() { return Vec{0, 1, 2, 3}; }
inline Vec Fma(Vec a, Vec b, Vec c) { return a * b + c; }
// Dekker: halves of 12 bits multiply exactly.
inline Vec ProductError(Vec a, Vec b, Vec product) {
  const Vec a_high = (Vec)((Mask)a & ~0xfff), b_high = (Vec)((Mask)b & ~0xfff);
  const Vec a_low = a - a_high, b_low = b - b_high;
  return a_low * b_low - ((product - a_high * b_high) - a_low * b_high - a_high * b_low);
}
inline Vec Select(Mask m, Vec if_true, Vec if_false) { return (Vec)((m & (Mask)if_true) | (~m & (Mask)if_false)); }
inline Vec MaxOrSecond(Vec a, Vec b) { return Select(a > b, a, b); }
inline Vec MinOrSecond(Vec a, Vec b) { return Select(a < b, a, b); }
inline Vec Abs(Vec x) { return (Vec)((Mask)x & 0x7fffffff); }
inline Vec CopySign(Vec magnitude, Vec sign) {
  return (Vec)(((Mask)magnitude & 0x7fffffff) | ((Mask)sign & ~0x7fffffff));
}
inline float SumLanes(Vec x) { return (x[0] + x[2]) + (x[1] + x[3]); }
inline float MaxLanes(Vec x) {
  const float a = x[0] > x[2] ? x[0] : x[2], b = x[1] > x[3] ? x[1] : x[3];
  return a > b ? a : b;
}
inline Mask Less(Vec a, Vec b) { return a < b; }
inline Mask LessEqual(Vec a, Vec b) { return a <= b; }
inline Mask And(Mask a, Mask b) { return a & b; }
inline Vec Pow2(Vec n) { return (Vec)((Mask)(n + Broadcast(12582912.0f + 127.0f)) << 23); }
inline Vec MulPow2(Vec x, Vec n) {
  const Vec round = Broadcast(12582912.0f), half = (n * Broadcast(0.5f) + round) - round;
  return x * Pow2(half) * Pow2(n - half);
}
inline Vec Significand(Vec x, Vec* e) {
  // Bits wrap around; the shift keeps the sign.
  const Mask exponent = (Mask)((Bits)x - 0x3f400000u) >> 23;  // 0.75
  *e = __builtin_convertvector(exponent, Vec);
  return (Vec)((Bits)x - ((Bits)exponent << 23));
}
inline Vec ZeroWhere(Mask m, Vec x) { return (Vec)(~m & (Mask)x); }
inline Vec ExponentFromLowBits(Vec x) { return (Vec)((Mask)x << 23); }

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
  *first = Vec{a[0], b[0], a[1], b[1]};
  *second = Vec{a[2], b[2], a[3], b[3]};
}
inline void Deinterleave(Vec first, Vec second, Vec* a, Vec* b) {
  *a = Vec{first[0], first[2], second[0], second[2]};
  *b = Vec{first[1], first[3], second[1], second[3]};
}

inline void Transpose(Vec r[kWidth]) {
  Vec t[4];
  for (int i = 0; i < 4; ++i) t[i] = Vec{r[0][i], r[1][i], r[2][i], r[3][i]};
  for (int i = 0; i < 4; ++i) r[i] = t[i];
}

}  // namespace zenith::ZENITH_ISA
