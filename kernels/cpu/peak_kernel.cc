// Chains of multiply-adds that do not wait for one another, compiled once per instruction set.
#include "peak.h"

#include "vec.h"

namespace zenith::ZENITH_ISA {
namespace {

constexpr int kChains = 12;  // more than the latency of two multipliers needs, fewer than any set has registers

// Takes the chains as if somebody read them: unread, they would not be computed.
inline void Read(Vec chain[kChains]) { asm volatile("" : : "r"(chain) : "memory"); }

double Float32(int64_t rounds) {
  Vec chain[kChains];
  const Vec factor = Broadcast(0.5f), term = Broadcast(1.0f);
  for (Vec& x : chain) x = Broadcast(1.0f);
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) chain[c] = Fma(chain[c], factor, term);
  }
  Read(chain);
  return 2.0 * kWidth * kChains * static_cast<double>(rounds);
}

#if defined(__AMX_BF16__)
double Bfloat16(int64_t rounds) {
  ConfigureTiles();
  const double flops = MultiplyTiles(rounds);
  ReleaseTiles();
  return flops;
}
#elif defined(__AVX512BF16__)
double Bfloat16(int64_t rounds) {
  Vec chain[kChains];
  const uint16_t one[2 * kWidth] = {};
  Pairs pairs = LoadPairs(one);
  for (Vec& x : chain) x = Broadcast(1.0f);
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) chain[c] = FmaPairs(pairs, pairs, chain[c]);
  }
  Read(chain);
  return 4.0 * kWidth * kChains * static_cast<double>(rounds);
}
#else
double Bfloat16(int64_t) { return 0; }
#endif

}  // namespace

const Peak kPeak = {Float32, Bfloat16};

}  // namespace zenith::ZENITH_ISA
