// Softmax attention in one sweep over the keys, compiled once per instruction set.
//
// Tri Dao et al., FlashAttention, 2022; the online softmax is Milakov and Gimelshein's, 2018. The queries lie along the
// vector lanes: a tile of logits is x[s, t], K and V are read in place one broadcast element at a time, and the row
// maximum and sum need no reduction across lanes.
//
// For each block of keys and each panel of queries:
//   x = program(K Q^T);  m' = max(m, max_s x);  x = exp(x - m');  l = l exp(m - m') + sum_s x;
//   O^T = O^T exp(m - m') + V^T x;  m = m'
// and at the end out = (O^T)^T / l.
//
// Where all operands and the result are bfloat16 and the processor has tiles for them, both products are made of these
// (attention_pairs.h).
#include "attention.h"

#include "attention_pairs.h"
#include "attention_program.h"
#include "attention_tile.h"
#include "elements.h"
#include "matmul.h"
#include "vec_math.h"

namespace zenith::ZENITH_ISA {
namespace {

constexpr int64_t kKeysPerBlock = 128;
// Long sums are sums of sums, as in attention_tile.h.
constexpr int64_t kKeysPerSum = 16;
constexpr int64_t kMaxPanels = 12;                  // per item
constexpr int64_t kPanelBytesInCache = 512 * 1024;  // Q^T and O^T of an item stay in the second-level cache

// What a step after the normaliser does when p is not yet divided by the sum: multiplying and zeroing commute with the
// division, another constant does not.
bool NeedsNormalised(const AttentionProblem& problem) {
  for (int i = problem.n_logit_steps; i < problem.n_steps; ++i) {
    if (problem.steps[i].op == Opcode::kPostSelect && problem.steps[i].c != 0.0f) return true;
  }
  return false;
}

// Whether a step after the normaliser replaces probabilities.
bool Selects(const AttentionProblem& problem) {
  for (int i = problem.n_logit_steps; i < problem.n_steps; ++i) {
    if (problem.steps[i].op == Opcode::kPostSelect) return true;
  }
  return false;
}

// Whether V^T x is made of tiles, and whether K Q^T is: with both, or where a backward makes it of tiles again.
bool ValuesInTiles(const AttentionProblem& problem) {
  return LogitsInTiles(problem) && problem.v.dtype == Dtype::kBf16 && problem.out.dtype == Dtype::kBf16;
}
bool AnyInTiles(const AttentionProblem& problem) {
  return problem.maximum == nullptr ? ValuesInTiles(problem) : LogitsInTiles(problem);
}

int64_t PanelLanes(const AttentionProblem& problem) { return AnyInTiles(problem) ? kPairLanes : kPanelLanes; }

// Rows of O^T and columns of K and V, with room for the padding of either kind of product.
int64_t Padded(int64_t extent) { return CeilDiv(extent, kPairDepth) * kPairDepth; }

// One panel of queries, at most kPanelLanes of them.
struct Panel {
  int64_t t0, queries, lanes;
  float* q;    // [D, lanes]
  float* out;  // [E, lanes]
  float* max;  // [lanes]
  float* sum;  // [lanes]
};

enum class Pass {
  kOnline,         // all at once
  kStatistics,     // only max and sum ...
  kProbabilities,  // ... and then with the normalised probabilities
};

class Item {
 public:
  Item(const AttentionProblem& problem, const AttentionPlan& plan, int64_t item, float* scratch)
      : problem_(problem),
        tiles_(AnyInTiles(problem)),
        value_tiles_(ValuesInTiles(problem)),
        fills_(TrailingFills(problem)),
        position_(item / plan.tiles),
        index_(IndexOf(problem, position_)) {
    x_ = scratch;
    modifier_ = x_ + kKeysPerBlock * kPanelLanes;
    k_block_ = modifier_ + kKeysPerBlock * kPanelLanes;
    v_block_ = k_block_ + kKeysPerBlock * Padded(problem.D);
    float* next = v_block_ + kKeysPerBlock * Padded(problem.E);

    const int64_t begin = (item % plan.tiles) * plan.queries, end = Min(begin + plan.queries, problem.T);
    const int64_t at_most = PanelLanes(problem);
    for (int64_t t = begin; t < end; t += at_most) {
      Panel& panel = panels_[n_panels_++];
      panel.t0 = t;
      panel.queries = Min(at_most, end - t);
      panel.lanes = CeilDiv(panel.queries, kWidth) * kWidth;
      panel.q = next;
      panel.out = panel.q + Padded(problem.D) * panel.lanes;
      panel.max = panel.out + Padded(problem.E) * panel.lanes;
      panel.sum = panel.max + panel.lanes;
      next = panel.sum + panel.lanes;
    }
  }

  static int64_t ScratchFloats(const AttentionProblem& problem, int64_t panels) {
    return kKeysPerBlock * (2 * kPanelLanes + Padded(problem.D) + Padded(problem.E)) +
           panels * PanelFloats(problem);
  }

  static int64_t PanelFloats(const AttentionProblem& problem) {
    return (Padded(problem.D) + Padded(problem.E) + 2) * kPanelLanes;
  }

  void Run() {
    if (tiles_) ConfigureTiles();
    for (int i = 0; i < n_panels_; ++i) Load(panels_[i]);
    normalised_ = NeedsNormalised(problem_);
    Sweep(normalised_ ? Pass::kStatistics : Pass::kOnline);
    if (!normalised_ && Selects(problem_) && AnyRowWithoutSum()) {
      // The probabilities of such a row are NaN, and a step after the normaliser may put 0 in the place of each.
      normalised_ = true;
      for (int i = 0; i < n_panels_; ++i) {
        for (int64_t j = 0; j < Padded(problem_.E) * panels_[i].lanes; ++j) panels_[i].out[j] = 0.0f;
      }
    }
    if (normalised_) Sweep(Pass::kProbabilities);
    for (int i = 0; i < n_panels_; ++i) Finish(panels_[i]);
    if (tiles_) ReleaseTiles();
  }

 private:
  void Load(Panel& panel) {
    const Operand& q = problem_.q;
    Matrix view = ViewAt(q, q.Offset(index_, problem_.n_parallel) + panel.t0 * q.row);
    LoadQueries(panel, view);
    for (int64_t i = 0; i < Padded(problem_.E) * panel.lanes; ++i) panel.out[i] = 0.0f;
    for (int64_t i = 0; i < panel.lanes; ++i) panel.max[i] = -kInfinity;
    for (int64_t i = 0; i < panel.lanes; ++i) panel.sum[i] = 0.0f;
    for (int i = problem_.n_logit_steps; i < problem_.n_steps; ++i) {
      if (problem_.steps[i].op == Opcode::kSink) LoadSink(panel, problem_.modifiers[problem_.steps[i].modifier]);
    }
  }

  void LoadQueries(Panel& panel, const Matrix& view) {
#if defined(__AMX_BF16__)
    if (tiles_) return PackQueries(view, panel.queries, problem_.D, panel.lanes, reinterpret_cast<uint16_t*>(panel.q));
#endif
    CopyTransposed(view, panel.queries, problem_.D, panel.q, panel.lanes);
  }

  // The sweep begins as if it had seen one key already, whose logit is the sink and whose value is 0.
  void LoadSink(Panel& panel, const Operand& sink) {
    Matrix view = ViewAt(sink, sink.Offset(index_, problem_.n_parallel) + panel.t0 * sink.row);
    CopyTransposed(view, panel.queries, 1, panel.max, panel.lanes);
    for (int64_t i = 0; i < panel.lanes; ++i) {
      const float logit = panel.max[i];
      panel.sum[i] = logit == -kInfinity ? 0.0f : logit - logit + 1.0f;  // NaN where the formula has NaN
      if (logit != logit) panel.max[i] = -kInfinity;
    }
  }

  void StoreResiduals(const Panel& panel) {
    if (problem_.maximum == nullptr) return;
    const int64_t row = position_ * problem_.T + panel.t0;
    for (int64_t i = 0; i < panel.queries; ++i) {
      problem_.maximum[row + i] = panel.max[i];
      problem_.sum[row + i] = panel.sum[i];
    }
  }

  void Finish(const Panel& panel) {
    StoreResiduals(panel);
    const bool scaled = problem_.S == 0 || normalised_;
    for (int64_t i = 0; i < panel.lanes; ++i) panel.sum[i] = scaled ? 1.0f : 1.0f / panel.sum[i];
    const Operand& out = problem_.out;
    const int64_t offset = out.Offset(index_, problem_.n_parallel) + panel.t0 * out.row;
    MutableMatrix view{static_cast<char*>(out.data) + offset * ElementBytes(out.dtype), out.dtype, out.row, out.col};
    StoreTransposed(panel.out, panel.lanes, panel.sum, panel.queries, problem_.E, view);
  }

  // Keys no query of a panel may look at come last, and only where they could count after all.
  void Sweep(Pass pass) {
    bool deferred = false;
    for (int64_t s0 = 0; s0 < problem_.S; s0 += kKeysPerBlock) {
      for (int i = 0; i < n_panels_; ++i) {
        const KeyRange inside = pass == Pass::kProbabilities ? KeyRange{0, Keys(s0)} : Inside(panels_[i], s0);
        deferred |= inside.end - inside.begin < Keys(s0);
        Process(panels_[i], s0, inside, pass);
      }
    }
    if (!deferred) return;
    const bool finite = ValuesFinite();
    for (int i = 0; i < n_panels_; ++i) {
      for (int64_t s0 = 0; s0 < problem_.S; s0 += kKeysPerBlock) {
        const KeyRange inside = Inside(panels_[i], s0);
        if (inside.end - inside.begin == Keys(s0)) continue;
        // Then the keys outside the band add 0 to the sum, and 0 to the output as long as V is finite.
        if (finite && FillsUnderflow(fills_, panels_[i].max, panels_[i].queries)) break;
        Process(panels_[i], s0, {0, inside.begin}, pass);
        Process(panels_[i], s0, {inside.end, Keys(s0)}, pass);
      }
    }
  }

  KeyRange Inside(const Panel& panel, int64_t s0) const {
    return InsideBands(problem_, fills_, s0, Keys(s0), panel.t0, panel.queries);
  }

  bool ValuesFinite() const {
    int8_t* known = problem_.values_finite + position_;
    int8_t state = __atomic_load_n(known, __ATOMIC_RELAXED);
    if (state == 0) {
      const Operand& v = problem_.v;
      const bool finite = AllFinite(ViewAt(v, v.Offset(index_, problem_.n_parallel)), problem_.S, problem_.E);
      state = finite ? 1 : 2;
      __atomic_store_n(known, state, __ATOMIC_RELAXED);
    }
    return state == 1;
  }

  bool AnyRowWithoutSum() const {
    for (int i = 0; i < n_panels_; ++i) {
      for (int64_t j = 0; j < panels_[i].queries; ++j) {
        if (!(panels_[i].sum[j] > 0.0f)) return true;
      }
    }
    return false;
  }

  int64_t Keys(int64_t s0) const { return Min(kKeysPerBlock, problem_.S - s0); }

  void Process(Panel& panel, int64_t s0, KeyRange range, Pass pass) {
    if (range.begin == range.end) return;
    WithWidth(panel.lanes / kWidth, [&](auto vecs) { ProcessLanes<decltype(vecs)::value>(panel, s0, range, pass); });
  }

  template <int NV>
  void ProcessLanes(Panel& panel, int64_t s0, KeyRange range, Pass pass) {
    const LogitTile tile{x_, s0 + range.begin, range.end - range.begin, panel.t0, panel.queries, panel.lanes};
    const float factor = Logits<NV>(panel, s0, range, tile, pass);
    if (pass == Pass::kProbabilities) {
      Normalise<NV>(panel, tile);
    } else {
      Softmax<NV>(panel, tile, factor, pass);
    }
    if (pass == Pass::kStatistics) return;
    for (int i = problem_.n_logit_steps; i < problem_.n_steps; ++i) {
      RunStep(problem_, index_, problem_.steps[i], tile, modifier_);
    }
    if (pass == Pass::kProbabilities) {
      for (int i = 0; i < kPanelLanes; ++i) decay_[i] = 1.0f;
    }
    AddValues<NV>(panel, s0, range, tile, pass);
  }

  // x = program(K Q^T), up to the factor that is returned.
  template <int NV>
  float Logits(const Panel& panel, int64_t s0, KeyRange range, const LogitTile& tile, Pass pass) {
    float factor = LeadingScale(problem_);
    MultiplyKeys<NV>(panel, s0, range, tile, &factor);
    if (factor != 1.0f && (pass == Pass::kProbabilities || !ScalesAlone(tile, factor))) {
      ForEach(tile, [&](Vec x) { return x * Broadcast(factor); });
      factor = 1.0f;
    }
    for (int i = FirstStep(); i < problem_.n_logit_steps; ++i) {
      RunStep(problem_, index_, problem_.steps[i], tile, modifier_);
    }
    return factor;
  }

  int FirstStep() const { return BeginsWithScale(problem_) ? 1 : 0; }

  // Whether multiplying the logits by `factor` may wait until they are read: nothing else happens to them, it makes
  // none of them infinite, and no backward rounds them.
  bool ScalesAlone(const LogitTile& tile, float factor) const {
    if (problem_.maximum != nullptr) return false;
    for (int i = FirstStep(); i < problem_.n_logit_steps; ++i) {
      const Step& step = problem_.steps[i];
      if (step.op != Opcode::kBand) return false;
      if (!Cover(step.lo, step.hi, tile.s0, tile.keys, tile.t0, tile.queries).all) return false;
    }
    return __builtin_fabsf(factor) <= 1.0f;
  }

  // x = factor K Q^T, or with tiles x = K Q^T and the factor left to do.
  template <int NV>
  void MultiplyKeys(const Panel& panel, int64_t s0, KeyRange range, const LogitTile& tile, float* factor) {
#if defined(__AMX_BF16__)
    if constexpr (NV <= kPairVecs) {
      if (tiles_) return MultiplyKeyTiles<NV>(panel, s0, range, tile);
    }
#endif
    const Operand& k = problem_.k;
    const int64_t offset = k.Offset(index_, problem_.n_parallel);
    Lhs lhs = KeyBlock(k, offset, s0, Keys(s0), problem_.D, false, n_panels_, k_block_, &k_held_);
    lhs.data = lhs.Row(range.begin);
    Product<NV>(lhs, panel.q, tile.keys, problem_.D, *factor, tile.x);
    *factor = 1.0f;
  }

  // Whether the probabilities are rounded for the product with V as soon as they are made: no step follows.
  bool RoundsAtOnce(Pass pass) const {
    return value_tiles_ && pass == Pass::kOnline && problem_.n_steps == problem_.n_logit_steps;
  }

  // O^T = O^T decay + V^T x
  template <int NV>
  void AddValues(Panel& panel, int64_t s0, KeyRange range, const LogitTile& tile, [[maybe_unused]] Pass pass) {
#if defined(__AMX_BF16__)
    if constexpr (NV <= kPairVecs) {
      if (value_tiles_) return AddValueTiles<NV>(panel, s0, range, tile, pass);
    }
#endif
    const Operand& v = problem_.v;
    const int64_t offset = v.Offset(index_, problem_.n_parallel);
    Lhs lhs = KeyBlock(v, offset, s0, Keys(s0), problem_.E, true, n_panels_, v_block_, &v_held_);
    lhs.data += range.begin * lhs.col;
    Vec decay[NV];
    for (int i = 0; i < NV; ++i) decay[i] = ZENITH_ISA::Load(decay_ + i * kWidth);
    Matmul<NV>(lhs, tile.x, problem_.E, tile.keys, panel.out,
               [&](float* out, int i, Vec sum) { Store(out, Fma(ZENITH_ISA::Load(out), decay[i], sum)); });
  }

#if defined(__AMX_BF16__)
  template <int NV>
  void MultiplyKeyTiles(const Panel& panel, int64_t s0, KeyRange range, const LogitTile& tile) {
    const Operand& k = problem_.k;
    const Matrix view = ViewAt(k, k.Offset(index_, problem_.n_parallel) + s0 * k.row);
    const int64_t keys = Keys(s0), D = problem_.D;
    auto* rows = static_cast<const uint16_t*>(view.data);
    int64_t row = k.row;
    if (k.col != 1 || D % kPairDepth != 0 || keys % kPairRows != 0) {
      auto* copy = reinterpret_cast<uint16_t*>(k_block_);
      row = Padded(D);
      if (k_held_ != s0) CopyPadded(view, keys, D, RoundUp(keys, kPairRows), row, copy);
      k_held_ = s0;
      rows = copy;
    }
    PairProduct<NV>(rows + range.begin * row, row, reinterpret_cast<const uint16_t*>(panel.q),
                    RoundUp(tile.keys, kPairRows), Padded(D), tile.x, false);
  }

  template <int NV>
  void AddValueTiles(Panel& panel, int64_t s0, KeyRange range, const LogitTile& tile, Pass pass) {
    const Operand& v = problem_.v;
    auto* values = reinterpret_cast<uint16_t*>(v_block_);
    auto* probabilities = reinterpret_cast<uint16_t*>(tile.x);
    const Matrix view = ViewAt(v, v.Offset(index_, problem_.n_parallel) + s0 * v.row);
    if (v_held_ != s0) PackValues(view, Keys(s0), problem_.E, kKeysPerBlock, values);
    v_held_ = s0;
    if (!RoundsAtOnce(pass)) {
      StoreProbabilities<NV>(0, tile.keys, probabilities,
                             [&](int64_t s, int i) { return ZENITH_ISA::Load(tile.x + (s * NV + i) * kWidth); });
    }
    PadProbabilities<NV>(tile.keys, probabilities);
    Decay<NV>(panel);
    PairProduct<NV>(values + range.begin, kKeysPerBlock, probabilities, Padded(problem_.E),
                    RoundUp(tile.keys, kPairDepth), panel.out, true);
  }

  // O^T = O^T decay
  template <int NV>
  void Decay(Panel& panel) {
    bool none = true;
    for (int i = 0; i < NV * kWidth; ++i) none &= decay_[i] == 1.0f;
    if (none) return;
    Vec decay[NV];
    for (int i = 0; i < NV; ++i) decay[i] = ZENITH_ISA::Load(decay_ + i * kWidth);
    for (int64_t e = 0; e < problem_.E; ++e) {
      for (int i = 0; i < NV; ++i) {
        float* out = panel.out + (e * NV + i) * kWidth;
        Store(out, ZENITH_ISA::Load(out) * decay[i]);
      }
    }
  }
#endif

  // x = exp(factor x - max), with the new max; leaves exp(old max - max) in decay_.
  template <int NV>
  void Softmax(Panel& panel, const LogitTile& tile, float factor, Pass pass) {
    const Vec scale = Broadcast(factor);
    Vec max[NV], sum[NV];
    for (int i = 0; i < NV; ++i) max[i] = ZENITH_ISA::Load(panel.max + i * kWidth);
    for (int64_t s = 0; s < tile.keys; ++s) {
      const float* x = tile.x + s * panel.lanes;
      for (int i = 0; i < NV; ++i) {
        max[i] = MaxOrSecond(ZENITH_ISA::Load(x + i * kWidth) * scale, max[i]);  // NaN is passed over
      }
    }
    for (int i = 0; i < NV; ++i) {
      const Vec old = ZENITH_ISA::Load(panel.max + i * kWidth);
      Store(panel.max + i * kWidth, max[i]);
      // While all logits are -inf, 0 stands in for their maximum: -inf - -inf would be NaN. The sum stays 0.
      max[i] = Select(Less(Broadcast(-kInfinity), max[i]), max[i], Broadcast(0.0f));
      const Vec decay = ExpNonPositive(old - max[i]);
      Store(decay_ + i * kWidth, decay);
      sum[i] = Broadcast(0.0f);
    }
    for (int64_t begin = 0; begin < tile.keys; begin += kKeysPerSum) {
      Vec part[NV];
      for (int i = 0; i < NV; ++i) part[i] = Broadcast(0.0f);
      const int64_t end = Min(begin + kKeysPerSum, tile.keys);
      auto exponential = [&](int64_t s, int i) {
        const Vec x = ZENITH_ISA::Load(tile.x + (s * NV + i) * kWidth);
        const Vec p = ExpNonPositive(Fma(x, scale, Broadcast(0.0f) - max[i]));
        part[i] = part[i] + p;
        return p;
      };
      Exponentials<NV>(begin, end, tile.x, RoundsAtOnce(pass), exponential);
      for (int i = 0; i < NV; ++i) sum[i] = sum[i] + part[i];
    }
    for (int i = 0; i < NV; ++i) {
      float* total = panel.sum + i * kWidth;
      Store(total, Fma(ZENITH_ISA::Load(total), ZENITH_ISA::Load(decay_ + i * kWidth), sum[i]));
    }
  }

  // x[s] = exponential(s, vector), as float32 or, where it `rounds`, as the right-hand side of a product of tiles.
  template <int NV, class F>
  static void Exponentials(int64_t begin, int64_t end, float* x, [[maybe_unused]] bool rounds, F exponential) {
#if defined(__AMX_BF16__)
    if constexpr (NV <= kPairVecs) {
      if (rounds) return StoreProbabilities<NV>(begin, end, reinterpret_cast<uint16_t*>(x), exponential);
    }
#endif
    for (int64_t s = begin; s < end; ++s) {
      for (int i = 0; i < NV; ++i) Store(x + (s * NV + i) * kWidth, exponential(s, i));
    }
  }

  // x = exp(x - max) / sum, with the max and sum over all keys.
  template <int NV>
  void Normalise(const Panel& panel, const LogitTile& tile) {
    for (int i = 0; i < NV; ++i) {
      const Vec max = ZENITH_ISA::Load(panel.max + i * kWidth);
      const Vec inverse = Broadcast(1.0f) / ZENITH_ISA::Load(panel.sum + i * kWidth);
      for (int64_t s = 0; s < tile.keys; ++s) {
        float* x = tile.x + s * panel.lanes + i * kWidth;
        Store(x, ExpNonPositive(ZENITH_ISA::Load(x) - max) * inverse);
      }
    }
  }

  const AttentionProblem& problem_;
  const bool tiles_, value_tiles_;  // products made of tiles of bfloat16: K Q^T, V^T x
  const Fills fills_;
  const int64_t position_;
  const ParallelIndex index_;
  Panel panels_[kMaxPanels];
  int n_panels_ = 0;
  bool normalised_ = false;  // whether the outputs are sums of probabilities that were divided by the sum
  float decay_[kPanelLanes];
  float* x_;
  float* modifier_;
  float* k_block_;
  float* v_block_;
  int64_t k_held_ = -1, v_held_ = -1;  // first key of the copied block
};

// As many panels an item as fit the cache, fewer where the threads would run out of items.
AttentionPlan Plan(const AttentionProblem& problem, int64_t threads) {
  const int64_t panel_bytes = Item::PanelFloats(problem) * static_cast<int64_t>(sizeof(float));
  int64_t panels = kPanelBytesInCache / panel_bytes;
  panels = panels < 1 ? 1 : Min(panels, kMaxPanels);
  const int64_t lanes = PanelLanes(problem), all = CeilDiv(problem.T, lanes);
  panels = Min(panels, all);
  while (panels > 1 && CeilDiv(problem.T, panels * lanes) * problem.count < 4 * threads && threads > 1) --panels;
  panels = CeilDiv(all, CeilDiv(all, panels));  // items of about the same size
  const int64_t queries = panels * lanes, tiles = CeilDiv(problem.T, queries);
  return {queries, tiles, tiles * problem.count, Item::ScratchFloats(problem, panels)};
}

void Run(const AttentionProblem& problem, const AttentionPlan& plan, int64_t item, float* scratch) {
  Item(problem, plan, item, scratch).Run();
}

}  // namespace

const AttentionKernel kAttention = {Plan, Run};

}  // namespace zenith::ZENITH_ISA
