// The gradients of softmax attention, compiled once per instruction set.
//
// Tri Dao et al., FlashAttention, 2022, appendix B.2. As in the forward, queries lie along the vector lanes: tiles are
// x[s, t], and K and V are read one broadcast element at a time. For each panel of queries there are two sweeps over
// the blocks of keys:
//
//   x = program(K Q^T);  p = exp(x - max) / sum;   dV += f(p) dO;   dp = f'(p) o (V dO^T);   delta += sum_s p o dp
//   dx = p o (dp - delta);  back through the program;   dQ^T += K^T dx;   dK += dx Q
//
// What the second needs of the first is kept in scratch, and so are dK and dV of the whole sequence.
//
// Where the processor has tiles of bfloat16 (attention_pairs.h), K Q^T of bfloat16 is made of them, as in the forward,
// and where V and dO are bfloat16 too so are the other products, of p and dx rounded. Sums, delta and exponentials are
// float32.
#include "attention_vjp.h"

#include "attention_pairs.h"
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
constexpr int64_t kPanelBytesInCache = 1024 * 1024;  // what the panels hold is about a second-level cache
constexpr int64_t kTilePanelBytes = 3072 * 1024;    // with tiles, whose products are worth it only of many queries
constexpr int64_t kPartFloats = int64_t{1} << 25;   // of all copies that the parts add to

// Columns, with room for the padding of either kind of product.
int64_t Padded(int64_t cols) { return RoundUp(cols, kHasTiles ? kPairDepth : kWidth); }

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
    Matmul<kVecs>(Strided(x, tile.lanes, 1), b + first * tile.queries, tile.keys, tile.queries,
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

// The columns of tiles of bfloat16 pairs.
template <class F>
void ForEachPairTile(int64_t cols, F f) {
  for (int64_t first = 0; first < cols; first += kPairLanes) f(Constant<kPairVecs>{}, first);
}

// dst(r, c) = or += scale * src(r, c), the first `rows` of a packed matrix with `all_rows`.
void WritePacked(bool pairs, const float* src, int64_t rows, int64_t all_rows, int64_t cols, float scale, bool adds,
                 const Target& dst) {
  auto write = [&](auto vecs, int64_t first) {
    constexpr int64_t kLanes = decltype(vecs)::value * kWidth;
    const float* from = src + first * all_rows;
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < kLanes && first + c < cols; c += kWidth) {
        AddOrStore(dst.data + r * dst.row + (first + c) * dst.col, dst.col, Min(kWidth, cols - first - c), adds,
                   Load(from + r * kLanes + c) * Broadcast(scale));
      }
    }
  };
  pairs ? ForEachPairTile(cols, write) : ForEachTile(cols, write);
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
  bool q = false, k = false, v = false, logits = false;  // logits: dp at least
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
    wanted.logits |= gradient.role != Role::kV;
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

int64_t KeptTiles(const AttentionVjpProblem& problem, int begin, int end) {
  int64_t kept = 0;
  for (int i = begin; i < end; ++i) kept += KeepsTile(problem, problem.attention.steps[i]);
  return kept;
}

bool AllInTiles(const AttentionVjpProblem& problem) {
  return LogitsInTiles(problem.attention) && problem.attention.v.dtype == Dtype::kBf16 &&
         problem.cotangent.dtype == Dtype::kBf16;
}

// Queries of a panel.
int64_t Lanes(const AttentionProblem& problem) { return LogitsInTiles(problem) ? kPairLanes : kPanelLanes; }

int64_t KeyBlocks(const AttentionProblem& problem) { return CeilDiv(problem.S, kKeysPerBlock); }

// What one panel and one block of keys have in common.
struct Block {
  LogitTile tile;  // x, then p; [keys, lanes] as the others
  float* dp;
  float* kept;     // the tiles that the steps on the logits keep
};

int64_t BlockFloats(const AttentionVjpProblem& problem) {
  return (2 + KeptTiles(problem, 0, problem.attention.n_logit_steps)) * kTileFloats;
}

// One panel of queries, at most Lanes() of them.
struct Panel {
  int64_t t0, queries, lanes;
  float* q;               // [D, lanes], in pairs where the logits are made of tiles
  float* cotangent;       // [E, lanes], in pairs where all products are
  float* q_rows;          // [queries, D], packed; not there in tiles, which keep them side by side
  float* cotangent_rows;  // [queries, E], packed, likewise
  float* dq;              // [D, lanes]
  float* max;             // [lanes]
  float* inverse_sum;     // [lanes]
  float* sink;            // [lanes], the probability of a sink
  float* delta;           // [lanes]
  float* remainder;       // [lanes], by how much delta misses the sum
  float* blocks;          // BlockFloats() for each block of keys, or for one at a time without a second sweep
  bool skips;             // blocks outside a band, which add 0 to every gradient
};

int64_t PanelFloats(const AttentionVjpProblem& problem) {
  const AttentionProblem& attention = problem.attention;
  const int64_t blocks = WantedBy(problem).logits ? KeyBlocks(attention) : 1;
  return (3 * Padded(attention.D) + 2 * Padded(attention.E) + 5) * Lanes(attention) + blocks * BlockFloats(problem);
}

// Panels of the whole sequence of queries.
int64_t AllPanels(const AttentionProblem& problem) { return CeilDiv(problem.T, Lanes(problem)); }

// Panels of a part that share a sweep.
int64_t PanelsAtOnce(const AttentionVjpProblem& problem, int64_t parts) {
  const int64_t bytes = AllInTiles(problem) ? kTilePanelBytes : kPanelBytesInCache;
  const int64_t panels = bytes / (PanelFloats(problem) * static_cast<int64_t>(sizeof(float)));
  return Min(panels < 1 ? 1 : Min(panels, kMaxPanels), CeilDiv(AllPanels(problem.attention), parts));
}

class Item {
 public:
  Item(const AttentionVjpProblem& problem, const AttentionVjpPlan& plan, int64_t item, float* scratch)
      : problem_(problem),
        attention_(problem.attention),
        wanted_(WantedBy(problem)),
        tiles_(LogitsInTiles(attention_)),
        all_tiles_(AllInTiles(problem)),
        fills_(TrailingFills(attention_)),
        plan_(plan),
        part_(item % plan.parts),
        outer_(item / plan.parts),
        sum_rows_(KeyBlocks(attention_) * kKeysPerBlock),
        scratch_(scratch) {
    for (int i = fills_.first; i < attention_.n_logit_steps; ++i) bands_ |= attention_.steps[i].op == Opcode::kBand;
    values_ = Take(kTileFloats);
    modifier_ = Take(kTileFloats);
    kept_after_ = Take(KeptTiles(problem, attention_.n_logit_steps, attention_.n_steps) * kTileFloats);
    k_block_ = Take(KeyRows(problem) * Padded(attention_.D));
    k_turned_ = Take(KeyRows(problem) * Padded(attention_.D));
    v_block_ = Take(KeyRows(problem) * Padded(attention_.E));
    rounded_ = Take(RoundedFloats(problem, plan.parts));
    query_pairs_ = Take(QueryPairFloats(problem, plan.parts, attention_.D));
    cotangent_pairs_ = Take(QueryPairFloats(problem, plan.parts, attention_.E));
    dk_ = Take(sum_rows_ * Padded(attention_.D));
    dv_ = Take(sum_rows_ * Padded(attention_.E));
  }

  static int64_t ScratchFloats(const AttentionVjpProblem& problem, int64_t parts) {
    const AttentionProblem& attention = problem.attention;
    return (2 + KeptTiles(problem, attention.n_logit_steps, attention.n_steps)) * kTileFloats +
           KeyRows(problem) * (2 * Padded(attention.D) + Padded(attention.E)) + RoundedFloats(problem, parts) +
           QueryPairFloats(problem, parts, attention.D) + QueryPairFloats(problem, parts, attention.E) +
           KeyBlocks(attention) * kKeysPerBlock * (Padded(attention.D) + Padded(attention.E)) +
           PanelsAtOnce(problem, parts) * PanelFloats(problem);
  }

  void Run() {
    if (tiles_) ConfigureTiles();
    int64_t inner = 1;
    for (int i = 0; i < attention_.n_parallel; ++i) inner *= plan_.outer[i] ? 1 : attention_.dims[i];
    for (int64_t i = 0; i < inner; ++i) {
      MoveTo(i);
      RunPosition();
    }
    if (tiles_) ReleaseTiles();
  }

 private:
  // Rows of K and V that are copied at a time: a block, or for tiles all of them, of elements half as large.
  static int64_t KeyRows(const AttentionVjpProblem& problem) {
    const int64_t all = KeyBlocks(problem.attention) * kKeysPerBlock;
    return LogitsInTiles(problem.attention) && all > 2 * kKeysPerBlock ? all / 2 : kKeysPerBlock;
  }

  // Elements of two bytes: p or dx of a block of keys and all panels, or as pairs those of one panel.
  static int64_t RoundedFloats(const AttentionVjpProblem& problem, int64_t parts) {
    return AllInTiles(problem) ? (PanelsAtOnce(problem, parts) + 1) * kKeysPerBlock * kPairLanes / 2 : 0;
  }
  static int64_t QueryPairFloats(const AttentionVjpProblem& problem, int64_t parts, int64_t cols) {
    return AllInTiles(problem) ? PanelsAtOnce(problem, parts) * kPairLanes * Padded(cols) / 2 : 0;
  }

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
    k_held_ = k_turned_held_ = v_held_ = -1;
    keys_finite_ = Known::kNotYet;
  }

  void RunPosition() {
    LoadKeyTiles();
    if (wanted_.k) Clear(dk_, sum_rows_ * Padded(attention_.D));
    if (wanted_.v) Clear(dv_, sum_rows_ * Padded(attention_.E));
    const int64_t at_once = PanelsAtOnce(problem_, plan_.parts);
    for (int64_t i = part_; i < AllPanels(attention_); i += at_once * plan_.parts) RunPanels(i, at_once);
    WriteKeys(Role::kK, dk_, attention_.D, LeadingScale(attention_));
    WriteKeys(Role::kV, dv_, attention_.E, 1.0f);
  }

  static void Clear(float* x, int64_t count) {
    for (int64_t i = 0; i < count; ++i) x[i] = 0.0f;
  }

  // The panels first, first + parts, ..., as far as there are any.
  void RunPanels(int64_t first, int64_t at_once) {
    float* const unused = scratch_;
    const int64_t lanes = Lanes(attention_);
    at_once_ = at_once;
    n_panels_ = 0;
    for (int64_t i = first; i < AllPanels(attention_) && n_panels_ < at_once; i += plan_.parts) {
      LoadPanel(panels_[n_panels_++], i * lanes, Min(lanes, attention_.T - i * lanes));
    }
    for (int64_t block = 0; block < KeyBlocks(attention_); ++block) {
      ForEachPanel(block, [&](auto vecs, Panel& panel, const Block& at) { Sweep<decltype(vecs)::value>(panel, at); });
      if (all_tiles_ && wanted_.v) AddRounded(block, cotangent_pairs_, attention_.E, dv_);
    }
    if (wanted_.logits) {
      for (int i = 0; i < n_panels_; ++i) BeginRemainder(panels_[i]);
      for (int64_t block = KeyBlocks(attention_) - 1; block >= 0; --block) {  // what was written last is in the cache
        ForEachPanel(block, [](auto vecs, Panel& panel, const Block& at) {
          AddRemainder<decltype(vecs)::value>(panel, at.tile, at.dp);
        });
      }
      for (int i = 0; i < n_panels_; ++i) FinishRemainder(panels_[i]);
      for (int64_t block = 0; block < KeyBlocks(attention_); ++block) {
        ForEachPanel(block, [&](auto vecs, Panel& panel, const Block& at) {
          SweepBack<decltype(vecs)::value>(panel, at);
        });
        if (all_tiles_ && wanted_.k) AddRounded(block, query_pairs_, attention_.D, dk_);
      }
    }
    for (int i = 0; i < n_panels_; ++i) FinishPanel(panels_[i]);
    scratch_ = unused;
  }

  // Calls f(number of vectors, panel, block) for the panels for which a block of keys counts, with those keys that do.
  template <class F>
  void ForEachPanel(int64_t block, F f) {
    const int64_t s0 = block * kKeysPerBlock, keys = Min(kKeysPerBlock, attention_.S - s0);
    for (int i = 0; i < n_panels_; ++i) {
      Panel& panel = panels_[i];
      KeyRange range{0, keys};
      if (panel.skips) range = InsideBands(attention_, fills_, s0, keys, panel.t0, panel.queries);
      if (range.begin == range.end) continue;
      float* const data = panel.blocks + (wanted_.logits ? block * BlockFloats(problem_) : 0);
      const LogitTile tile{data, s0 + range.begin, range.end - range.begin, panel.t0, panel.queries, panel.lanes};
      const Block at{tile, data + kTileFloats, data + 2 * kTileFloats};
      WithWidth(panel.lanes / kWidth, [&](auto vecs) { f(vecs, panel, at); });
    }
  }

  Matrix QueriesOf(const Operand& operand, int64_t t0) const {
    return ViewAt(operand, operand.Offset(index_, attention_.n_parallel) + t0 * operand.row);
  }

  void LoadPanel(Panel& panel, int64_t t0, int64_t queries) {
    const int64_t D = attention_.D, E = attention_.E;
    panel.t0 = t0;
    panel.queries = queries;
    panel.lanes = tiles_ ? kPairLanes : RoundUp(queries, kWidth);
    panel.q = Take(Padded(D) * panel.lanes);
    panel.cotangent = Take(Padded(E) * panel.lanes);
    panel.q_rows = Take(all_tiles_ ? 0 : Padded(D) * panel.lanes);
    panel.cotangent_rows = Take(all_tiles_ ? 0 : Padded(E) * panel.lanes);
    panel.dq = Take(Padded(D) * panel.lanes);
    panel.max = Take(panel.lanes);
    panel.inverse_sum = Take(panel.lanes);
    panel.sink = Take(panel.lanes);
    panel.delta = Take(panel.lanes);
    panel.remainder = Take(panel.lanes);
    panel.blocks = Take((wanted_.logits ? KeyBlocks(attention_) : 1) * BlockFloats(problem_));

    const Matrix q = QueriesOf(attention_.q, t0), cotangent = QueriesOf(problem_.cotangent, t0);
    LoadTurned(panel, q, D, tiles_, panel.q);
    if (wanted_.logits) LoadTurned(panel, cotangent, E, all_tiles_, panel.cotangent);
    if (wanted_.k) LoadRows(panel, q, D, panel.q_rows, query_pairs_);
    if (wanted_.v) LoadRows(panel, cotangent, E, panel.cotangent_rows, cotangent_pairs_);
    if (wanted_.q) Clear(panel.dq, Padded(D) * panel.lanes);
    const int64_t row = position_ * attention_.T + t0;
    for (int64_t i = 0; i < panel.lanes; ++i) {
      panel.max[i] = i < queries ? attention_.maximum[row + i] : kInfinity;  // p is 0 in the lanes that pad
      panel.inverse_sum[i] = i < queries ? 1.0f / attention_.sum[row + i] : 0.0f;
    }
    Clear(panel.delta, panel.lanes);
    Clear(panel.sink, panel.lanes);
    for (int i = attention_.n_logit_steps; i < attention_.n_steps; ++i) {
      if (attention_.steps[i].op == Opcode::kSink) LoadSink(panel, attention_.modifiers[attention_.steps[i].modifier]);
    }
    panel.skips = bands_ && FillsUnderflow(fills_, panel.max, queries) && SumsFinite(panel) &&
                  AllFinite(q, queries, D) && AllFinite(cotangent, queries, E) && FactorsFinite(panel) && KeysFinite();
  }

  // The rows of a panel as K or V are multiplied with them.
  void LoadTurned(const Panel& panel, const Matrix& rows, int64_t cols, [[maybe_unused]] bool in_pairs, float* to) {
#if defined(__AMX_BF16__)
    if (in_pairs) return PackQueries(rows, panel.queries, cols, panel.lanes, AsBf16(to));
#endif
    CopyTransposed(rows, panel.queries, cols, to, panel.lanes);
  }

  // The rows of a panel as p or dx is multiplied with them, in tiles beside those of the other panels.
  void LoadRows(const Panel& panel, const Matrix& rows, int64_t cols, float* to, [[maybe_unused]] float* pairs) {
#if defined(__AMX_BF16__)
    constexpr int64_t kElements = kPairLanes * kPairLanes;  // of a panel, in 32 columns
    if (all_tiles_) {
      uint16_t* const beside = AsBf16(pairs) + PanelNumber(panel) * kElements;
      return PackRowPairs(rows, panel.queries, cols, at_once_ * kElements, beside);
    }
#endif
    PackRows(rows, panel.queries, cols, to);
  }

  int64_t PanelNumber(const Panel& panel) const { return &panel - panels_; }
  static uint16_t* AsBf16(float* scratch) { return reinterpret_cast<uint16_t*>(scratch); }

  // K and V of this position as tiles take them.
  void LoadKeyTiles() {
#if defined(__AMX_BF16__)
    if (!tiles_) return;
    const int64_t S = attention_.S, D = attention_.D, E = attention_.E;
    const Matrix k = ViewAt(attention_.k, attention_.k.Offset(index_, attention_.n_parallel));
    const Matrix v = ViewAt(attention_.v, attention_.v.Offset(index_, attention_.n_parallel));
    CopyPadded(k, S, D, sum_rows_, Padded(D), AsBf16(k_block_));
    if (!all_tiles_ || !wanted_.logits) return;
    CopyPadded(v, S, E, sum_rows_, Padded(E), AsBf16(v_block_));
    if (!wanted_.q) return;
    for (int64_t s0 = 0; s0 < S; s0 += kKeysPerBlock) {
      const Matrix block = ViewAt(attention_.k, attention_.k.Offset(index_, attention_.n_parallel) + s0 * k.row);
      PackValues(block, Min(kKeysPerBlock, S - s0), D, kKeysPerBlock, AsBf16(k_turned_) + s0 * Padded(D));
    }
#endif
  }

  // tile.x = K Q^T, up to the leading scale.
  template <int NV>
  void MultiplyKeys(const Panel& panel, const LogitTile& tile) {
    const float scale = LeadingScale(attention_);
#if defined(__AMX_BF16__)
    if (tiles_) {
      if constexpr (NV == kPairVecs) MultiplyTiles(k_block_, attention_.D, panel.q, tile, tile.x);
      if (scale != 1.0f) ForEach(tile, [&](Vec x) { return x * Broadcast(scale); });
      return;
    }
#endif
    Lhs k = KeysOf(attention_.k, tile, attention_.D, false, k_block_, &k_held_);
    k.data = k.Row(InBlock(tile));
    Product<NV>(k, panel.q, tile.keys, attention_.D, scale, tile.x);
  }

  // dp = V dO^T
  template <int NV>
  void MultiplyValues(const Panel& panel, const LogitTile& tile, float* dp) {
#if defined(__AMX_BF16__)
    if (all_tiles_) {
      if constexpr (NV == kPairVecs) MultiplyTiles(v_block_, attention_.E, panel.cotangent, tile, dp);
      return;
    }
#endif
    Lhs v = KeysOf(attention_.v, tile, attention_.E, false, v_block_, &v_held_);
    v.data = v.Row(InBlock(tile));
    Product<NV>(v, panel.cotangent, tile.keys, attention_.E, 1.0f, dp);
  }

  // dQ^T += K^T dx
  template <int NV>
  void AddToQueries(const Panel& panel, const LogitTile& tile) {
#if defined(__AMX_BF16__)
    if (all_tiles_) {
      if constexpr (NV == kPairVecs) AddToQueryTiles(panel, tile);
      return;
    }
#endif
    Lhs k = KeysOf(attention_.k, tile, attention_.D, true, k_turned_, &k_turned_held_);
    k.data += InBlock(tile) * k.col;
    Matmul<NV>(k, tile.x, attention_.D, tile.keys, panel.dq,
               [](float* to, int, Vec sum) { Store(to, Load(to) + sum); });
  }

#if defined(__AMX_BF16__)
  static void MultiplyTiles(float* rows, int64_t depth, float* queries, const LogitTile& tile, float* x) {
    PairProduct<kPairVecs>(AsBf16(rows) + tile.s0 * Padded(depth), Padded(depth), AsBf16(queries),
                           RoundUp(tile.keys, kPairRows), Padded(depth), x, false);
  }

  void AddToQueryTiles(const Panel& panel, const LogitTile& tile) {
    uint16_t* const dx = AsBf16(rounded_) + at_once_ * kKeysPerBlock * kPairLanes;
    StoreProbabilities<kPairVecs>(0, tile.keys, dx,
                                  [&](int64_t s, int i) { return Load(tile.x + s * kPairLanes + i * kWidth); });
    PadProbabilities<kPairVecs>(tile.keys, dx);
    const int64_t begin = InBlock(tile), s0 = tile.s0 - begin;
    PairProduct<kPairVecs>(AsBf16(k_turned_) + s0 * Padded(attention_.D) + begin, kKeysPerBlock, dx,
                           Padded(attention_.D), RoundUp(tile.keys, kPairDepth), panel.dq, true);
  }
#endif

  // Keeps p or dx of a panel, rounded, for AddRounded(): what there is none of is 0.
  void KeepRounded([[maybe_unused]] const Panel& panel, [[maybe_unused]] const LogitTile& tile) {
#if defined(__AMX_BF16__)
    const int64_t number = PanelNumber(panel), stride = at_once_ * kPairLanes;
    if (rounded_end_ == 0) rounded_begin_ = rounded_end_ = number;
    for (; rounded_end_ < number; ++rounded_end_) {
      RoundRows(nullptr, kKeysPerBlock, 0, stride, AsBf16(rounded_) + rounded_end_ * kPairLanes);
    }
    uint16_t* const rows = AsBf16(rounded_) + number * kPairLanes;
    const int64_t begin = InBlock(tile), end = begin + tile.keys;
    RoundRows(nullptr, begin, 0, stride, rows);
    RoundRows(tile.x, tile.keys, panel.queries, stride, rows + begin * stride);
    RoundRows(nullptr, kKeysPerBlock - end, 0, stride, rows + end * stride);
    rounded_end_ = number + 1;
#endif
  }

  // sums[s] += sum_t kept[s, t] B[t], over all panels.
  void AddRounded([[maybe_unused]] int64_t block, [[maybe_unused]] float* b, [[maybe_unused]] int64_t cols,
                  [[maybe_unused]] float* sums) {
#if defined(__AMX_BF16__)
    const int64_t s0 = block * kKeysPerBlock, stride = at_once_ * kPairLanes;
    const int64_t rows = RoundUp(Min(kKeysPerBlock, attention_.S - s0), kPairRows);
    const int64_t begin = rounded_begin_ * kPairLanes, depth = rounded_end_ * kPairLanes - begin;
    rounded_begin_ = rounded_end_ = 0;
    if (depth == 0) return;
    for (int64_t c = 0; c < cols; c += kPairLanes) {
      PairProduct<kPairVecs>(AsBf16(rounded_) + begin, stride, AsBf16(b) + c * stride + begin * kPairLanes, rows, depth,
                             sums + c * sum_rows_ + s0 * kPairLanes, true);
    }
#endif
  }

  void LoadSink(Panel& panel, const Operand& sink) {
    CopyTransposed(QueriesOf(sink, panel.t0), panel.queries, 1, panel.sink, panel.lanes);
    for (int64_t lane = 0; lane < panel.lanes; lane += kWidth) {
      const Vec x = Load(panel.sink + lane) - Load(panel.max + lane);
      Store(panel.sink + lane, ExpNonPositive(x) * Load(panel.inverse_sum + lane));
    }
  }

  // Where p is 0, so is what a block adds to the gradients, but for 0 * inf and 0 * NaN. These are what zeros are
  // multiplied with: the sums of the rows, Q, dO, modifiers, and K and V of this position.
  static bool SumsFinite(const Panel& panel) {
    for (int64_t i = 0; i < panel.queries; ++i) {
      if (panel.inverse_sum[i] * 0.0f != 0.0f) return false;
    }
    return true;
  }

  // A step whose derivative looks at the logits makes everything a factor that was added to them.
  bool FactorsFinite(const Panel& panel) const {
    bool looks = false;
    for (int i = 0; i < attention_.n_logit_steps; ++i) {
      looks |= attention_.steps[i].op == Opcode::kMul || attention_.steps[i].op == Opcode::kTanh;
    }
    for (int i = 0; i < attention_.n_steps; ++i) {
      const Step& step = attention_.steps[i];
      const bool factor = step.op == Opcode::kPostMul ||
                          (looks && (step.op == Opcode::kMul || step.op == Opcode::kAdd));
      if (!factor) continue;
      const Operand& modifier = attention_.modifiers[step.modifier];
      if (!AllFinite(QueriesOf(modifier, panel.t0), modifier.row == 0 ? 1 : panel.queries,
                     modifier.col == 0 ? 1 : attention_.S)) {
        return false;
      }
    }
    return true;
  }

  bool KeysFinite() {
    if (keys_finite_ == Known::kNotYet) {
      const Matrix k = ViewAt(attention_.k, attention_.k.Offset(index_, attention_.n_parallel));
      const Matrix v = ViewAt(attention_.v, attention_.v.Offset(index_, attention_.n_parallel));
      const bool finite = AllFinite(k, attention_.S, attention_.D) && AllFinite(v, attention_.S, attention_.E);
      keys_finite_ = finite ? Known::kYes : Known::kNo;
    }
    return keys_finite_ == Known::kYes;
  }

  // Leaves p and dp of the block, and adds to dV and delta.
  template <int NV>
  void Sweep(Panel& panel, const Block& at) {
    const LogitTile& tile = at.tile;
    next_kept_ = at.kept;
    MultiplyKeys<NV>(panel, tile);
    for (int i = FirstStep(); i < attention_.n_logit_steps; ++i) Forward(tile, i);
    Probabilities<NV>(panel, tile);
    LogitTile values = tile;  // f(p)
    next_kept_ = kept_after_;
    if (attention_.n_steps > attention_.n_logit_steps) {
      values.x = values_;
      CopyTile(tile, values_);
      for (int i = attention_.n_logit_steps; i < attention_.n_steps; ++i) Forward(values, i);
    }
    if (wanted_.v) AddToKeys(panel, values, panel.cotangent_rows, attention_.E, dv_);
    if (!wanted_.logits) return;

    MultiplyValues<NV>(panel, tile, at.dp);
    LogitTile gradient = tile;
    gradient.x = at.dp;
    for (int i = attention_.n_steps - 1; i >= attention_.n_logit_steps; --i) Backward(gradient, i);
    AddDelta<NV>(panel, tile, at.dp);
  }

  // Makes dx of p and dp, and adds to dQ, dK and the gradients of modifiers.
  template <int NV>
  void SweepBack(Panel& panel, const Block& at) {
    LogitTile gradient = at.tile;
    gradient.x = values_;  // what is in the cache: a block is not written again
    next_kept_ = at.kept + KeptTiles(problem_, 0, attention_.n_logit_steps) * kTileFloats;
    ThroughSoftmax<NV>(panel, at.tile, at.dp, gradient.x);
    for (int i = attention_.n_logit_steps - 1; i >= FirstStep(); --i) Backward(gradient, i);
    if (wanted_.q) AddToQueries<NV>(panel, gradient);
    if (wanted_.k) AddToKeys(panel, gradient, panel.q_rows, attention_.D, dk_);
  }

  // dK or dV += x B, at once or, where the panels make one product of tiles together, later.
  void AddToKeys(const Panel& panel, const LogitTile& tile, const float* b, int64_t cols, float* sums) {
    if (all_tiles_) return KeepRounded(panel, tile);
    AddProduct(tile, tile.x, b, tile.s0, sum_rows_, cols, sums);
  }

  // The scale that steps begin with is part of the products with Q and K.
  int FirstStep() const { return BeginsWithScale(attention_) ? 1 : 0; }

  // The first key of a tile, counted from that of its block.
  static int64_t InBlock(const LogitTile& tile) { return tile.s0 % kKeysPerBlock; }

  // The whole block that a tile lies in, which other panels may read too.
  Lhs KeysOf(const Operand& operand, const LogitTile& tile, int64_t cols, bool turned, float* copy, int64_t* held) {
    const int64_t offset = operand.Offset(index_, attention_.n_parallel), s0 = tile.s0 - InBlock(tile);
    const int64_t keys = Min(kKeysPerBlock, attention_.S - s0);
    return KeyBlock(operand, offset, s0, keys, cols, turned, n_panels_, copy, held);
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
    CopyTile(tile, next_kept_);
    next_kept_ += kTileFloats;
  }

  static void CopyTile(const LogitTile& tile, float* to) {
    for (int64_t i = 0; i < tile.keys * tile.lanes; i += kWidth) Store(to + i, Load(tile.x + i));
  }

  // x = exp(x - max) / sum
  template <int NV>
  void Probabilities(const Panel& panel, const LogitTile& tile) {
    for (int i = 0; i < NV; ++i) {
      const Vec max = Load(panel.max + i * kWidth), inverse = Load(panel.inverse_sum + i * kWidth);
      for (int64_t s = 0; s < tile.keys; ++s) {
        float* x = tile.x + s * tile.lanes + i * kWidth;
        Store(x, ExpNonPositive(Load(x) - max) * inverse);
      }
    }
  }

  // delta += sum_s p o dp, which is dp, bit for bit, where one p is 1 and all others are 0.
  template <int NV>
  void AddDelta(Panel& panel, const LogitTile& p, const float* dp) {
    Vec sum[NV];
    for (int i = 0; i < NV; ++i) sum[i] = Broadcast(0.0f);
    for (int64_t s = 0; s < p.keys; ++s) {
      for (int i = 0; i < NV; ++i) {
        const int64_t at = s * p.lanes + i * kWidth;
        sum[i] = Fma(Load(p.x + at), Load(dp + at), sum[i]);
      }
    }
    for (int i = 0; i < NV; ++i) Store(panel.delta + i * kWidth, Load(panel.delta + i * kWidth) + sum[i]);
  }

  // remainder = sum_s p o (dp - delta), where the dp of a sink is 0.
  //
  // Were p and delta exact it would be 0. As they are, all dx of a row share the error of delta, p times it, and add up
  // in dQ = dx K where exact ones cancel: as they do wherever keys resemble each other, or a row's dp.
  static void BeginRemainder(Panel& panel) {
    for (int64_t i = 0; i < panel.lanes; ++i) panel.remainder[i] = panel.sink[i] * (0.0f - panel.delta[i]);
  }

  template <int NV>
  static void AddRemainder(Panel& panel, const LogitTile& p, const float* dp) {
    Vec delta[NV], sum[NV];
    for (int i = 0; i < NV; ++i) {
      delta[i] = Load(panel.delta + i * kWidth);
      sum[i] = Broadcast(0.0f);
    }
    for (int64_t s = 0; s < p.keys; ++s) {
      for (int i = 0; i < NV; ++i) {
        const int64_t at = s * p.lanes + i * kWidth;
        sum[i] = Fma(Load(p.x + at), Load(dp + at) - delta[i], sum[i]);
      }
    }
    for (int i = 0; i < NV; ++i) Store(panel.remainder + i * kWidth, Load(panel.remainder + i * kWidth) + sum[i]);
  }

  // Rounding leaves more than 2^-32 of delta, or nothing. What is smaller comes from keys with next to no weight, and
  // the formula loses it, in float64 as well: a gradient of 0 stays 0. Nor has an infinite delta a remainder.
  static void FinishRemainder(Panel& panel) {
    for (int64_t i = 0; i < panel.lanes; ++i) {
      const float remainder = __builtin_fabsf(panel.remainder[i]), least = 0x1p-32f * __builtin_fabsf(panel.delta[i]);
      if (!(remainder > least && remainder < kInfinity)) panel.remainder[i] = 0.0f;
    }
  }

  // dx = p o (dp - delta - remainder)
  template <int NV>
  void ThroughSoftmax(const Panel& panel, const LogitTile& p, const float* dp, float* dx) {
    Vec delta[NV], remainder[NV];
    for (int i = 0; i < NV; ++i) {
      delta[i] = Load(panel.delta + i * kWidth);
      remainder[i] = Load(panel.remainder + i * kWidth);
    }
    for (int64_t s = 0; s < p.keys; ++s) {
      for (int i = 0; i < NV; ++i) {
        const int64_t at = s * p.lanes + i * kWidth;
        Store(dx + at, Load(p.x + at) * (Load(dp + at) - delta[i] - remainder[i]));
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
        return ForEachPair(gradient, gradient.x, kept, [](Vec dx, Vec y) {  // as JAX has it, also where dx is infinite
          return Fma(dx, y, dx) * (Broadcast(1.0f) - y);
        });
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
    float* data = part_ == 0 || gradient.VariesWithQuery() ? static_cast<float*>(to.data)
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
      WriteTransposed(panel.dq, panel.lanes, panel.queries, attention_.D, LeadingScale(attention_) * gradient.factor,
                      gradient.adds, TargetAt(gradient, panel.t0, 0));
    }
    for (int i = attention_.n_logit_steps; i < attention_.n_steps; ++i) {
      const Step& step = attention_.steps[i];
      if (step.op == Opcode::kSink && Wants(problem_, step)) AddSink(panel, step.modifier);
    }
  }

  // The sink's probability times the difference between its value, 0, and delta.
  void AddSink(const Panel& panel, int64_t modifier) {
    float* const x = values_;
    for (int64_t lane = 0; lane < panel.lanes; lane += kWidth) {
      const Vec delta = Load(panel.delta + lane) + Load(panel.remainder + lane);
      Store(x + lane, Load(panel.sink + lane) * (Broadcast(0.0f) - delta));
    }
    AddModifier({x, 0, 1, panel.t0, panel.queries, panel.lanes}, x, modifier);
  }

  void WriteKeys(Role role, const float* sums, int64_t cols, float scale) {
    for (int i = 0; i < problem_.n_gradients; ++i) {
      const Gradient& gradient = problem_.gradients[i];
      if (gradient.role != role) continue;
      WritePacked(all_tiles_, sums, attention_.S, sum_rows_, cols, scale * gradient.factor, gradient.adds,
                  TargetAt(gradient, 0, 0));
    }
  }

  enum class Known { kNotYet, kYes, kNo };

  const AttentionVjpProblem& problem_;
  const AttentionProblem& attention_;
  const Wanted wanted_;
  const bool tiles_, all_tiles_;  // products made of tiles of bfloat16: K Q^T, all
  const Fills fills_;
  const AttentionVjpPlan& plan_;
  const int64_t part_, outer_;
  const int64_t sum_rows_;  // of dk_ and dv_
  float* scratch_;          // what is not taken yet
  int64_t position_ = 0;
  ParallelIndex index_{};
  Panel panels_[kMaxPanels];
  int n_panels_ = 0;
  int64_t at_once_ = 0;  // n_panels_ at most
  int64_t rounded_begin_ = 0, rounded_end_ = 0;  // panels that rounded_ has
  bool bands_ = false;  // that a block can lie outside of
  Known keys_finite_ = Known::kNotYet;  // K and V of this position
  float* values_;       // tile: f(p) where there is an f, then dx
  float* modifier_;
  float* kept_after_;   // the tiles that the steps after the normaliser keep
  float* next_kept_ = nullptr;
  float* k_block_;          // [keys, D] of a block, or for tiles of all keys
  float* k_turned_;         // [D, keys] of a block, one after the other
  float* v_block_;          // [keys, E]
  float* rounded_;          // [keys of a block, queries of all panels], then pairs [keys of a block, queries of one]
  float* query_pairs_;      // [queries of all panels, D] in pairs, 32 columns after 32
  float* cotangent_pairs_;  // [queries of all panels, E] likewise
  float* dk_;                          // [sum_rows, D], packed
  float* dv_;                          // [sum_rows, E], packed
  int64_t k_held_ = -1, k_turned_held_ = -1, v_held_ = -1;  // first key of the copied block
};

// Splits the queries only where the threads would otherwise stand idle, and as far as the copies leave memory.
int64_t Parts(const AttentionVjpProblem& problem, int64_t items, int64_t threads) {
  int64_t copied = 0;
  for (int i = 0; i < problem.n_gradients; ++i) {
    const Gradient& gradient = problem.gradients[i];
    copied += gradient.VariesWithQuery() ? 0 : gradient.elements;
  }
  const int64_t panels = AllPanels(problem.attention);
  int64_t best = 1;
  double least_idle = 1e300;  // threads' time over the time they work
  for (int64_t parts = 1; parts <= Min(panels, 2 * threads); ++parts) {
    if (parts > 1 && copied * (parts - 1) > kPartFloats) break;
    // The largest part has this many panels, and a round takes as long as that.
    const int64_t rounds = CeilDiv(items * parts, threads) * CeilDiv(panels, parts);
    const double idle = static_cast<double>(rounds * threads) / static_cast<double>(items * panels);
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
