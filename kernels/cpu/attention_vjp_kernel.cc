// The gradients of softmax attention, compiled once per instruction set.
//
// Tri Dao et al., FlashAttention, 2022, appendix B.2. As in the forward, queries lie along the vector lanes: tiles are
// x[s, t], and K and V are read one broadcast element at a time. For each panel of queries and each block of keys
//
//   x = program(K Q^T);  p = exp(x - max) / sum;   dV += f(p) dO;   dp = f'(p) o (V dO^T)
//   dx = p o (dp - delta);  back through the program;   dQ^T += K^T dx;   dK += dx Q
//
// K and V run in the inner loop, and dK and dV of a whole sequence are kept in scratch meanwhile.
#include "attention_vjp.h"

#include "attention_program.h"
#include "attention_tile.h"
#include "elements.h"
#include "matmul.h"
#include "vec_math.h"

namespace zenith::ZENITH_ISA {
namespace {

constexpr int64_t kKeysPerBlock = 64;               // two tiles and a block of keys fit the first-level cache
constexpr int64_t kTileFloats = kKeysPerBlock * kPanelLanes;
constexpr int64_t kMaxPanels = 8;                   // at a time
constexpr int64_t kPanelBytesInCache = 384 * 1024;  // what the panels hold stays in the second-level cache
constexpr int64_t kPartFloats = int64_t{1} << 25;   // of all copies that the parts add to

int64_t Padded(int64_t cols) { return CeilDiv(cols, kWidth) * kWidth; }

// A row of `cols` elements as evenly wide register tiles: calls f(vectors, first column) for each.
//
// A matrix so packed has one tile's columns of all rows, then the next tile's.
template <class F>
void ForEachTile(int64_t cols, F f) {
  const int64_t vecs = CeilDiv(cols, kWidth), tiles = CeilDiv(vecs, kVecsPerTile);
  int64_t first = 0;
  for (int64_t i = 0; i < tiles; ++i) {
    const int64_t width = vecs / tiles + (i < vecs % tiles);
    WithWidth(width, [&](auto constant) { f(constant, first * kWidth); });
    first += width;
  }
}

// dst = src packed, padded with zeros.
void PackRows(const Matrix& src, int64_t rows, int64_t cols, float* dst) {
  WithFloat(src.dtype, [&](auto element) {
    using Element = decltype(element);
    auto* from = static_cast<const typename Element::Storage*>(src.data);
    ForEachTile(cols, [&](auto vecs, int64_t first) {
      constexpr int64_t kLanes = decltype(vecs)::value * kWidth;
      float* to = dst + first * rows;
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t c = 0; c < kLanes; c += kWidth) {
          const auto* at = from + r * src.row + (first + c) * src.col;
          Store(to + r * kLanes + c, LoadSome<Element>(at, src.col, Min(kWidth, cols - first - c)));
        }
      }
    });
  });
}

// Rows begin .. begin + keys of sums[all_rows, cols] += tile[keys, queries] B[queries, cols]; sums and B are packed.
void AddProduct(const LogitTile& tile, const float* x, const float* b, int64_t begin, int64_t all_rows, int64_t cols,
                float* sums) {
  ForEachTile(cols, [&](auto vecs, int64_t first) {
    constexpr int kVecs = decltype(vecs)::value;
    Matmul<kVecs>(x, tile.lanes, 1, b + first * tile.queries, tile.keys, tile.queries,
                  sums + first * all_rows + begin * kVecs * kWidth,
                  [](float* to, int, Vec sum) { Store(to, Load(to) + sum); });
  });
}

float SumOf(const float* x, int64_t count) {
  Vec sum = Broadcast(0.0f);
  int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth) sum = sum + Load(x + i);
  float lanes[kWidth], total = 0.0f;
  Store(lanes, sum);
  for (float lane : lanes) total += lane;
  for (; i < count; ++i) total += x[i];
  return total;
}

struct Target {
  float* data;
  int64_t row, col;
};

void AddOrStore(float* to, int64_t stride, int64_t count, bool adds, Vec x) {
  if (stride == 1 && count == kWidth) return Store(to, adds ? Load(to) + x : x);
  float lanes[kWidth];
  Store(lanes, x);
  if (stride == 0 && adds) {  // one addition to the long sum
    *to += SumOf(lanes, count);
    return;
  }
  for (int64_t i = 0; i < count; ++i) to[i * stride] = adds ? to[i * stride] + lanes[i] : lanes[i];
}

// dst(r, c) = or += scale * src(r, c), the rows begin .. begin + rows of a packed matrix with `all_rows`.
void WritePacked(const float* src, int64_t begin, int64_t rows, int64_t all_rows, int64_t cols, float scale, bool adds,
                 const Target& dst) {
  ForEachTile(cols, [&](auto vecs, int64_t first) {
    constexpr int64_t kLanes = decltype(vecs)::value * kWidth;
    const float* from = src + first * all_rows + begin * kLanes;
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < kLanes && first + c < cols; c += kWidth) {
        AddOrStore(dst.data + r * dst.row + (first + c) * dst.col, dst.col, Min(kWidth, cols - first - c), adds,
                   Load(from + r * kLanes + c) * Broadcast(scale));
      }
    }
  });
}

// dst(r, c) = or += scale * src[c, r].
void WriteTransposed(const float* src, int64_t lanes, int64_t rows, int64_t cols, float scale, bool adds,
                     const Target& dst) {
  for (int64_t r = 0; r < rows; r += kWidth) {
    for (int64_t c = 0; c < cols; c += kWidth) {
      const int64_t count = Min(kWidth, cols - c);
      Vec block[kWidth];
      for (int64_t i = 0; i < kWidth; ++i) {
        block[i] = i < count ? Load(src + (c + i) * lanes + r) * Broadcast(scale) : Broadcast(0.0f);
      }
      Transpose(block);
      for (int64_t i = 0; i < Min(kWidth, rows - r); ++i) {
        AddOrStore(dst.data + (r + i) * dst.row + c * dst.col, dst.col, count, adds, block[i]);
      }
    }
  }
}

// dst(t, s) += x[s, t]. What is summed within the tile is summed before it meets the long sum.
void AddTile(const LogitTile& tile, const float* x, const Target& dst) {
  if (dst.row == 0) {
    float total = 0.0f;
    for (int64_t s = 0; s < tile.keys; ++s) {
      const float sum = SumOf(x + s * tile.lanes, tile.queries);
      if (dst.col == 0) total += sum;
      else dst.data[s * dst.col] += sum;
    }
    if (dst.col == 0) dst.data[0] += total;
    return;
  }
  if (dst.col != 0) return WriteTransposed(x, tile.lanes, tile.queries, tile.keys, 1.0f, true, dst);
  for (int64_t lane = 0; lane < tile.queries; lane += kWidth) {
    Vec sum = Broadcast(0.0f);
    for (int64_t s = 0; s < tile.keys; ++s) sum = sum + Load(x + s * tile.lanes + lane);
    AddOrStore(dst.data + lane * dst.row, dst.row, Min(kWidth, tile.queries - lane), true, sum);
  }
}

// Calls f(x, y) for each pair of elements of two tiles and writes it to x.
template <class F>
void ForEachPair(const LogitTile& tile, float* x, const float* y, F f) {
  for (int64_t i = 0; i < tile.keys * tile.lanes; i += kWidth) Store(x + i, f(Load(x + i), Load(y + i)));
}

// What has to be computed for the gradients that are wanted.
struct Wanted {
  bool q = false, k = false, v = false, modifiers = false, logits = false;  // logits: dp at least
  bool after = false;  // of a modifier of the probabilities
};

bool Wants(const AttentionVjpProblem& problem, const Step& step) {
  for (int i = 0; i < problem.n_gradients; ++i) {
    if (step.modifier >= 0 && problem.gradients[i].IsModifier(step.modifier)) return true;
  }
  return false;
}

Wanted WantedBy(const AttentionVjpProblem& problem) {
  Wanted wanted;
  for (int i = 0; i < problem.n_gradients; ++i) {
    const Gradient& gradient = problem.gradients[i];
    wanted.q |= gradient.role == Role::kQ;
    wanted.k |= gradient.role == Role::kK;
    wanted.v |= gradient.role == Role::kV;
    wanted.modifiers |= gradient.OfModifier();
  }
  wanted.logits = wanted.q || wanted.k || wanted.modifiers;
  for (int i = 0; i < problem.attention.n_steps; ++i) {
    const Step& step = problem.attention.steps[i];
    wanted.after |= step.op == Opcode::kPostMul && Wants(problem, step);
  }
  return wanted;
}

// Whether the backward of a step looks at a tile of the forward: its input, or its output for TANH.
bool KeepsTile(const AttentionVjpProblem& problem, const Step& step) {
  switch (step.op) {
    case Opcode::kTanh:
    case Opcode::kMax: return true;
    case Opcode::kMul:
    case Opcode::kPostMul: return Wants(problem, step);
    default: return false;
  }
}

int64_t KeptTiles(const AttentionVjpProblem& problem) {
  int64_t kept = 0;
  for (int i = 0; i < problem.attention.n_steps; ++i) kept += KeepsTile(problem, problem.attention.steps[i]);
  return kept;
}

// One panel of queries, at most kPanelLanes of them.
struct Panel {
  int64_t t0, queries, lanes;
  float* q;               // [D, lanes]
  float* cotangent;       // [E, lanes]
  float* q_rows;          // [queries, D], packed
  float* cotangent_rows;  // [queries, E], packed
  float* dq;              // [D, lanes]
  float* max;             // [lanes]
  float* inverse_sum;     // [lanes]
  float* delta;           // [lanes]
  bool skips;             // blocks outside a band, where p is 0
};

int64_t PanelFloats(const AttentionProblem& problem) {
  return (2 * problem.D + problem.E + Padded(problem.D) + Padded(problem.E) + 3) * kPanelLanes;
}

int64_t KeyBlocks(const AttentionProblem& problem) { return CeilDiv(problem.S, kKeysPerBlock); }

int64_t Panels(const AttentionProblem& problem) {
  int64_t panels = kPanelBytesInCache / (PanelFloats(problem) * static_cast<int64_t>(sizeof(float)));
  panels = panels < 1 ? 1 : Min(panels, kMaxPanels);
  return Min(panels, CeilDiv(problem.T, kPanelLanes));
}

class Item {
 public:
  Item(const AttentionVjpProblem& problem, const AttentionVjpPlan& plan, int64_t item, float* scratch)
      : problem_(problem),
        attention_(problem.attention),
        wanted_(WantedBy(problem)),
        fills_(TrailingFills(attention_)),
        plan_(plan),
        part_(item % plan.parts),
        outer_(item / plan.parts),
        sum_rows_(CeilDiv(KeyBlocks(attention_), plan.parts) * kKeysPerBlock),
        scratch_(scratch) {
    x_ = Take(kTileFloats);
    probabilities_ = attention_.n_steps > attention_.n_logit_steps ? Take(kTileFloats) : x_;
    dx_ = Take(kTileFloats);
    modifier_ = Take(kTileFloats);
    kept_ = Take(KeptTiles(problem) * kTileFloats);
    k_block_ = Take(kKeysPerBlock * attention_.D);
    v_block_ = Take(kKeysPerBlock * attention_.E);
    dk_ = Take(sum_rows_ * Padded(attention_.D));
    dv_ = Take(sum_rows_ * Padded(attention_.E));
  }

  static int64_t ScratchFloats(const AttentionVjpProblem& problem, int64_t parts) {
    const AttentionProblem& attention = problem.attention;
    const int64_t sum_rows = CeilDiv(KeyBlocks(attention), parts) * kKeysPerBlock;
    return (4 + KeptTiles(problem)) * kTileFloats + kKeysPerBlock * (attention.D + attention.E) +
           sum_rows * (Padded(attention.D) + Padded(attention.E)) + Panels(attention) * PanelFloats(attention);
  }

  void Run() {
    int64_t inner = 1;
    for (int i = 0; i < attention_.n_parallel; ++i) inner *= plan_.outer[i] ? 1 : attention_.dims[i];
    for (int64_t i = 0; i < inner; ++i) {
      MoveTo(i);
      RunPosition();
    }
  }

 private:
  float* Take(int64_t floats) {
    float* taken = scratch_;
    scratch_ += floats;
    return taken;
  }

  // Number `inner` of the positions of this item.
  void MoveTo(int64_t inner) {
    int64_t outer = outer_, stride = 1;
    position_ = 0;
    for (int i = attention_.n_parallel - 1; i >= 0; --i) {
      int64_t& rest = plan_.outer[i] ? outer : inner;
      index_.at[i] = rest % attention_.dims[i];
      rest /= attention_.dims[i];
      position_ += index_.at[i] * stride;
      stride *= attention_.dims[i];
    }
    k_held_ = v_held_ = -1;
  }

  void RunPosition() {
    if (wanted_.k) Clear(dk_, sum_rows_ * Padded(attention_.D));
    if (wanted_.v) Clear(dv_, sum_rows_ * Padded(attention_.E));
    const int64_t queries = Panels(attention_) * kPanelLanes;
    for (int64_t t = 0; t < attention_.T; t += queries) RunQueries(t, Min(t + queries, attention_.T));
    WriteKeys(Role::kK, dk_, attention_.D, LeadingScale(attention_));
    WriteKeys(Role::kV, dv_, attention_.E, 1.0f);
  }

  static void Clear(float* x, int64_t count) {
    for (int64_t i = 0; i < count; ++i) x[i] = 0.0f;
  }

  void RunQueries(int64_t begin, int64_t end) {
    float* const unused = scratch_;
    n_panels_ = 0;
    for (int64_t t = begin; t < end; t += kPanelLanes) LoadPanel(panels_[n_panels_++], t, Min(kPanelLanes, end - t));
    for (int64_t block = part_; block < KeyBlocks(attention_); block += plan_.parts) {
      const int64_t s0 = block * kKeysPerBlock, keys = Min(kKeysPerBlock, attention_.S - s0);
      for (int i = 0; i < n_panels_; ++i) {
        Panel& panel = panels_[i];
        if (panel.skips && OutsideBand(attention_, fills_, s0, keys, panel.t0, panel.queries)) continue;
        WithWidth(panel.lanes / kWidth, [&](auto vecs) { Process<decltype(vecs)::value>(panel, s0, keys); });
      }
    }
    for (int i = 0; i < n_panels_; ++i) FinishPanel(panels_[i]);
    scratch_ = unused;
  }

  Matrix QueriesOf(const Operand& operand, int64_t t0) const {
    return ViewAt(operand, operand.Offset(index_, attention_.n_parallel) + t0 * operand.row);
  }

  void LoadPanel(Panel& panel, int64_t t0, int64_t queries) {
    const int64_t D = attention_.D, E = attention_.E;
    panel.t0 = t0;
    panel.queries = queries;
    panel.lanes = Padded(queries);
    panel.q = Take(D * panel.lanes);
    panel.cotangent = Take(E * panel.lanes);
    panel.q_rows = Take(Padded(D) * panel.lanes);
    panel.cotangent_rows = Take(Padded(E) * panel.lanes);
    panel.dq = Take(D * panel.lanes);
    panel.max = Take(panel.lanes);
    panel.inverse_sum = Take(panel.lanes);
    panel.delta = Take(panel.lanes);

    const Matrix q = QueriesOf(attention_.q, t0), cotangent = QueriesOf(problem_.cotangent, t0);
    CopyTransposed(q, queries, D, panel.q, panel.lanes);
    if (wanted_.logits) CopyTransposed(cotangent, queries, E, panel.cotangent, panel.lanes);
    if (wanted_.k) PackRows(q, queries, D, panel.q_rows);
    if (wanted_.v) PackRows(cotangent, queries, E, panel.cotangent_rows);
    if (wanted_.q) Clear(panel.dq, D * panel.lanes);
    const int64_t row = position_ * attention_.T + t0;
    for (int64_t i = 0; i < panel.lanes; ++i) {
      panel.max[i] = i < queries ? attention_.maximum[row + i] : kInfinity;  // p is 0 in the lanes that pad
      panel.inverse_sum[i] = i < queries ? 1.0f / attention_.sum[row + i] : 0.0f;
    }
    if (wanted_.logits) LoadDelta(panel);
    // dV adds p dO, which is NaN rather than 0 where dO is not finite; so does a modifier of p with dp.
    panel.skips = !wanted_.after && FillsUnderflow(fills_, panel.max, queries) &&
                  (!wanted_.v || AllFinite(cotangent, queries, E));
  }

  // delta = sum_e dO out
  void LoadDelta(Panel& panel) {
    const Matrix out = QueriesOf(attention_.out, panel.t0);
    Clear(panel.delta, panel.lanes);
    for (int64_t e = 0; e < attention_.E; e += kKeysPerBlock) {
      const int64_t count = Min(kKeysPerBlock, attention_.E - e);
      const Matrix view{static_cast<const char*>(out.data) + e * out.col * ElementBytes(out.dtype), out.dtype, out.row,
                        out.col};
      CopyTransposed(view, panel.queries, count, x_, panel.lanes);
      for (int64_t lane = 0; lane < panel.lanes; lane += kWidth) {
        Vec sum = Broadcast(0.0f);
        for (int64_t i = 0; i < count; ++i) {
          sum = Fma(Load(x_ + i * panel.lanes + lane), Load(panel.cotangent + (e + i) * panel.lanes + lane), sum);
        }
        Store(panel.delta + lane, Load(panel.delta + lane) + sum);
      }
    }
  }

  template <int NV>
  void Process(Panel& panel, int64_t s0, int64_t keys) {
    const LogitTile tile{x_, s0, keys, panel.t0, panel.queries, panel.lanes};
    const Floats k = Block(attention_.k, tile, attention_.D, k_block_, &k_held_);
    next_kept_ = kept_;
    Product<NV>(k, panel.q, keys, attention_.D, LeadingScale(attention_), x_);
    for (int i = BeginsWithScale(attention_) ? 1 : 0; i < attention_.n_logit_steps; ++i) Forward(tile, i);
    Probabilities<NV>(panel, tile);
    for (int i = attention_.n_logit_steps; i < attention_.n_steps; ++i) Forward(tile, i);
    const int64_t begin = (s0 / kKeysPerBlock / plan_.parts) * kKeysPerBlock;
    if (wanted_.v) AddProduct(tile, x_, panel.cotangent_rows, begin, sum_rows_, attention_.E, dv_);
    if (!wanted_.logits) return;

    const Floats v = Block(problem_.attention.v, tile, attention_.E, v_block_, &v_held_);
    Product<NV>(v, panel.cotangent, keys, attention_.E, 1.0f, dx_);
    LogitTile gradient = tile;
    gradient.x = dx_;
    for (int i = attention_.n_steps - 1; i >= attention_.n_logit_steps; --i) Backward(gradient, i);
    ThroughSoftmax<NV>(panel, gradient);
    for (int i = attention_.n_logit_steps - 1; i >= (BeginsWithScale(attention_) ? 1 : 0); --i) Backward(gradient, i);
    if (wanted_.q) {
      Matmul<NV>(k.data, k.col, k.row, dx_, attention_.D, keys, panel.dq,
                 [](float* to, int, Vec sum) { Store(to, Load(to) + sum); });
    }
    if (wanted_.k) AddProduct(tile, dx_, panel.q_rows, begin, sum_rows_, attention_.D, dk_);
  }

  Floats Block(const Operand& operand, const LogitTile& tile, int64_t cols, float* copy, int64_t* held) {
    const int64_t offset = operand.Offset(index_, attention_.n_parallel);
    return KeyBlock(operand, offset, tile.s0, tile.keys, cols, n_panels_ == 1, copy, held);
  }

  // Runs step i on the logits or probabilities and keeps what its backward needs.
  void Forward(const LogitTile& tile, int i) {
    const Step& step = attention_.steps[i];
    const bool keeps = KeepsTile(problem_, step);
    if (keeps && step.op != Opcode::kTanh) Keep(tile);
    RunStep(attention_, index_, step, tile, modifier_);
    if (keeps && step.op == Opcode::kTanh) Keep(tile);
  }

  void Keep(const LogitTile& tile) {
    for (int64_t i = 0; i < tile.keys * tile.lanes; i += kWidth) Store(next_kept_ + i, Load(tile.x + i));
    next_kept_ += kTileFloats;
  }

  // x = exp(x - max) / sum, and a copy where steps follow that change it.
  template <int NV>
  void Probabilities(const Panel& panel, const LogitTile& tile) {
    for (int i = 0; i < NV; ++i) {
      const Vec max = Load(panel.max + i * kWidth), inverse = Load(panel.inverse_sum + i * kWidth);
      for (int64_t s = 0; s < tile.keys; ++s) {
        const int64_t at = s * tile.lanes + i * kWidth;
        const Vec p = ExpNonPositive(Load(x_ + at) - max) * inverse;
        Store(x_ + at, p);
        Store(probabilities_ + at, p);
      }
    }
  }

  // dx = p o (dp - delta)
  template <int NV>
  void ThroughSoftmax(const Panel& panel, const LogitTile& gradient) {
    Vec delta[NV];
    for (int i = 0; i < NV; ++i) delta[i] = Load(panel.delta + i * kWidth);
    for (int64_t s = 0; s < gradient.keys; ++s) {
      for (int i = 0; i < NV; ++i) {
        const int64_t at = s * gradient.lanes + i * kWidth;
        Store(gradient.x + at, Load(probabilities_ + at) * (Load(gradient.x + at) - delta[i]));
      }
    }
  }

  // From the gradient of what step i gives to that of what it takes. Steps run backward, so what they kept is on a
  // stack.
  void Backward(const LogitTile& gradient, int i) {
    Step step = attention_.steps[i];
    float* kept = nullptr;
    if (KeepsTile(problem_, step)) kept = next_kept_ -= kTileFloats;
    const bool wants = Wants(problem_, step);
    switch (step.op) {
      case Opcode::kScale: return RunStep(attention_, index_, step, gradient, modifier_);
      case Opcode::kMul:
      case Opcode::kPostMul:
        if (wants) {
          ForEachPair(gradient, kept, gradient.x, [](Vec x, Vec dx) { return x * dx; });
          AddModifier(gradient, kept, step.modifier);
        }
        return RunStep(attention_, index_, step, gradient, modifier_);
      case Opcode::kAdd:
        if (wants) AddModifier(gradient, gradient.x, step.modifier);
        return;
      case Opcode::kSelect:
      case Opcode::kBand:
      case Opcode::kPostSelect:
        step.c = 0.0f;
        return RunStep(attention_, index_, step, gradient, modifier_);
      case Opcode::kTanh:
        return ForEachPair(gradient, gradient.x, kept, [](Vec dx, Vec y) { return dx * (Broadcast(1.0f) - y * y); });
      case Opcode::kMax: return ThroughMax(gradient, kept, step.c);
      case Opcode::kOffset:
      case Opcode::kBandAdd:
      case Opcode::kSelectAdd:
      case Opcode::kSink: return;  // a sink is not part of a tile, see FinishPanel()
    }
  }

  // Half of the gradient where the operands of max are equal, as JAX has it.
  static void ThroughMax(const LogitTile& gradient, const float* kept, float c) {
    const Vec limit = Broadcast(c), zero = Broadcast(0.0f), half = Broadcast(0.5f);
    ForEachPair(gradient, gradient.x, kept, [&](Vec dx, Vec x) {
      return Select(Less(limit, x), dx, Select(Less(x, limit), zero, dx * half));
    });
  }

  // Where element (row, col) of a gradient begins, in the copy of this part if it has one.
  Target TargetAt(const Gradient& gradient, int64_t row, int64_t col) const {
    const Operand& to = gradient.to;
    float* data = part_ == 0 || gradient.VariesWithKey() ? static_cast<float*>(to.data)
                                                         : gradient.parts + (part_ - 1) * gradient.elements;
    return {data + to.Offset(index_, attention_.n_parallel) + row * to.row + col * to.col, to.row, to.col};
  }

  void AddModifier(const LogitTile& tile, const float* x, int64_t modifier) {
    for (int i = 0; i < problem_.n_gradients; ++i) {
      const Gradient& gradient = problem_.gradients[i];
      if (gradient.IsModifier(modifier)) AddTile(tile, x, TargetAt(gradient, tile.t0, tile.s0));
    }
  }

  void FinishPanel(const Panel& panel) {
    for (int i = 0; i < problem_.n_gradients; ++i) {
      const Gradient& gradient = problem_.gradients[i];
      if (gradient.role != Role::kQ) continue;
      WriteTransposed(panel.dq, panel.lanes, panel.queries, attention_.D, LeadingScale(attention_), gradient.adds,
                      TargetAt(gradient, panel.t0, 0));
    }
    for (int i = attention_.n_logit_steps; i < attention_.n_steps && part_ == 0; ++i) {
      const Step& step = attention_.steps[i];
      if (step.op == Opcode::kSink && Wants(problem_, step)) AddSink(panel, step.modifier);
    }
  }

  // The sink's probability times the difference between its value, 0, and delta.
  void AddSink(const Panel& panel, int64_t modifier) {
    CopyTransposed(QueriesOf(attention_.modifiers[modifier], panel.t0), panel.queries, 1, x_, panel.lanes);
    for (int64_t lane = 0; lane < panel.lanes; lane += kWidth) {
      const Vec p = ExpNonPositive(Load(x_ + lane) - Load(panel.max + lane)) * Load(panel.inverse_sum + lane);
      Store(x_ + lane, p * (Broadcast(0.0f) - Load(panel.delta + lane)));
    }
    AddModifier({x_, 0, 1, panel.t0, panel.queries, panel.lanes}, x_, modifier);
  }

  // Writes the sums of K or V, a block of keys at a time: those of a part are not neighbours.
  void WriteKeys(Role role, const float* sums, int64_t cols, float scale) {
    for (int i = 0; i < problem_.n_gradients; ++i) {
      const Gradient& gradient = problem_.gradients[i];
      if (gradient.role != role) continue;
      for (int64_t block = part_; block < KeyBlocks(attention_); block += plan_.parts) {
        const int64_t s0 = block * kKeysPerBlock, keys = Min(kKeysPerBlock, attention_.S - s0);
        WritePacked(sums, block / plan_.parts * kKeysPerBlock, keys, sum_rows_, cols, scale, gradient.adds,
                    TargetAt(gradient, s0, 0));
      }
    }
  }

  const AttentionVjpProblem& problem_;
  const AttentionProblem& attention_;
  const Wanted wanted_;
  const Fills fills_;
  const AttentionVjpPlan& plan_;
  const int64_t part_, outer_;
  const int64_t sum_rows_;  // of dk_ and dv_
  float* scratch_;          // what is not taken yet
  int64_t position_ = 0;
  ParallelIndex index_{};
  Panel panels_[kMaxPanels];
  int n_panels_ = 0;
  float* x_;              // tiles: the logits, then f(p)
  float* probabilities_;  // p, the same tile as x_ where there is no f
  float* dx_;             // dp, then dx
  float* modifier_;
  float* kept_;
  float* next_kept_ = nullptr;
  float* k_block_;
  float* v_block_;
  float* dk_;                          // [sum_rows, D], packed
  float* dv_;                          // [sum_rows, E], packed
  int64_t k_held_ = -1, v_held_ = -1;  // first key of the copied block
};

// Splits the keys only where the threads would otherwise stand idle, and as far as the copies leave memory.
int64_t Parts(const AttentionVjpProblem& problem, int64_t items, int64_t threads) {
  int64_t copied = 0;
  for (int i = 0; i < problem.n_gradients; ++i) {
    const Gradient& gradient = problem.gradients[i];
    copied += gradient.VariesWithKey() ? 0 : gradient.elements;
  }
  const int64_t blocks = KeyBlocks(problem.attention);
  int64_t best = 1;
  double least_idle = 1e300;  // threads' time over the time they work
  for (int64_t parts = 1; parts <= Min(blocks, 2 * threads); ++parts) {
    if (parts > 1 && copied * (parts - 1) > kPartFloats) break;
    // The largest part has this many blocks, and a round takes as long as that.
    const int64_t rounds = CeilDiv(items * parts, threads) * CeilDiv(blocks, parts);
    const double idle = static_cast<double>(rounds * threads) / static_cast<double>(items * blocks);
    if (idle < least_idle - 0.1) {
      best = parts;
      least_idle = idle;
    }
  }
  return best;
}

AttentionVjpPlan Plan(const AttentionVjpProblem& problem, int64_t threads) {
  AttentionVjpPlan plan{};
  int64_t items = 1;
  for (int i = 0; i < problem.attention.n_parallel; ++i) {
    plan.outer[i] = true;
    for (int j = 0; j < problem.n_gradients; ++j) {
      if (problem.gradients[j].to.parallel[i] == 0 && problem.attention.dims[i] > 1) plan.outer[i] = false;
    }
    if (plan.outer[i]) items *= problem.attention.dims[i];
  }
  plan.parts = items == 0 ? 1 : Parts(problem, items, threads);
  plan.items = items * plan.parts;
  plan.scratch_floats = Item::ScratchFloats(problem, plan.parts);
  return plan;
}

void Run(const AttentionVjpProblem& problem, const AttentionVjpPlan& plan, int64_t item, float* scratch) {
  Item(problem, plan, item, scratch).Run();
}

}  // namespace

const AttentionVjpKernel kAttentionVjp = {Plan, Run};

}  // namespace zenith::ZENITH_ISA
