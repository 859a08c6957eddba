// What happens to the sums of a matrix product before they are stored: a program of steps (matmul_problem.h), applied
// to a tile of sums while it is in the cache.
#pragma once

#include "activation_functions.h"
#include "matmul_pack.h"
#include "vec_math.h"

namespace zenith::ZENITH_ISA {

// A tile of sums in float32, and which rows and columns of the result it is.
struct SumTile {
  float* sums;
  int64_t width;  // from row to row
  int64_t p, row, rows, col, cols;
};

// sums = f(sums, row, column) for each vector.
template <class F>
inline void ForEachVec(const SumTile& tile, F f) {
  for (int64_t r = 0; r < tile.rows; ++r) {
    for (int64_t c = 0; c < tile.cols; c += kWidth) {
      float* at = tile.sums + r * tile.width + c;
      Store(at, f(Load(at), r, c));
    }
  }
}

// sums = f(sums, m), m the elements of the modifier at the same place.
template <class F>
inline void WithModifier(const SumTile& tile, const MatmulOperand& modifier, F f) {
  const RowPlaces rows(modifier.row, tile.row, tile.rows);
  const ColPlaces cols(modifier.col, tile.col, tile.cols);
  WithFloat(modifier.dtype, [&](auto element) {
    using Element = decltype(element);
    auto* from = static_cast<const typename Element::Storage*>(modifier.data) + modifier.parallel.Offset(tile.p);
    ForEachVec(tile, [&](Vec x, int64_t r, int64_t c) {
      return f(x, LoadPlaces<Element>(from + rows[r], cols, c, Min(kWidth, tile.cols - c)));
    });
  });
}

template <class Activation>
inline Vec ValueOf(Vec x) {
  return Activation::At(x, Broadcast(1.0f)).value;
}

template <class Element>
inline Vec Rounded(Vec x) {
  typename Element::Storage lanes[kWidth];
  Element::StoreVec(lanes, x);
  return Element::LoadVec(lanes);
}

using ApplyStep = void (*)(const SumTile&, const MatmulProblem&, const MatmulStep&);

template <Vec (*kFunction)(Vec)>
void ApplyFunction(const SumTile& tile, const MatmulProblem&, const MatmulStep&) {
  ForEachVec(tile, [](Vec x, int64_t, int64_t) { return kFunction(x); });
}
inline void ApplyScale(const SumTile& tile, const MatmulProblem&, const MatmulStep& step) {
  ForEachVec(tile, [c = Broadcast(step.c)](Vec x, int64_t, int64_t) { return x * c; });
}
inline void ApplyOffset(const SumTile& tile, const MatmulProblem&, const MatmulStep& step) {
  ForEachVec(tile, [c = Broadcast(step.c)](Vec x, int64_t, int64_t) { return x + c; });
}
inline void ApplyMul(const SumTile& tile, const MatmulProblem& problem, const MatmulStep& step) {
  WithModifier(tile, problem.modifiers[step.modifier], [](Vec x, Vec m) { return x * m; });
}
inline void ApplyAdd(const SumTile& tile, const MatmulProblem& problem, const MatmulStep& step) {
  WithModifier(tile, problem.modifiers[step.modifier], [](Vec x, Vec m) { return x + m; });
}

// In the order of MatmulOp.
constexpr ApplyStep kApply[kMatmulOps] = {
    ApplyScale,
    ApplyOffset,
    ApplyMul,
    ApplyAdd,
    ApplyFunction<ValueOf<Relu>>,
    ApplyFunction<Tanh>,
    ApplyFunction<Sigmoid>,
    ApplyFunction<ValueOf<Silu>>,
    ApplyFunction<ValueOf<Gelu>>,
    ApplyFunction<ValueOf<GeluTanh>>,
    ApplyFunction<Rounded<Bf16>>,
    ApplyFunction<Rounded<F16>>,
};

template <class Element>
inline void StoreTile(const SumTile& tile, const MatmulOperand& out) {
  auto* to = static_cast<typename Element::Storage*>(out.data) + out.parallel.Offset(tile.p);
  const RowPlaces rows(out.row, tile.row, tile.rows);
  const ColPlaces cols(out.col, tile.col, tile.cols);
  if (cols.even() && cols.step() == 1 && tile.cols % kWidth == 0) {
    for (int64_t r = 0; r < tile.rows; ++r) {
      const float* from = tile.sums + r * tile.width;
      auto* row = to + rows[r] + cols[0];
      for (int64_t c = 0; c < tile.cols; c += kWidth) Element::StoreVec(row + c, Load(from + c));
    }
    return;
  }
  for (int64_t r = 0; r < tile.rows; ++r) {
    for (int64_t c = 0; c < tile.cols; c += kWidth) {
      StorePlaces<Element>(to + rows[r], cols, c, Min(kWidth, tile.cols - c), Load(tile.sums + r * tile.width + c));
    }
  }
}

// Applies the steps and writes the tile to its place in the result.
inline void Finish(const MatmulProblem& problem, const SumTile& tile) {
  for (int i = 0; i < problem.n_steps; ++i) {
    const MatmulStep& step = problem.steps[i];
    kApply[static_cast<int>(step.op)](tile, problem, step);
  }
  WithFloat(problem.out.dtype, [&](auto element) { StoreTile<decltype(element)>(tile, problem.out); });
}

}  // namespace zenith::ZENITH_ISA
