// Elementary functions of a vector. The bounds were found by trying every float32 against float64, on every instruction
// set; an ulp is the distance of two float32 beside the exact value.
//
// Where the thread flushes subnormal numbers to zero, as XLA's threads do, so do these.
#pragma once

#include "vec.h"

namespace zenith::ZENITH_ISA {

// e^x = p 2^n with p in [0.70, 1.42], for |x| <= 104 or NaN.
//
// Cody and Waite: x = n ln 2 + r with |r| <= ln 2 / 2, ln 2 in two parts so that r is exact to float32, and for e^r a
// minimax polynomial, whose relative error is 2^-28.
inline Vec ExpSignificand(Vec x, Vec* n) {
  const Vec round = Broadcast(12582912.0f);  // adding and subtracting 1.5 * 2^23 rounds to an integer
  *n = Fma(x, Broadcast(1.44269504088896341f), round) - round;
  Vec r = Fma(*n, Broadcast(-0.693359375f), x);
  r = Fma(*n, Broadcast(2.12194440e-4f), r);
  Vec p = Broadcast(1.382099348e-3f);
  p = Fma(p, r, Broadcast(8.368670940e-3f));
  p = Fma(p, r, Broadcast(4.166826233e-2f));
  p = Fma(p, r, Broadcast(1.666652113e-1f));
  p = Fma(p, r, Broadcast(4.999999404e-1f));
  p = Fma(p, r, Broadcast(1.0f));
  return Fma(p, r, Broadcast(1.0f));
}

// e^x. Error at most 1.16 ulp (0.88 with fused multiply-add), of a subnormal result too. inf from 88.72284 on, 0 below
// -103.98; NaN gives NaN.
inline Vec Exp(Vec x) {
  Vec n;
  const Vec p = ExpSignificand(MinOrSecond(Broadcast(89.0f), MaxOrSecond(Broadcast(-104.0f), x)), &n);
  return MulPow2(p, n);
}

// e^x for x <= 0 or NaN, as exact as Exp; below -87.33, where e^x is subnormal, 0. NaN gives NaN, -inf gives 0.
inline Vec ExpNonPositive(Vec x) {
  const Vec lowest = Broadcast(-87.33654f);  // ln(FLT_MIN)
  Vec n;
  const Vec p = ExpSignificand(MaxOrSecond(lowest, x), &n);
  return Select(Less(x, lowest), Broadcast(0.0f), p * Pow2(n));
}

// The natural logarithm. Error at most 0.95 ulp, of subnormal x too. 0 and -0 give -inf, x < 0 and NaN give NaN.
//
// x = m 2^e with m in [0.75, 1.5), f = m - 1: log x = e ln 2 + f - f²/2 + f³ P(f), P minimax with error 2^-27 relative to
// log(1 + f). ln 2 is in two parts, of which e times the first is exact.
inline Vec Log(Vec x) {
  const Vec zero = Broadcast(0.0f), infinity = Broadcast(__builtin_inff());
  const Mask subnormal = Less(x, Broadcast(0x1p-126f));
  Vec e;
  const Vec m = Significand(Select(subnormal, x * Broadcast(0x1p23f), x), &e);
  e = e - Select(subnormal, Broadcast(23.0f), zero);
  const Vec f = m - Broadcast(1.0f), square = f * f;
  Vec p = Broadcast(-4.511205480e-2f);
  p = Fma(p, f, Broadcast(1.046887860e-1f));
  p = Fma(p, f, Broadcast(-1.316387355e-1f));
  p = Fma(p, f, Broadcast(1.447832137e-1f));
  p = Fma(p, f, Broadcast(-1.664699912e-1f));
  p = Fma(p, f, Broadcast(1.999081969e-1f));
  p = Fma(p, f, Broadcast(-2.500010431e-1f));
  p = Fma(p, f, Broadcast(3.333345056e-1f));
  p = Fma(p, f, Broadcast(-0.5f));
  const Vec tail = Fma(p, square, e * Broadcast(-2.12194440e-4f));
  const Vec log = Fma(e, Broadcast(0.693359375f), f + tail);
  const Vec ordinary = Select(Less(x, infinity), log, x);  // inf and NaN stay
  const Vec not_positive = Select(Less(x, zero), Broadcast(__builtin_nanf("")), zero - infinity);
  return Select(LessEqual(x, zero), not_positive, ordinary);
}

// tanh x. Error at most 1.53 ulp; tanh(+-inf) = +-1, NaN gives NaN.
//
// Below 0.625 the odd polynomial of Cephes' tanhf, above it (1 - e^-2|x|) / (1 + e^-2|x|), which no longer cancels.
inline Vec Tanh(Vec x) {
  const Vec a = Abs(x), square = x * x;
  const Vec e = ExpNonPositive(Broadcast(-2.0f) * a);
  const Vec large = (Broadcast(1.0f) - e) / (Broadcast(1.0f) + e);
  Vec p = Broadcast(-5.70498872745e-3f);
  p = Fma(p, square, Broadcast(2.06390887954e-2f));
  p = Fma(p, square, Broadcast(-5.37397155531e-2f));
  p = Fma(p, square, Broadcast(1.33314422036e-1f));
  p = Fma(p, square, Broadcast(-3.33332819422e-1f));
  const Vec small = Fma(p * square, x, x);
  return Select(Less(a, Broadcast(0.625f)), small, CopySign(large, x));
}

}  // namespace zenith::ZENITH_ISA
