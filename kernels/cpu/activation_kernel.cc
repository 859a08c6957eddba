// A piece of a row at a time: what is not float32, or has a bias, is first brought into a buffer of float32 that stays
// in the first-level cache, so that each activation is compiled for float32 alone.
#include "activation.h"
#include "activation_functions.h"
#include "elements.h"

namespace zenith::ZENITH_ISA {
namespace {

constexpr int64_t kPiece = 512;  // floats; five buffers of them fit in the cache with room to spare

template <class Element>
inline Vec LoadLanes(const typename Element::Storage* p, int64_t n) {
  return n == kWidth ? Element::LoadVec(p) : Element::LoadFirst(p, n);
}
template <class Element>
inline void StoreLanes(typename Element::Storage* p, int64_t n, Vec x) {
  n == kWidth ? Element::StoreVec(p, x) : Element::StoreFirst(p, n, x);
}

// f(i, n) for the vectors of a piece: n = kWidth lanes at i, the last may have fewer.
template <class F>
inline __attribute__((always_inline)) void ForVectors(int64_t count, F f) {
  int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth) f(i, kWidth);
  if (i < count) f(i, count - i);
}

// f(x, y) gives the vectors y of the outputs for the vectors x of the inputs. Four at a time, all read before any is
// written, so that the compiler can interleave their long chains of dependent operations.
template <int kIn, int kOut, class F>
inline __attribute__((always_inline)) void Map(int64_t count, const float* const (&in)[kIn], float* const (&out)[kOut],
                                               F f) {
  constexpr int kUnroll = 4;
  int64_t i = 0;
  for (; i + kUnroll * kWidth <= count; i += kUnroll * kWidth) {
    Vec x[kUnroll][kIn], y[kUnroll][kOut];
#pragma GCC unroll 4
    for (int u = 0; u < kUnroll; ++u) {
#pragma GCC unroll 4
      for (int k = 0; k < kIn; ++k) x[u][k] = Load(in[k] + i + u * kWidth);
    }
#pragma GCC unroll 4
    for (int u = 0; u < kUnroll; ++u) f(x[u], y[u]);
#pragma GCC unroll 4
    for (int u = 0; u < kUnroll; ++u) {
#pragma GCC unroll 4
      for (int k = 0; k < kOut; ++k) Store(out[k] + i + u * kWidth, y[u][k]);
    }
  }
  for (; i < count; i += kWidth) {
    const int64_t n = Min(kWidth, count - i);
    Vec x[kIn], y[kOut];
    for (int k = 0; k < kIn; ++k) x[k] = LoadLanes<F32>(in[k] + i, n);
    f(x, y);
    for (int k = 0; k < kOut; ++k) StoreLanes<F32>(out[k] + i, n, y[k]);
  }
}

template <class Element>
inline const typename Element::Storage* At(const Rows& rows, int64_t r, int64_t c) {
  return static_cast<const typename Element::Storage*>(rows.data) + r * rows.row + c;
}

// Asks for the cache lines of `bytes` from p on; nothing happens where there is no memory. A piece that is converted is
// read and written in a burst, which would otherwise wait for each of its lines.
template <int kForWriting>
inline void Prefetch(const void* p, int64_t bytes) {
  constexpr int64_t kLine = 64;
  for (int64_t i = 0; i < bytes; i += kLine) __builtin_prefetch(static_cast<const char*>(p) + i, kForWriting);
}

// `count` elements of row r from column c, in `buffer` or where they are.
inline const float* Fetch(const Rows& rows, int64_t r, int64_t c, int64_t count, float* buffer) {
  if (rows.dtype == Dtype::kF32) return At<F32>(rows, r, c);
  WithFloat(rows.dtype, [&](auto element) {
    using Element = decltype(element);
    auto* from = At<Element>(rows, r, c);
    Prefetch<0>(from + count, count * sizeof *from);  // the next piece
    ForVectors(count, [&](int64_t i, int64_t n) { StoreLanes<F32>(buffer + i, n, LoadLanes<Element>(from + i, n)); });
  });
  return buffer;
}

// The same with the bias added.
inline const float* FetchBiased(const Rows& rows, const Rows& bias, int64_t r, int64_t c, int64_t count,
                                float* buffer) {
  const float* x = Fetch(rows, r, c, count, buffer);
  if (bias.data == nullptr) return x;
  WithFloat(bias.dtype, [&](auto element) {
    using Element = decltype(element);
    auto* b = At<Element>(bias, 0, c);
    ForVectors(count, [&](int64_t i, int64_t n) {
      StoreLanes<F32>(buffer + i, n, LoadLanes<F32>(x + i, n) + LoadLanes<Element>(b + i, n));
    });
  });
  return buffer;
}

// A piece of a result: written where it belongs, or into a buffer and converted by Finish.
struct Target {
  alignas(64) float buffer[kPiece];
  float* Begin(const MutableRows& rows, int64_t r, int64_t c, int64_t count) {
    const int64_t at = r * rows.row + c;
    if (rows.dtype == Dtype::kF32) return static_cast<float*>(rows.data) + at;
    Prefetch<1>(static_cast<uint16_t*>(rows.data) + at, count * sizeof(uint16_t));
    return buffer;
  }
  void Finish(const MutableRows& rows, int64_t r, int64_t c, int64_t count) const {
    if (rows.dtype == Dtype::kF32) return;
    WithFloat(rows.dtype, [&](auto element) {
      using Element = decltype(element);
      auto* to = static_cast<typename Element::Storage*>(rows.data) + r * rows.row + c;
      ForVectors(count, [&](int64_t i, int64_t n) { StoreLanes<Element>(to + i, n, LoadLanes<F32>(buffer + i, n)); });
    });
  }
};

// f(r, c, count) for the pieces of rows r0 to r1, columns c0 to c1.
template <class F>
inline void ForPieces(int64_t r0, int64_t r1, int64_t c0, int64_t c1, F f) {
  for (int64_t r = r0; r < r1; ++r) {
    for (int64_t c = c0; c < c1; c += kPiece) f(r, c, Min(kPiece, c1 - c));
  }
}

void Forward(const ActivationProblem& p, int64_t r0, int64_t r1, int64_t c0, int64_t c1) {
  WithActivation(p.kind, [&](auto activation) {
    using Activation = decltype(activation);
    const Vec slope = Broadcast(p.slope);
    alignas(64) float x_buffer[kPiece];
    Target out;
    ForPieces(r0, r1, c0, c1, [&](int64_t r, int64_t c, int64_t count) {
      const float* x = FetchBiased(p.gate, p.gate_bias, r, c, count, x_buffer);
      float* y = out.Begin(p.out, r, c, count);
      Map(count, {x}, {y}, [&](const Vec* in, Vec* result) { result[0] = Activation::At(in[0], slope).value; });
      out.Finish(p.out, r, c, count);
    });
  });
}

void Gated(const ActivationProblem& p, int64_t r0, int64_t r1, int64_t c0, int64_t c1) {
  WithActivation(p.kind, [&](auto activation) {
    using Activation = decltype(activation);
    const Vec slope = Broadcast(p.slope);
    alignas(64) float gate_buffer[kPiece], up_buffer[kPiece];
    Target out;
    ForPieces(r0, r1, c0, c1, [&](int64_t r, int64_t c, int64_t count) {
      const float* gate = FetchBiased(p.gate, p.gate_bias, r, c, count, gate_buffer);
      const float* up = FetchBiased(p.up, p.up_bias, r, c, count, up_buffer);
      float* y = out.Begin(p.out, r, c, count);
      Map(count, {gate, up}, {y},
          [&](const Vec* in, Vec* result) { result[0] = Activation::At(in[0], slope).value * in[1]; });
      out.Finish(p.out, r, c, count);
    });
  });
}

void Vjp(const ActivationProblem& p, int64_t r0, int64_t r1, int64_t c0, int64_t c1) {
  WithActivation(p.kind, [&](auto activation) {
    using Activation = decltype(activation);
    const Vec slope = Broadcast(p.slope);
    alignas(64) float x_buffer[kPiece], g_buffer[kPiece];
    Target d_x;
    ForPieces(r0, r1, c0, c1, [&](int64_t r, int64_t c, int64_t count) {
      const float* x = FetchBiased(p.gate, p.gate_bias, r, c, count, x_buffer);
      const float* g = Fetch(p.cotangent, r, c, count, g_buffer);
      float* dx = d_x.Begin(p.d_gate, r, c, count);
      Map(count, {x, g}, {dx},
          [&](const Vec* in, Vec* result) { result[0] = Activation::At(in[0], slope).derivative * in[1]; });
      d_x.Finish(p.d_gate, r, c, count);
    });
  });
}

void GatedVjp(const ActivationProblem& p, int64_t r0, int64_t r1, int64_t c0, int64_t c1) {
  WithActivation(p.kind, [&](auto activation) {
    using Activation = decltype(activation);
    const Vec slope = Broadcast(p.slope);
    alignas(64) float gate_buffer[kPiece], up_buffer[kPiece], g_buffer[kPiece];
    Target d_gate, d_up;
    ForPieces(r0, r1, c0, c1, [&](int64_t r, int64_t c, int64_t count) {
      const float* gate = FetchBiased(p.gate, p.gate_bias, r, c, count, gate_buffer);
      const float* up = FetchBiased(p.up, p.up_bias, r, c, count, up_buffer);
      const float* g = Fetch(p.cotangent, r, c, count, g_buffer);
      float* dgate = d_gate.Begin(p.d_gate, r, c, count);
      float* dup = d_up.Begin(p.d_up, r, c, count);
      Map(count, {gate, up, g}, {dgate, dup}, [&](const Vec* in, Vec* result) {
        const Point a = Activation::At(in[0], slope);
        result[0] = in[2] * in[1] * a.derivative;
        result[1] = in[2] * a.value;
      });
      d_gate.Finish(p.d_gate, r, c, count);
      d_up.Finish(p.d_up, r, c, count);
    });
  });
}

}  // namespace

const ActivationKernel kActivation = {Forward, Gated, Vjp, GatedVjp};

}  // namespace zenith::ZENITH_ISA
