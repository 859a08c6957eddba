// Elementary functions of a vector. The bounds were found by trying every float32 (exp) or every seventh one against
// float64, with fused multiply-add and without, and rounded up; an ulp is the distance of two float32 beside the exact
// value.
//
// Where the thread flushes subnormal numbers to zero, as XLA's threads do, so do these.
#pragma once

#include "vec.h"

namespace zenith::ZENITH_ISA {

// x = n ln 2 + r with an integral n and |r| <= ln 2 / 2, for |x| <= 104 or NaN. Returns r.
//
// Cody and Waite: ln 2 is in two parts, of which n times the first is exact.
inline Vec ReduceByLn2(Vec x, Vec* n) {
  const Vec round = Broadcast(12582912.0f);  // adding and subtracting 1.5 * 2^23 rounds to an integer
  *n = Fma(x, Broadcast(1.44269504088896341f), round) - round;
  return Fma(*n, Broadcast(2.12194440e-4f), Fma(*n, Broadcast(-0.693359375f), x));
}

// e^r for |r| <= ln 2 / 2, by a minimax polynomial with relative error 2^-28.
inline Vec ExpReduced(Vec r) {
  Vec p = Broadcast(1.382099348e-3f);
  p = Fma(p, r, Broadcast(8.368670940e-3f));
  p = Fma(p, r, Broadcast(4.166826233e-2f));
  p = Fma(p, r, Broadcast(1.666652113e-1f));
  p = Fma(p, r, Broadcast(4.999999404e-1f));
  p = Fma(p, r, Broadcast(1.0f));
  return Fma(p, r, Broadcast(1.0f));
}

// e^x. Error at most 1.18 ulp (0.91 with fused multiply-add), of a subnormal result too. inf from 88.72284 on, 0 below
// -103.98; NaN gives NaN.
inline Vec Exp(Vec x) {
  Vec n;
  const Vec r = ReduceByLn2(MinOrSecond(Broadcast(89.0f), MaxOrSecond(Broadcast(-104.0f), x)), &n);
  return MulPow2(ExpReduced(r), n);
}

// e^x for x <= 0 or NaN, as exact as Exp; below -87.33, where e^x is subnormal, 0. NaN gives NaN, -inf gives 0.
//
// Nothing is clamped, and 127 more in the number that rounds leaves the exponent of 2^n in the lowest bits: six operations
// fewer than Exp.
inline Vec ExpNonPositive(Vec x) {
  const Vec round = Broadcast(12582912.0f + 127.0f);
  const Vec biased = Fma(x, Broadcast(1.44269504088896341f), round), n = biased - round;
  const Vec r = Fma(n, Broadcast(2.12194440e-4f), Fma(n, Broadcast(-0.693359375f), x));
  return ZeroWhere(Less(x, Broadcast(-87.33654f)), ExpReduced(r) * ExponentFromLowBits(biased));
}

// The natural logarithm. Error at most 1.04 ulp, of subnormal x too. 0 and -0 give -inf, x < 0 and NaN give NaN.
//
// x = m 2^e with m in [0.75, 1.5), f = m - 1: log x = e ln 2 + f - f²/2 + f³ P(f), P minimax with error 2^-27 relative
// to log(1 + f). ln 2 is in two parts, of which e times the first is exact.
inline Vec Log(Vec x) {
  const Vec zero = Broadcast(0.0f), infinity = Broadcast(__builtin_inff());
  const Mask subnormal = Less(x, Broadcast(0x1p-126f));
  Vec e;
  const Vec m = Significand(Select(subnormal, x * Broadcast(0x1p23f), x), &e);
  e = e - Select(subnormal, Broadcast(23.0f), zero);
  const Vec f = m - Broadcast(1.0f), square = f * f;
  const Vec p0 = Fma(f, Broadcast(3.333345056e-1f), Broadcast(-0.5f));
  const Vec p2 = Fma(f, Broadcast(1.999081969e-1f), Broadcast(-2.500010431e-1f));
  const Vec p4 = Fma(f, Broadcast(1.447832137e-1f), Broadcast(-1.664699912e-1f));
  const Vec p6 = Fma(f, Broadcast(1.046887860e-1f), Broadcast(-1.316387355e-1f));
  const Vec high = Fma(Fma(Broadcast(-4.511205480e-2f), square, p6), square, p4);
  const Vec p = Fma(Fma(high, square, p2), square, p0);
  const Vec tail = Fma(p, square, e * Broadcast(-2.12194440e-4f));
  const Vec log = Fma(e, Broadcast(0.693359375f), f + tail);
  const Vec ordinary = Select(Less(x, infinity), log, x);  // inf and NaN stay
  const Vec not_positive = Select(Less(x, zero), Broadcast(__builtin_nanf("")), zero - infinity);
  return Select(LessEqual(x, zero), not_positive, ordinary);
}

// tanh x. Error at most 1.58 ulp; tanh(+-inf) = +-1, NaN gives NaN.
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

// The logistic function and its complement, 1 / (1 + e^-x) and 1 / (1 + e^x): each keeps its relative accuracy where it
// is small. NaN gives NaN.
struct Logistic {
  Vec value, complement;
};
inline Logistic LogisticPair(Vec x) {
  const Vec one = Broadcast(1.0f), e = Exp(Broadcast(0.0f) - Abs(x));
  const Vec large = one / (one + e), small = e * large;
  const Mask negative = Less(x, Broadcast(0.0f));
  return {Select(negative, small, large), Select(negative, large, small)};
}

// 1 / (1 + e^-x). Error at most 2.8 ulp.
inline Vec Sigmoid(Vec x) { return LogisticPair(x).value; }

// Φ(-a), the normal distribution's upper tail, for a >= 0 or NaN, and e^(-a²/2). Beyond 14.4 both are 0.
//
// Φ(-a) = e^(-a²/2) (1/2 + z P(z)) with z = a / (1 + 0.3 a) and P minimax with relative error 2^-28. The rounding error
// of a² is kept: without it e^(-a²/2) would lose seven bits in the far tail.
struct NormalTail {
  Vec tail, gaussian;
};
inline NormalTail UpperTail(Vec a) {
  a = MinOrSecond(Broadcast(14.4f), a);
  const Vec square = a * a, error = ProductError(a, a, square), minus_half = Broadcast(-0.5f);
  Vec n, r = ReduceByLn2(square * minus_half, &n);
  const Vec gaussian = MulPow2(ExpReduced(Fma(error, minus_half, r)), n);
  const Vec z = a / Fma(a, Broadcast(0.3f), Broadcast(1.0f));
  // Neighbours in pairs: Horner's rule would be a chain of ten.
  const Vec z2 = z * z, z4 = z2 * z2;
  const Vec p0 = Fma(z, Broadcast(1.303161383e-1f), Broadcast(-3.989422023e-1f));
  const Vec p2 = Fma(z, Broadcast(-4.723452730e-4f), Broadcast(-1.887903735e-2f));
  const Vec p4 = Fma(z, Broadcast(-6.642761036e-6f), Broadcast(3.923811892e-4f));
  const Vec p6 = Fma(z, Broadcast(-9.040644727e-6f), Broadcast(1.189861177e-5f));
  const Vec p8 = Fma(z, Broadcast(-1.167363166e-7f), Broadcast(1.775099349e-6f));
  const Vec high = Fma(Fma(p8, z2, p6), z2, p4);
  const Vec p = Fma(high, z4, Fma(p2, z2, p0));
  return {Fma(p, z, Broadcast(0.5f)) * gaussian, gaussian};
}

// Φ(x), the normal distribution function (1 + erf(x / √2)) / 2. Error at most 8 ulp from -2 on, 14 from -4 on, and 66
// in the far tail, where 1 + erf keeps nothing.
inline Vec NormalCdf(Vec x) {
  const Vec tail = UpperTail(Abs(x)).tail;
  return Select(Less(x, Broadcast(0.0f)), tail, Broadcast(1.0f) - tail);
}

// erf x. Error at most 1.8 ulp. Below 1 an odd minimax polynomial, above it 1 - 2 Φ(-√2 |x|).
inline Vec Erf(Vec x) {
  const Vec a = Abs(x), square = x * x;
  const Vec large = Fma(UpperTail(a * Broadcast(1.41421356237f)).tail, Broadcast(-2.0f), Broadcast(1.0f));
  Vec p = Broadcast(7.806903159e-5f);
  p = Fma(p, square, Broadcast(-7.997853099e-4f));
  p = Fma(p, square, Broadcast(5.187162198e-3f));
  p = Fma(p, square, Broadcast(-2.685334720e-2f));
  p = Fma(p, square, Broadcast(1.128357872e-1f));
  p = Fma(p, square, Broadcast(-3.761262596e-1f));
  p = Fma(p, square, Broadcast(1.283791661e-1f));
  return Select(Less(a, Broadcast(1.0f)), Fma(p, x, x), CopySign(large, x));
}

}  // namespace zenith::ZENITH_ISA
