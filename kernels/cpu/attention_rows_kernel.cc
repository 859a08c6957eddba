// Softmax attention of few queries over many keys, as in decoding, compiled once per instruction set.
//
// It takes as long as reading K and V, so these stream by in place, once for all rows that share them: the queries of
// one position, and of all heads of its group. The lanes lie along the features: a logit is a dot product whose lanes
// are added up last, sixteen keys at a time, and out += p[s] v[s] has the output along the lanes. The softmax is online
// over blocks of keys, as in attention_kernel.cc; between the products the lanes lie along the keys.
//
// Where there are fewer rows than work for many threads, chunks of keys have their own maximum m, sum l and output o
// (Flash-Decoding, Tri Dao et al., 2023):
//   M = max_c m_c;  out = sum_c o_c exp(m_c - M) / sum_c l_c exp(m_c - M)
#include "attention_rows.h"

#include "attention_program.h"
#include "attention_tile.h"
#include "elements.h"
#include "vec_math.h"

namespace zenith::ZENITH_ISA {
namespace {

constexpr int64_t kMostQueries = 8;  // from here on the queries fill the lanes of attention_kernel.cc well enough
constexpr int64_t kKeysPerQuery = 8;  // with fewer keys what is done once a row takes longer than the keys
constexpr int64_t kRowsPerItem = 32;
constexpr int64_t kKeysPerBlock = 512;
constexpr int64_t kKeysPerSum = 32;  // long sums are sums of sums, and so many rows of V stay in the first-level cache
constexpr int64_t kKeysPerChunk = 1024, kManyItems = 64;
constexpr int kKeysAtOnce = 4;
constexpr int64_t kLineBytes = 64, kKeysAhead = 16;
constexpr int kAccumulators = kWidth == 16 ? 16 : 8;

int64_t Padded(int64_t extent) { return CeilDiv(extent, kWidth) * kWidth; }

template <class Element>
Vec LoadUpTo(const typename Element::Storage* p, int64_t live) {
  return live >= kWidth ? Element::LoadVec(p) : Element::LoadFirst(p, live);
}

// Rows of K and V that lie apart are on a page each, where the processor does not fetch ahead by itself: the row
// kKeysAhead keys on is asked for while this one is read.
template <class T>
void FetchAhead(const T* row, int64_t stride, int64_t count) {
  const auto ahead = reinterpret_cast<uintptr_t>(row) + kKeysAhead * stride * sizeof(T);
  for (uintptr_t byte = 0; byte < count * sizeof(T); byte += kLineBytes) {
    __builtin_prefetch(reinterpret_cast<const void*>(ahead + byte));
  }
}

// The number of rows that are worked on together, 4, 2 or 1, as a constant.
template <class F>
void ForRows(int64_t rows, F f) {
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) f(r, Constant<4>{});
  for (; r + 2 <= rows; r += 2) f(r, Constant<2>{});
  for (; r < rows; ++r) f(r, Constant<1>{});
}

// x[m][i] = sum_d q[m][d] k[i][d] for i < kWidth; the keys from `live` on are the last one again. The `first` of the
// rows fetch ahead for all.
template <class Element, int M>
void Dots(const typename Element::Storage* k, int64_t stride, int64_t live, int64_t depth, const float* q, float* x,
          bool first) {
  const int64_t q_row = Padded(depth);
  Vec dots[M][kWidth];
  for (int i = 0; i < kWidth; i += kKeysAtOnce) {
    const typename Element::Storage* key[kKeysAtOnce];
    Vec sum[M][kKeysAtOnce];
    for (int j = 0; j < kKeysAtOnce; ++j) {
      key[j] = k + Min(i + j, live - 1) * stride;
      if (first) FetchAhead(key[j], stride, depth);
      for (int m = 0; m < M; ++m) sum[m][j] = Broadcast(0.0f);
    }
    auto add = [&](int64_t d, auto load) {
      for (int j = 0; j < kKeysAtOnce; ++j) {
        const Vec features = load(key[j] + d);
        for (int m = 0; m < M; ++m) sum[m][j] = Fma(Load(q + m * q_row + d), features, sum[m][j]);
      }
    };
    int64_t d = 0;
    for (; d + kWidth <= depth; d += kWidth) add(d, [](auto* p) { return Element::LoadVec(p); });
    if (d < depth) add(d, [&](auto* p) { return Element::LoadFirst(p, depth - d); });
    for (int m = 0; m < M; ++m) {
      for (int j = 0; j < kKeysAtOnce; ++j) dots[m][i + j] = sum[m][j];
    }
  }
  for (int m = 0; m < M; ++m) {
    Transpose(dots[m]);
    for (int half = kWidth / 2; half > 0; half /= 2) {
      for (int i = 0; i < half; ++i) dots[m][i] = dots[m][i] + dots[m][i + half];
    }
    Store(x + m * kKeysPerBlock, dots[m][0]);
  }
}

// out[m][e] += sum_s p[m][s] v[s][e] for the columns from e on, N vectors at a time, then half as many.
template <class Element, int M, int N>
void AddColumns(const typename Element::Storage* v, int64_t stride, int64_t keys, const float* p, int64_t e, int64_t E,
                float* out, bool first) {
  for (; N == 1 ? e < E : e + N * kWidth <= E; e += N * kWidth) {
    Vec sum[M][N];
    for (int m = 0; m < M; ++m) {
      for (int n = 0; n < N; ++n) sum[m][n] = Broadcast(0.0f);
    }
    for (int64_t s = 0; s < keys; ++s) {
      if (first) FetchAhead(v + s * stride + e, stride, N == 1 ? Min(kWidth, E - e) : N * kWidth);
      for (int n = 0; n < N; ++n) {
        const auto* at = v + s * stride + e + n * kWidth;
        const Vec values = N == 1 ? LoadUpTo<Element>(at, E - e) : Element::LoadVec(at);
        for (int m = 0; m < M; ++m) sum[m][n] = Fma(Broadcast(p[m * kKeysPerBlock + s]), values, sum[m][n]);
      }
    }
    for (int m = 0; m < M; ++m) {
      for (int n = 0; n < N; ++n) {
        float* to = out + m * Padded(E) + e + n * kWidth;
        Store(to, Load(to) + sum[m][n]);
      }
    }
  }
  if constexpr (N > 1) AddColumns<Element, M, N / 2>(v, stride, keys, p, e, E, out, first);
}

// Parallel axes along which K and V are the same.
bool IsShared(const AttentionProblem& problem, int axis) {
  return problem.k.parallel[axis] == 0 && problem.v.parallel[axis] == 0;
}

// Query t of one position.
struct Row {
  ParallelIndex index;
  int64_t t;
};
Row RowOf(const AttentionProblem& problem, int64_t group, int64_t row) {
  Row result{{}, row % problem.T};
  row /= problem.T;
  for (int i = problem.n_parallel - 1; i >= 0; --i) {
    int64_t& from = IsShared(problem, i) ? row : group;
    result.index.at[i] = from % problem.dims[i];
    from /= problem.dims[i];
  }
  return result;
}

// What is known of a tile of rows after some of the keys.
struct Partial {
  float* out;  // [rows, Padded(E)], not yet divided by the sum
  float* max;  // [rows]
  float* sum;  // [rows]
};
int64_t PartialFloats(const AttentionProblem& problem, int64_t rows) { return rows * (Padded(problem.E) + 2); }
Partial PartialAt(const AttentionProblem& problem, int64_t rows, float* floats) {
  float* const max = floats + rows * Padded(problem.E);
  return {floats, max, max + rows};
}

// While all logits are -inf, 0 stands in for their maximum: -inf - -inf would be NaN.
float Subtrahend(float max) { return max == -kInfinity ? 0.0f : max; }

float ExpNonPositive(float x) {
  float lanes[kWidth];
  Store(lanes, ZENITH_ISA::ExpNonPositive(Broadcast(x)));
  return lanes[0];
}

class RowTile {
 public:
  RowTile(const AttentionProblem& problem, const AttentionRowsPlan& plan, int64_t tile) : problem_(problem) {
    const int64_t group = tile / plan.row_tiles, first = tile % plan.row_tiles * plan.tile_rows;
    n_rows_ = Min(plan.tile_rows, plan.rows - first);
    for (int64_t r = 0; r < n_rows_; ++r) rows_[r] = RowOf(problem, group, first + r);
  }

  static int64_t ScratchFloats(const AttentionProblem& problem, int64_t rows) {
    return PartialFloats(problem, rows) + rows * (Padded(problem.D) + kKeysPerBlock) + kKeysPerBlock;
  }

  // The keys s0 .. s1.
  void Run(int64_t s0, int64_t s1, Partial partial, float* scratch) {
    partial_ = partial;
    x_ = scratch;
    modifier_ = x_ + n_rows_ * kKeysPerBlock;
    q_ = modifier_ + kKeysPerBlock;
    Begin(s0);
    for (; s0 < s1; s0 += kKeysPerBlock) {
      const int64_t keys = Min(kKeysPerBlock, s1 - s0);
      MultiplyKeys(s0, keys);
      for (int64_t r = 0; r < n_rows_; ++r) {
        RunSteps(0, problem_.n_logit_steps, r, s0, keys);
        Softmax(r, keys);
        RunSteps(problem_.n_logit_steps, problem_.n_steps, r, s0, keys);
      }
      AddValues(s0, keys);
    }
  }

  // into = both
  void Combine(Partial into, Partial other) {
    for (int64_t r = 0; r < n_rows_; ++r) {
      const float max = into.max[r] < other.max[r] ? other.max[r] : into.max[r], from = Subtrahend(max);
      const float decay = ExpNonPositive(into.max[r] - from), other_decay = ExpNonPositive(other.max[r] - from);
      into.max[r] = max;
      into.sum[r] = into.sum[r] * decay + other.sum[r] * other_decay;
      for (int64_t e = 0; e < Padded(problem_.E); e += kWidth) {
        float* out = into.out + r * Padded(problem_.E) + e;
        const Vec added = Load(other.out + r * Padded(problem_.E) + e) * Broadcast(other_decay);
        Store(out, Fma(Load(out), Broadcast(decay), added));
      }
    }
  }

  void Finish(Partial partial) {
    const Operand& out = problem_.out;
    WithFloat(out.dtype, [&](auto element) {
      using Element = decltype(element);
      for (int64_t r = 0; r < n_rows_; ++r) {
        const Vec inverse = Broadcast(1.0f / partial.sum[r]);
        auto* to = static_cast<typename Element::Storage*>(out.data) + Offset(out, r) + rows_[r].t * out.row;
        for (int64_t e = 0; e < problem_.E; e += kWidth) {
          const Vec x = Load(partial.out + r * Padded(problem_.E) + e) * inverse;
          StoreSome<Element>(to + e * out.col, out.col, Min(kWidth, problem_.E - e), x);
        }
      }
    });
  }

 private:
  int64_t Offset(const Operand& operand, int64_t r) const {
    return operand.Offset(rows_[r].index, problem_.n_parallel);
  }

  void Begin(int64_t s0) {
    const Operand& q = problem_.q;
    for (int64_t r = 0; r < n_rows_; ++r) {
      float* row = q_ + r * Padded(problem_.D);
      CopyRows(ViewAt(q, Offset(q, r) + rows_[r].t * q.row), 1, problem_.D, row);
      for (int64_t d = problem_.D; d < Padded(problem_.D); ++d) row[d] = 0.0f;
      partial_.max[r] = -kInfinity;
      partial_.sum[r] = 0.0f;
    }
    for (int64_t i = 0; i < n_rows_ * Padded(problem_.E); ++i) partial_.out[i] = 0.0f;
    if (s0 > 0) return;
    for (int i = problem_.n_logit_steps; i < problem_.n_steps; ++i) {
      if (problem_.steps[i].op == Opcode::kSink) LoadSink(problem_.modifiers[problem_.steps[i].modifier]);
    }
  }

  // The first chunk begins as if it had seen one key already, whose logit is the sink and whose value is 0.
  void LoadSink(const Operand& sink) {
    for (int64_t r = 0; r < n_rows_; ++r) {
      float logit;
      CopyRows(ViewAt(sink, Offset(sink, r) + rows_[r].t * sink.row), 1, 1, &logit);
      partial_.sum[r] = logit == -kInfinity ? 0.0f : logit - logit + 1.0f;  // NaN where the formula has NaN
      partial_.max[r] = logit == logit ? logit : -kInfinity;
    }
  }

  // x = q K^T
  void MultiplyKeys(int64_t s0, int64_t keys) {
    const Operand& k = problem_.k;
    WithFloat(k.dtype, [&](auto element) {
      using Element = decltype(element);
      auto* from = static_cast<const typename Element::Storage*>(k.data) + Offset(k, 0) + s0 * k.row;
      for (int64_t s = 0; s < keys; s += kWidth) {
        ForRows(n_rows_, [&](int64_t r, auto rows) {
          Dots<Element, decltype(rows)::value>(from + s * k.row, k.row, Min(kWidth, keys - s), problem_.D,
                                               q_ + r * Padded(problem_.D), x_ + r * kKeysPerBlock + s, r == 0);
        });
      }
    });
  }

  // The steps of attention_program.h have the queries along the lanes. With t and s exchanged, these are the keys.
  void RunSteps(int first, int end, int64_t r, int64_t s0, int64_t keys) {
    const LogitTile tile{x_ + r * kKeysPerBlock, rows_[r].t, 1, s0, keys, Padded(keys)};
    for (int i = first; i < end; ++i) {
      Step step = problem_.steps[i];
      Operand modifier{};
      if (step.modifier >= 0) {
        modifier = problem_.modifiers[step.modifier];
        modifier.row = problem_.modifiers[step.modifier].col;
        modifier.col = problem_.modifiers[step.modifier].row;
      }
      step.lo = -problem_.steps[i].hi;
      step.hi = -problem_.steps[i].lo;
      RunStep(step, modifier, Offset(modifier, r), tile, modifier_);
    }
  }

  // x = exp(x - max), with the new max; the sum and the output follow it.
  void Softmax(int64_t r, int64_t keys) {
    float* const x = x_ + r * kKeysPerBlock;
    for (int64_t s = keys; s < Padded(keys); ++s) x[s] = -kInfinity;
    Vec max = Broadcast(partial_.max[r]), sum = Broadcast(0.0f);
    for (int64_t s = 0; s < keys; s += kWidth) max = MaxOrSecond(Load(x + s), max);  // NaN is passed over
    const float old = partial_.max[r], now = MaxLanes(max), from = Subtrahend(now);
    for (int64_t s = 0; s < keys; s += kWidth) {
      const Vec p = ZENITH_ISA::ExpNonPositive(Load(x + s) - Broadcast(from));
      Store(x + s, p);
      sum = sum + p;
    }
    partial_.max[r] = now;
    const float decay = ExpNonPositive(old - from);
    partial_.sum[r] = partial_.sum[r] * decay + SumLanes(sum);
    if (decay == 1.0f) return;
    float* const out = partial_.out + r * Padded(problem_.E);
    for (int64_t e = 0; e < problem_.E; e += kWidth) Store(out + e, Load(out + e) * Broadcast(decay));
  }

  // out += x V
  void AddValues(int64_t s0, int64_t keys) {
    const Operand& v = problem_.v;
    WithFloat(v.dtype, [&](auto element) {
      using Element = decltype(element);
      auto* from = static_cast<const typename Element::Storage*>(v.data) + Offset(v, 0) + s0 * v.row;
      for (int64_t s = 0; s < keys; s += kKeysPerSum) {
        ForRows(n_rows_, [&](int64_t r, auto rows) {
          constexpr int M = decltype(rows)::value, N = kAccumulators / M > 8 ? 8 : kAccumulators / M;
          AddColumns<Element, M, N>(from + s * v.row, v.row, Min(kKeysPerSum, keys - s), x_ + r * kKeysPerBlock + s, 0,
                                    problem_.E, partial_.out + r * Padded(problem_.E), r == 0);
        });
      }
    });
  }

  const AttentionProblem& problem_;
  Row rows_[kRowsPerItem];
  int64_t n_rows_;
  Partial partial_{};
  float* x_ = nullptr;         // [rows, kKeysPerBlock], the logits, then the probabilities
  float* modifier_ = nullptr;  // [kKeysPerBlock]
  float* q_ = nullptr;         // [rows, Padded(D)]
};

// Few queries, features that are neighbours, and most keys inside the bands. Left to attention_kernel.cc: steps that
// replace probabilities, and residuals, whose maximum is that of the logits as a backward makes them again.
bool Takes(const AttentionProblem& problem) {
  if (problem.T < 1 || problem.T > kMostQueries || problem.maximum != nullptr) return false;
  if (problem.S < kKeysPerQuery * problem.T) return false;
  if (problem.k.col != 1 || problem.v.col != 1) return false;
  for (int i = problem.n_logit_steps; i < problem.n_steps; ++i) {
    if (problem.steps[i].op == Opcode::kPostSelect) return false;
  }
  const KeyRange inside = InsideBands(problem, TrailingFills(problem), 0, problem.S, 0, problem.T);
  return 4 * (inside.end - inside.begin) >= problem.S;
}

AttentionRowsPlan Plan(const AttentionProblem& problem) {
  AttentionRowsPlan plan{};
  plan.rows = problem.T;
  int64_t groups = 1;
  for (int i = 0; i < problem.n_parallel; ++i) (IsShared(problem, i) ? plan.rows : groups) *= problem.dims[i];
  if (problem.count == 0) return plan;
  plan.row_tiles = CeilDiv(plan.rows, kRowsPerItem);
  plan.tile_rows = CeilDiv(plan.rows, plan.row_tiles);  // tiles of about the same size
  plan.tiles = groups * plan.row_tiles;
  const int64_t wanted = plan.tiles >= kManyItems ? 1 : CeilDiv(kManyItems, plan.tiles);
  const int64_t chunks = Min(wanted, CeilDiv(problem.S, kKeysPerChunk));
  plan.chunk_keys = CeilDiv(CeilDiv(problem.S, chunks), kKeysPerSum) * kKeysPerSum;
  plan.chunks = CeilDiv(problem.S, plan.chunk_keys);
  plan.items = plan.tiles * plan.chunks;
  plan.partial_floats = plan.chunks == 1 ? 0 : plan.items * PartialFloats(problem, plan.tile_rows);
  plan.scratch_floats = RowTile::ScratchFloats(problem, plan.tile_rows);
  return plan;
}

void Run(const AttentionProblem& problem, const AttentionRowsPlan& plan, int64_t item, float* partials,
         float* scratch) {
  const int64_t floats = PartialFloats(problem, plan.tile_rows), s0 = item % plan.chunks * plan.chunk_keys;
  const bool alone = plan.chunks == 1;
  const Partial partial = PartialAt(problem, plan.tile_rows, alone ? scratch : partials + item * floats);
  RowTile tile(problem, plan, item / plan.chunks);
  tile.Run(s0, Min(s0 + plan.chunk_keys, problem.S), partial, scratch + floats);
  if (alone) tile.Finish(partial);
}

void Combine(const AttentionProblem& problem, const AttentionRowsPlan& plan, int64_t tile, float* partials) {
  const int64_t floats = PartialFloats(problem, plan.tile_rows);
  auto chunk = [&](int64_t c) {
    return PartialAt(problem, plan.tile_rows, partials + (tile * plan.chunks + c) * floats);
  };
  RowTile rows(problem, plan, tile);
  for (int64_t c = 1; c < plan.chunks; ++c) rows.Combine(chunk(0), chunk(c));
  rows.Finish(chunk(0));
}

}  // namespace

const AttentionRowsKernel kAttentionRows = {Takes, Plan, Run, Combine};

}  // namespace zenith::ZENITH_ISA
