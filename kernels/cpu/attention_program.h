// The steps between the logits and the softmax, and between the softmax and the values, run on one tile at a time.
#pragma once

#include "attention.h"
#include "elements.h"
#include "vec_math.h"

namespace zenith::ZENITH_ISA {

// Logits x[s, t] of the keys s0 .. s0 + keys and the queries t0 .. t0 + queries, the queries padded to `lanes`.
struct LogitTile {
  float* x;  // [keys, lanes]
  int64_t s0, keys;
  int64_t t0, queries, lanes;
};

template <class F>
inline void ForEach(const LogitTile& tile, F f) {
  for (int64_t i = 0; i < tile.keys * tile.lanes; i += kWidth) Store(tile.x + i, f(Load(tile.x + i)));
}

// Calls f(x, m) with the modifier of each logit, read into `scratch` [keys, lanes] as float32 first.
template <class F>
inline void ForEachWith(const LogitTile& tile, const Operand& modifier, int64_t offset, float* scratch, F f) {
  offset += tile.t0 * modifier.row + tile.s0 * modifier.col;
  Matrix view{static_cast<const char*>(modifier.data) + offset * ElementBytes(modifier.dtype), modifier.dtype, modifier.row, modifier.col};
  if (modifier.row == 0) {  // one number a key
    CopyRows(view, 1, tile.keys, scratch);
    for (int64_t s = 0; s < tile.keys; ++s) {
      const Vec m = Broadcast(scratch[s]);
      float* x = tile.x + s * tile.lanes;
      for (int64_t lane = 0; lane < tile.lanes; lane += kWidth) Store(x + lane, f(Load(x + lane), m));
    }
    return;
  }
  // One row serves every key where the modifier does not depend on the key.
  CopyTransposed(view, tile.queries, modifier.col == 0 ? 1 : tile.keys, scratch, tile.lanes);
  const int64_t next_key = modifier.col == 0 ? 0 : tile.lanes;
  for (int64_t s = 0; s < tile.keys; ++s) {
    float* x = tile.x + s * tile.lanes;
    for (int64_t lane = 0; lane < tile.lanes; lane += kWidth) {
      Store(x + lane, f(Load(x + lane), Load(scratch + s * next_key + lane)));
    }
  }
}

// Whether every logit of the tile is inside the band, or every one outside it.
struct BandCover {
  bool all, none;
};
inline BandCover Cover(int64_t lo, int64_t hi, int64_t s0, int64_t keys, int64_t t0, int64_t queries) {
  const int64_t least = s0 - (t0 + queries - 1), most = s0 + keys - 1 - t0;  // of s - t
  return {lo <= least && most <= hi, most < lo || hi < least};
}

// Calls f(x, inside) for each logit. s - t is s - t0 - lane, so a key's band is an interval of lanes.
template <class F>
inline void ForEachInBand(const LogitTile& tile, int64_t lo, int64_t hi, F f) {
  auto clamp = [&](int64_t lane) { return static_cast<float>(lane < -1 ? -1 : lane > tile.lanes ? tile.lanes : lane); };
  for (int64_t s = 0; s < tile.keys; ++s) {
    const int64_t distance = tile.s0 + s - tile.t0;
    const Vec first = Broadcast(clamp(distance - hi)), last = Broadcast(clamp(distance - lo));
    float* x = tile.x + s * tile.lanes;
    for (int64_t lane = 0; lane < tile.lanes; lane += kWidth) {
      const Vec here = Iota() + Broadcast(static_cast<float>(lane));
      Store(x + lane, f(Load(x + lane), And(LessEqual(first, here), LessEqual(here, last))));
    }
  }
}

// `offset` is where the position begins in the modifier.
inline void RunStep(const Step& step, const Operand& modifier, int64_t offset, const LogitTile& tile, float* scratch) {
  const Vec c = Broadcast(step.c), zero = Broadcast(0.0f);
  auto with_modifier = [&](auto f) { ForEachWith(tile, modifier, offset, scratch, f); };
  auto in_band = [&](auto f) {
    if (Cover(step.lo, step.hi, tile.s0, tile.keys, tile.t0, tile.queries).all) return;
    ForEachInBand(tile, step.lo, step.hi, f);
  };
  switch (step.op) {
    case Opcode::kScale: return ForEach(tile, [&](Vec x) { return x * c; });
    case Opcode::kOffset: return ForEach(tile, [&](Vec x) { return x + c; });
    case Opcode::kMax:  // NaN on either side stays NaN
      return ForEach(tile, [&](Vec x) { return step.c == step.c ? MaxOrSecond(c, x) : c; });
    case Opcode::kTanh: return ForEach(tile, [&](Vec x) { return Tanh(x); });
    case Opcode::kMul:
    case Opcode::kPostMul: return with_modifier([&](Vec x, Vec m) { return x * m; });
    case Opcode::kAdd: return with_modifier([&](Vec x, Vec m) { return x + m; });
    case Opcode::kSelect:
    case Opcode::kPostSelect: return with_modifier([&](Vec x, Vec m) { return Select(Less(zero, m), x, c); });
    case Opcode::kSelectAdd: return with_modifier([&](Vec x, Vec m) { return x + Select(Less(zero, m), zero, c); });
    case Opcode::kBand: return in_band([&](Vec x, Mask inside) { return Select(inside, x, c); });
    case Opcode::kBandAdd: return in_band([&](Vec x, Mask inside) { return x + Select(inside, zero, c); });
    case Opcode::kSink: return;  // part of the normaliser, not of a tile
  }
}

inline void RunStep(const AttentionProblem& problem, const ParallelIndex& index, const Step& step,
                    const LogitTile& tile, float* scratch) {
  const Operand modifier = step.modifier < 0 ? Operand{} : problem.modifiers[step.modifier];
  RunStep(step, modifier, modifier.Offset(index, problem.n_parallel), tile, scratch);
}

}  // namespace zenith::ZENITH_ISA
