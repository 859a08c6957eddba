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
#include "attention.h"

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
constexpr int64_t kMaxPanels = 8;                   // per item
constexpr int64_t kPanelBytesInCache = 256 * 1024;  // Q^T and O^T of an item stay in the second-level cache

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
      : problem_(problem), fills_(TrailingFills(problem)), position_(item / plan.tiles), index_(IndexOf(problem, position_)) {
    x_ = scratch;
    modifier_ = x_ + kKeysPerBlock * kPanelLanes;
    k_block_ = modifier_ + kKeysPerBlock * kPanelLanes;
    v_block_ = k_block_ + kKeysPerBlock * problem.D;
    float* next = v_block_ + kKeysPerBlock * problem.E;

    const int64_t begin = (item % plan.tiles) * plan.queries, end = Min(begin + plan.queries, problem.T);
    for (int64_t t = begin; t < end; t += kPanelLanes) {
      Panel& panel = panels_[n_panels_++];
      panel.t0 = t;
      panel.queries = Min(kPanelLanes, end - t);
      panel.lanes = CeilDiv(panel.queries, kWidth) * kWidth;
      panel.q = next;
      panel.out = panel.q + problem.D * panel.lanes;
      panel.max = panel.out + problem.E * panel.lanes;
      panel.sum = panel.max + panel.lanes;
      next = panel.sum + panel.lanes;
    }
  }

  static int64_t ScratchFloats(const AttentionProblem& problem, int64_t panels) {
    int64_t per_panel = (problem.D + problem.E + 2) * kPanelLanes;
    return kKeysPerBlock * (2 * kPanelLanes + problem.D + problem.E) + panels * per_panel;
  }

  void Run() {
    for (int i = 0; i < n_panels_; ++i) Load(panels_[i]);
    normalised_ = NeedsNormalised(problem_);
    Sweep(normalised_ ? Pass::kStatistics : Pass::kOnline);
    if (!normalised_ && Selects(problem_) && AnyRowWithoutSum()) {
      // The probabilities of such a row are NaN, and a step after the normaliser may put 0 in the place of each.
      normalised_ = true;
      for (int i = 0; i < n_panels_; ++i) {
        for (int64_t j = 0; j < problem_.E * panels_[i].lanes; ++j) panels_[i].out[j] = 0.0f;
      }
    }
    if (normalised_) Sweep(Pass::kProbabilities);
    for (int i = 0; i < n_panels_; ++i) Finish(panels_[i]);
  }

 private:
  void Load(Panel& panel) {
    const Operand& q = problem_.q;
    Matrix view = ViewAt(q, q.Offset(index_, problem_.n_parallel) + panel.t0 * q.row);
    CopyTransposed(view, panel.queries, problem_.D, panel.q, panel.lanes);
    for (int64_t i = 0; i < problem_.E * panel.lanes; ++i) panel.out[i] = 0.0f;
    for (int64_t i = 0; i < panel.lanes; ++i) panel.max[i] = -kInfinity;
    for (int64_t i = 0; i < panel.lanes; ++i) panel.sum[i] = 0.0f;
    for (int i = problem_.n_logit_steps; i < problem_.n_steps; ++i) {
      if (problem_.steps[i].op == Opcode::kSink) LoadSink(panel, problem_.modifiers[problem_.steps[i].modifier]);
    }
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

  // Blocks no query of a panel may look at come last, and only where they could count after all.
  void Sweep(Pass pass) {
    bool deferred = false;
    for (int64_t s0 = 0; s0 < problem_.S; s0 += kKeysPerBlock) {
      for (int i = 0; i < n_panels_; ++i) {
        const bool skip = pass != Pass::kProbabilities && OutsideBand(panels_[i], s0);
        if (skip) deferred = true;
        else Process(panels_[i], s0, pass);
      }
    }
    if (!deferred) return;
    const bool finite = ValuesFinite();
    for (int i = 0; i < n_panels_; ++i) {
      for (int64_t s0 = 0; s0 < problem_.S; s0 += kKeysPerBlock) {
        if (!OutsideBand(panels_[i], s0)) continue;
        // Then the blocks outside the band add 0 to the sum, and 0 to the output as long as V is finite.
        if (finite && FillsUnderflow(fills_, panels_[i].max, panels_[i].queries)) break;
        Process(panels_[i], s0, pass);
      }
    }
  }

  bool OutsideBand(const Panel& panel, int64_t s0) const {
    return ZENITH_ISA::OutsideBand(problem_, fills_, s0, Keys(s0), panel.t0, panel.queries);
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

  Floats Block(const Operand& operand, int64_t s0, int64_t cols, float* copy, int64_t* held) {
    const int64_t offset = operand.Offset(index_, problem_.n_parallel);
    return KeyBlock(operand, offset, s0, Keys(s0), cols, n_panels_ == 1, copy, held);
  }

  void Process(Panel& panel, int64_t s0, Pass pass) {
    WithWidth(panel.lanes / kWidth, [&](auto vecs) { ProcessLanes<decltype(vecs)::value>(panel, s0, pass); });
  }

  template <int NV>
  void ProcessLanes(Panel& panel, int64_t s0, Pass pass) {
    const LogitTile tile{x_, s0, Keys(s0), panel.t0, panel.queries, panel.lanes};
    Logits<NV>(panel, tile);
    if (pass == Pass::kProbabilities) {
      Normalise<NV>(panel, tile);
    } else {
      Softmax<NV>(panel, tile);
    }
    if (pass == Pass::kStatistics) return;
    for (int i = problem_.n_logit_steps; i < problem_.n_steps; ++i) {
      RunStep(problem_, index_, problem_.steps[i], tile, modifier_);
    }
    const Floats v = Block(problem_.v, s0, problem_.E, v_block_, &v_held_);
    Vec decay[NV];
    for (int i = 0; i < NV; ++i) {
      decay[i] = pass == Pass::kProbabilities ? Broadcast(1.0f) : ZENITH_ISA::Load(decay_ + i * kWidth);
    }
    Matmul<NV>(v.data, v.col, v.row, tile.x, problem_.E, tile.keys, panel.out,
               [&](float* out, int i, Vec sum) { Store(out, Fma(ZENITH_ISA::Load(out), decay[i], sum)); });
  }

  // x = program(K Q^T)
  template <int NV>
  void Logits(const Panel& panel, const LogitTile& tile) {
    const Floats k = Block(problem_.k, tile.s0, problem_.D, k_block_, &k_held_);
    Product<NV>(k, panel.q, tile.keys, problem_.D, LeadingScale(problem_), tile.x);
    for (int i = BeginsWithScale(problem_) ? 1 : 0; i < problem_.n_logit_steps; ++i) {
      RunStep(problem_, index_, problem_.steps[i], tile, modifier_);
    }
  }

  // x = exp(x - max), with the new max; leaves exp(old max - max) in decay_.
  template <int NV>
  void Softmax(Panel& panel, const LogitTile& tile) {
    Vec max[NV], sum[NV];
    for (int i = 0; i < NV; ++i) max[i] = ZENITH_ISA::Load(panel.max + i * kWidth);
    for (int64_t s = 0; s < tile.keys; ++s) {
      const float* x = tile.x + s * panel.lanes;
      for (int i = 0; i < NV; ++i) max[i] = MaxOrSecond(ZENITH_ISA::Load(x + i * kWidth), max[i]);  // NaN is passed over
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
      for (int64_t s = begin; s < Min(begin + kKeysPerSum, tile.keys); ++s) {
        float* x = tile.x + s * panel.lanes;
        for (int i = 0; i < NV; ++i) {
          const Vec p = ExpNonPositive(ZENITH_ISA::Load(x + i * kWidth) - max[i]);
          Store(x + i * kWidth, p);
          part[i] = part[i] + p;
        }
      }
      for (int i = 0; i < NV; ++i) sum[i] = sum[i] + part[i];
    }
    for (int i = 0; i < NV; ++i) {
      float* total = panel.sum + i * kWidth;
      Store(total, Fma(ZENITH_ISA::Load(total), ZENITH_ISA::Load(decay_ + i * kWidth), sum[i]));
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
  const int64_t panel_bytes = (problem.D + problem.E + 2) * kPanelLanes * static_cast<int64_t>(sizeof(float));
  int64_t panels = kPanelBytesInCache / panel_bytes;
  panels = panels < 1 ? 1 : Min(panels, kMaxPanels);
  panels = Min(panels, CeilDiv(problem.T, kPanelLanes));
  while (panels > 1 && CeilDiv(problem.T, panels * kPanelLanes) * problem.count < 4 * threads && threads > 1) --panels;
  const int64_t queries = panels * kPanelLanes, tiles = CeilDiv(problem.T, queries);
  return {queries, tiles, tiles * problem.count, Item::ScratchFloats(problem, panels)};
}

void Run(const AttentionProblem& problem, const AttentionPlan& plan, int64_t item, float* scratch) {
  Item(problem, plan, item, scratch).Run();
}

}  // namespace

const AttentionKernel kAttention = {Plan, Run};

}  // namespace zenith::ZENITH_ISA
