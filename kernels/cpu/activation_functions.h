// The activations: each gives its value and its derivative at x. A caller that drops one does not pay for it.
#pragma once

#include "activation.h"
#include "vec_math.h"

namespace zenith::ZENITH_ISA {

struct Point {
  Vec value, derivative;
};

// x Φ(x); Φ(x) + x φ(x), φ the density e^(-x²/2) / √(2π). Φ keeps its relative accuracy for negative x.
struct Gelu {
  static Point At(Vec x, Vec) {
    const NormalTail upper = UpperTail(Abs(x));
    const Vec phi = Select(Less(x, Broadcast(0.0f)), upper.tail, Broadcast(1.0f) - upper.tail);
    const Vec density = upper.gaussian * Broadcast(0.3989422804f);
    return {x * phi, Fma(x, density, phi)};
  }
};

// (1 + tanh u) / 2 is the logistic function s of y = 2 u: x s(y); s + x s (1 - s) y'.
struct GeluTanh {
  static Point At(Vec x, Vec) {
    const Vec two_root = Broadcast(1.5957691216f), cubic = Broadcast(0.044715f), one = Broadcast(1.0f);
    const Vec square = x * x;
    const Logistic s = LogisticPair(two_root * x * Fma(square, cubic, one));
    const Vec slope = two_root * Fma(square, Broadcast(3 * 0.044715f), one);
    return {x * s.value, Fma(x * (s.value * s.complement), slope, s.value)};
  }
};

struct Silu {
  static Point At(Vec x, Vec slope) {
    const Vec y = slope * x;
    const Logistic s = LogisticPair(y);
    return {x * s.value, Fma(y * s.complement, s.value, s.value)};
  }
};

struct Sigmoidal {
  static Point At(Vec x, Vec slope) {
    const Logistic s = LogisticPair(slope * x);
    return {s.value, slope * (s.value * s.complement)};
  }
};

struct Relu {
  static Point At(Vec x, Vec) {
    const Vec zero = Broadcast(0.0f);
    return {Select(Less(x, zero), zero, x), Select(Less(zero, x), Broadcast(1.0f), zero)};
  }
};

// Calls f with the activation `kind`.
template <class F>
inline void WithActivation(ActivationKind kind, F f) {
  switch (kind) {
    case ActivationKind::kGelu: return f(Gelu{});
    case ActivationKind::kGeluTanh: return f(GeluTanh{});
    case ActivationKind::kSilu: return f(Silu{});
    case ActivationKind::kSigmoid: return f(Sigmoidal{});
    case ActivationKind::kRelu: return f(Relu{});
  }
}

}  // namespace zenith::ZENITH_ISA
