// exp and tanh of a vector. The bounds were found by trying every float32 against float64.
#pragma once

#include "vec.h"

namespace zenith::ZENITH_ISA {

// e^x for x <= 0 or NaN. Error at most 1.02 ulp; below -87.33, where e^x is subnormal, 0. NaN gives NaN, -inf gives 0.
//
// Cody and Waite: x = n ln 2 + r with |r| <= ln 2 / 2, ln 2 in two parts so that r is exact to float32, and e^r by the
// minimax polynomial of Cephes' expf.
inline Vec ExpNonPositive(Vec x) {
  const Vec lowest = Broadcast(-87.33654f);  // ln(FLT_MIN)
  const Vec round = Broadcast(12582912.0f);  // adding and subtracting 1.5 * 2^23 rounds to an integer
  const Vec clamped = MaxOrSecond(lowest, x);
  const Vec n = Fma(clamped, Broadcast(1.44269504088896341f), round) - round;
  Vec r = Fma(n, Broadcast(-0.693359375f), clamped);
  r = Fma(n, Broadcast(2.12194440e-4f), r);
  Vec p = Broadcast(1.9875691500e-4f);
  p = Fma(p, r, Broadcast(1.3981999507e-3f));
  p = Fma(p, r, Broadcast(8.3334519073e-3f));
  p = Fma(p, r, Broadcast(4.1665795894e-2f));
  p = Fma(p, r, Broadcast(1.6666665459e-1f));
  p = Fma(p, r, Broadcast(5.0000001201e-1f));
  p = Fma(p * r, r, r) + Broadcast(1.0f);
  return Select(Less(x, lowest), Broadcast(0.0f), p * Pow2(n));
}

// tanh x. Error at most 1.51 ulp; tanh(+-inf) = +-1, NaN gives NaN.
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
