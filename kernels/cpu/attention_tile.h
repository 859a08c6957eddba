// What the forward and the backward of attention have in common: how a tile of logits is made, and when none is needed.
#pragma once

#include "attention.h"
#include "attention_program.h"
#include "elements.h"
#include "matmul.h"

namespace zenith::ZENITH_ISA {

// Long sums are sums of sums: rounding errors grow with the number of terms, and equal terms all round the same way.
constexpr int64_t kDepthPerSum = 256;
static_assert(kVecsPerTile == 3, "WithWidth() has a case for each number of vectors");
constexpr int64_t kPanelLanes = kVecsPerTile * kWidth;

constexpr float kInfinity = __builtin_inff();

inline int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <int N>
struct Constant {
  static constexpr int value = N;
};

// Calls f with the number of vectors, 1 to kVecsPerTile, as a constant.
template <class F>
inline void WithWidth(int64_t vecs, F f) {
  switch (vecs) {
    case 1: return f(Constant<1>{});
    case 2: return f(Constant<2>{});
    case 3: return f(Constant<3>{});
  }
}

inline Matrix ViewAt(const Operand& operand, int64_t offset) {
  return {static_cast<const char*>(operand.data) + offset * ElementBytes(operand.dtype), operand.dtype, operand.row,
          operand.col};
}

// The place of number `position` of `problem.count`.
inline ParallelIndex IndexOf(const AttentionProblem& problem, int64_t position) {
  ParallelIndex index{};
  for (int i = problem.n_parallel - 1; i >= 0; --i) {
    index.at[i] = position % problem.dims[i];
    position /= problem.dims[i];
  }
  return index;
}

// Where K or V is read where it lies, and where a block of it is copied first, once for all panels of queries.
constexpr int kPanelsPerCopy = 4;  // from here on a copy in the order in which it is read pays

inline bool InPlace(const Operand& operand, int64_t cols, int panels) {
  const bool compact = operand.col == 1 && operand.row == cols;
  return operand.dtype == Dtype::kF32 && (panels == 1 || (compact && panels < kPanelsPerCopy));
}

// The keys s0 .. s0 + keys of an operand, as a matrix [keys, cols] or, `turned`, [cols, keys]: in place or copied to
// `copy`. `held` is the first key of the block that the copy holds, -1 at first.
inline Lhs KeyBlock(const Operand& operand, int64_t offset, int64_t s0, int64_t keys, int64_t cols, bool turned,
                    int panels, float* copy, int64_t* held) {
  Matrix view = ViewAt(operand, offset + s0 * operand.row);
  if (turned) view = {view.data, view.dtype, view.col, view.row};
  if (InPlace(operand, cols, panels)) return Strided(static_cast<const float*>(view.data), view.row, view.col);
  const int64_t rows = turned ? cols : keys, depth = turned ? keys : cols;
  if (*held != s0) PackTiles(view, rows, depth, copy);
  *held = s0;
  return {copy, 1, kRowsPerTile, kRowsPerTile * depth};
}

// x[keys, lanes] = scale * A(keys, depth) B[depth, lanes].
template <int NV>
inline void Product(const Lhs& a, const float* b, int64_t keys, int64_t depth, float scale, float* x) {
  const Vec factor = Broadcast(scale);
  int64_t d = 0;
  do {
    const Lhs part{a.data + d * a.col, a.row, a.col, a.tile};
    Matmul<NV>(part, b + d * NV * kWidth, keys, Min(kDepthPerSum, depth - d), x, [&](float* to, int, Vec sum) {
      Store(to, d == 0 ? sum * factor : Fma(sum, factor, Load(to)));
    });
  } while ((d += kDepthPerSum) < depth);  // once for depth 0: the sums are 0
}

// Whether the steps begin with a SCALE, which `Product` applies on the way.
inline bool BeginsWithScale(const AttentionProblem& problem) {
  return problem.n_logit_steps > 0 && problem.steps[0].op == Opcode::kScale;
}
inline float LeadingScale(const AttentionProblem& problem) {
  return BeginsWithScale(problem) ? problem.steps[0].c : 1.0f;
}

// The trailing steps that only replace logits (BAND, SELECT): a logit outside one of their bands ends as one of their
// fills, whatever it was.
struct Fills {
  int first;      // step
  float largest;  // fill, +inf where there is a NaN
};
inline Fills TrailingFills(const AttentionProblem& problem) {
  Fills fills{problem.n_logit_steps, -kInfinity};
  while (fills.first > 0) {
    const Step& step = problem.steps[fills.first - 1];
    if (step.op != Opcode::kBand && step.op != Opcode::kSelect) break;
    if (!(step.c <= fills.largest)) fills.largest = step.c == step.c ? step.c : kInfinity;
    --fills.first;
  }
  return fills;
}

// The keys of s0 .. s0 + keys that a query may look at, as far as bands say: the others end as fills. In steps that
// all kinds of tiles can take; empty where begin == end.
struct KeyRange {
  int64_t begin, end;  // relative to s0
};
inline KeyRange InsideBands(const AttentionProblem& problem, const Fills& fills, int64_t s0, int64_t keys, int64_t t0,
                            int64_t queries) {
  int64_t begin = 0, end = keys;
  for (int i = fills.first; i < problem.n_logit_steps; ++i) {
    const Step& step = problem.steps[i];
    if (step.op != Opcode::kBand) continue;
    const int64_t first = t0 + step.lo - s0, last = t0 + queries - 1 + step.hi - s0;
    if (first > begin) begin = first;
    end = Min(end, last + 1);
    if (step.hi < step.lo) end = begin;
  }
  if (begin >= end) return {0, 0};
  constexpr int64_t kStep = kHasTiles ? 32 : kWidth;
  return {begin / kStep * kStep, Min(CeilDiv(end, kStep) * kStep, keys)};
}

// Whether exp(fill - max) is 0 in float32 for each query.
inline bool FillsUnderflow(const Fills& fills, const float* max, int64_t queries) {
  for (int64_t i = 0; i < queries; ++i) {
    if (!(max[i] > fills.largest + 110.0f)) return false;
  }
  return true;
}

}  // namespace zenith::ZENITH_ISA
