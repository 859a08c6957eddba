// out = epilogue(lhs rhs) in blocks, as in Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication"
// (2008): a block of the right-hand side is packed into panels that stay in the second cache, panels of rows of the
// left-hand side pass by them through the first one, and sums are finished (matmul_epilogue.h) where they were made.
//
// rhs is packed once for all blocks of rows (`Pack`), or by the item that multiplies where there is one block of rows.
// With very few rows it is not worth packing: rhs streams by in place (matmul_stream.h).
#include "matmul_epilogue.h"
#include "matmul_paths.h"
#include "matmul_stream.h"

namespace zenith::ZENITH_ISA {
namespace {

using Path = MatmulPlan::Path;

// What item number `item` computes.
struct Block {
  int64_t p, row, rows, col, cols, col_block;
};
Block BlockOf(const MatmulProblem& problem, const MatmulPlan& plan, int64_t item) {
  const int64_t row_block = item % plan.row_blocks, col_block = item / plan.row_blocks % plan.col_blocks;
  const int64_t p = item / plan.row_blocks / plan.col_blocks;
  const int64_t row = row_block * plan.rows, col = col_block * plan.cols;
  return {p, row, Min(plan.rows, problem.M - row), col, Min(plan.cols, problem.N - col), col_block};
}

// Elements of a packed block of rhs at its full size; of all of them at position p, where it lies among them.
template <class P>
int64_t PackedBlock(const MatmulPlan& plan) {
  return RoundUp(plan.cols, P::kCols) * RoundUp(plan.depth, P::kDepthStep);
}
template <class P>
int64_t PackedAt(const MatmulPlan& plan, int64_t p, int64_t col_block, int64_t k_block) {
  return ((p * plan.col_blocks + col_block) * plan.k_blocks + k_block) * PackedBlock<P>(plan);
}

// A few rows of rhs at a time, so that they are read from end to end.
template <class P>
void PackBlock(const MatmulProblem& problem, const MatmulPlan& plan, int64_t p, int64_t col, int64_t cols, int64_t k,
               typename P::Stored* to) {
  const int64_t depth = Min(plan.depth, problem.K - k), all_depth = RoundUp(depth, P::kDepthStep);
  for (int64_t chunk = 0; chunk < depth; chunk += P::kChunk) {
    const int64_t rows = Min(P::kChunk, depth - chunk);
    const DepthPlaces ks(problem.rhs.row, k + chunk, rows);
    for (int64_t c = 0; c < cols; c += P::kStrip) {
      const int64_t live = Min(P::kStrip, cols - c);
      P::Pack(problem.rhs, p, ks, rows, ColPlaces(problem.rhs.col, col + c, live), live,
              to + c * all_depth + chunk * P::StripWidth(live));
    }
  }
}

template <class P>
void Pack(const MatmulProblem& problem, const MatmulPlan& plan, int64_t item, float* packed) {
  const int64_t k_block = item % plan.k_blocks, col_block = item / plan.k_blocks % plan.col_blocks;
  const int64_t p = item / plan.k_blocks / plan.col_blocks, col = col_block * plan.cols;
  PackBlock<P>(problem, plan, p, col, Min(plan.cols, problem.N - col), k_block * plan.depth,
               reinterpret_cast<typename P::Stored*>(packed) + PackedAt<P>(plan, p, col_block, k_block));
}

// The parts of a thread's scratch, in floats: sums, rows of lhs, a block of rhs.
template <class P>
struct Scratch {
  static int64_t Sums(const MatmulPlan& plan) {
    return plan.k_blocks == 1 ? P::kRows * P::kCols : RoundUp(plan.rows, P::kRows) * RoundUp(plan.cols, P::kCols);
  }
  static int64_t RowStride(const MatmulPlan& plan) {  // rows one cache line further than whole ones never collide
    return RoundUp(plan.depth, P::kDepthStep) + 64 / sizeof(typename P::Stored);
  }
  static int64_t InFloats(int64_t elements) { return RoundUp(elements * sizeof(typename P::Stored), 64) / 4; }
  static int64_t Rows(const MatmulPlan& plan) { return InFloats(P::kRows * RowStride(plan)); }
  static int64_t Floats(const MatmulPlan& plan) {
    return Sums(plan) + Rows(plan) + (plan.packs == 0 ? InFloats(PackedBlock<P>(plan)) : 0);
  }
};

template <class P>
void Run(const MatmulProblem& problem, const MatmulPlan& plan, int64_t item, const float* packed, float* scratch) {
  using Stored = typename P::Stored;
  const Block block = BlockOf(problem, plan, item);
  float* sums = scratch;
  Stored* copied = reinterpret_cast<Stored*>(scratch + Scratch<P>::Sums(plan));
  Stored* own = reinterpret_cast<Stored*>(scratch + Scratch<P>::Sums(plan) + Scratch<P>::Rows(plan));
  const int64_t stride = Scratch<P>::RowStride(plan), panels = CeilDiv(block.cols, P::kCols);
  P::Begin();
  for (int64_t k_block = 0; k_block < plan.k_blocks; ++k_block) {
    const int64_t k = k_block * plan.depth, depth = Min(plan.depth, problem.K - k);
    const bool last = k_block == plan.k_blocks - 1;
    const DepthPlaces ks(problem.lhs.col, k, depth);
    const Stored* b = reinterpret_cast<const Stored*>(packed) + PackedAt<P>(plan, block.p, block.col_block, k_block);
    if (plan.packs == 0) {
      PackBlock<P>(problem, plan, block.p, block.col, block.cols, k, own);
      b = own;
    }
    for (int64_t r = 0; r < block.rows; r += P::kRows) {
      const int64_t rows = Min(P::kRows, block.rows - r);
      const RowPlaces rs(problem.lhs.row, block.row + r, rows);
      const Stored* a = P::InPlace(problem.lhs, rs, ks, rows, depth);
      if (a == nullptr) P::CopyRows(problem.lhs, block.p, rs, rows, ks, depth, copied, stride);
      else a += problem.lhs.parallel.Offset(block.p);
      for (int64_t panel = 0; panel < panels; ++panel) {
        const int64_t c = panel * P::kCols, cols = Min(P::kCols, block.cols - c);
        float* to = plan.k_blocks == 1 ? sums : sums + (r / P::kRows * panels + panel) * P::kRows * P::kCols;
        P::Product(a == nullptr ? copied : a, a == nullptr ? stride : rs.step(), rows,
                   b + c * RoundUp(depth, P::kDepthStep), cols, depth, k_block > 0, to);
        if (last) Finish(problem, {to, P::Width(cols), block.p, block.row + r, rows, block.col + c, cols});
      }
    }
  }
  P::End();
}

// The sums of all columns of an item at once, then their epilogue.
void Stream(const MatmulProblem& problem, const MatmulPlan& plan, int64_t item, const float*, float* scratch) {
  const Block block = BlockOf(problem, plan, item);
  float *total = scratch, *sums = total + kStreamRows * kStreamCols, *a = sums + kStreamRows * kStreamCols;
  const bool dots = StreamsDots(problem);
  const int64_t depth = dots ? kDotDepth : kStreamDepth;
  for (int64_t k = 0; k == 0 || k < problem.K; k += depth) {
    float* to = k == 0 ? total : sums;
    (dots ? StreamDots : StreamRows)(problem, {block.p, block.rows, block.col, block.cols}, k, a, to);
    for (int64_t i = 0; k > 0 && i < block.rows * kStreamCols; i += kWidth) Keep(total + i, Load(sums + i), true);
  }
  for (int64_t c = 0; c < block.cols; c += kMaxPanelCols) {
    const int64_t cols = Min(kMaxPanelCols, block.cols - c);
    Finish(problem, {total + c, kStreamCols, block.p, 0, block.rows, block.col + c, cols});
  }
}

// Blocks of nearly equal size.
void Cut(int64_t size, int64_t most, int64_t unit, int64_t* block, int64_t* blocks) {
  *blocks = size == 0 ? 1 : CeilDiv(size, most);
  *block = RoundUp(CeilDiv(size, *blocks), unit);
  *blocks = size == 0 ? 1 : CeilDiv(size, *block);
}

constexpr int64_t kWorthAThread = 1 << 20;  // multiplications

int64_t ItemsWanted(const MatmulProblem& problem, int64_t threads) {
  const double work = 1.0 * problem.P * problem.M * problem.N * (problem.K + 1);
  if (threads <= 1 || work < 2 * kWorthAThread) return 1;
  return work < 3.0 * threads * kWorthAThread ? static_cast<int64_t>(work / kWorthAThread) : 3 * threads;
}

// With up to this many rows rhs is packed by the items that multiply, each its own columns: few where there are few
// rows, so that what is packed is still in the first caches.
constexpr int64_t kOneBlockRows = 512, kFewRows = 128;

template <class P>
int64_t ColsOfOneBlock(int64_t rows) {
  if (rows <= kFewRows) return 4 * P::kCols;
  return RoundUp(Min(P::kBlockCols, P::kBlockRows * P::kBlockCols / rows), P::kCols);
}

template <class P>
void Divide(const MatmulProblem& problem, int64_t threads, MatmulPlan* plan) {
  const int64_t wanted = ItemsWanted(problem, threads);
  int64_t rows = P::kBlockRows, cols = P::kBlockCols;
  if (problem.M <= kOneBlockRows) {
    cols = ColsOfOneBlock<P>(problem.M);
    rows = kOneBlockRows;
  }
  Cut(problem.K, P::kDepth, P::kDepthStep, &plan->depth, &plan->k_blocks);
  while (true) {
    Cut(problem.M, rows, P::kRows, &plan->rows, &plan->row_blocks);
    Cut(problem.N, cols, P::kCols, &plan->cols, &plan->col_blocks);
    plan->items = problem.P * plan->row_blocks * plan->col_blocks;
    if (plan->items >= wanted) break;
    if (plan->row_blocks > 1 && plan->rows >= 4 * P::kRows) rows = plan->rows / 2;
    else if (plan->cols >= 2 * P::kCols) cols = RoundUp(plan->cols / 2, P::kCols);
    else if (plan->rows >= 2 * P::kRows) rows = RoundUp(plan->rows / 2, P::kRows);
    else break;
  }
  plan->packs = plan->row_blocks == 1 ? 0 : problem.P * plan->col_blocks * plan->k_blocks;
  plan->packed_floats = plan->packs == 0 ? 0 : Scratch<P>::InFloats(PackedAt<P>(*plan, problem.P, 0, 0));
  plan->scratch_floats = Scratch<P>::Floats(*plan);
}

MatmulPlan PlanStream(const MatmulProblem& problem, int64_t threads) {
  MatmulPlan plan{Path::kStream, kStreamRows, kStreamCols, kStreamDepth, 1, 1, 1, 0, 0, 0, 0};
  const int64_t wanted = ItemsWanted(problem, threads);
  const int64_t cols = Min(kStreamCols, RoundUp(CeilDiv(problem.N, wanted), 4 * kWidth));
  Cut(problem.N, cols, kWidth, &plan.cols, &plan.col_blocks);
  plan.items = problem.P * plan.col_blocks;
  plan.scratch_floats = 2 * kStreamRows * kStreamCols + kStreamRows * kDotDepth;
  return plan;
}

// Dispatch: what each path of this instruction set runs.
struct PathKernel {
  void (*divide)(const MatmulProblem&, int64_t threads, MatmulPlan*);
  void (*pack)(const MatmulProblem&, const MatmulPlan&, int64_t item, float* packed);
  void (*run)(const MatmulProblem&, const MatmulPlan&, int64_t item, const float* packed, float* scratch);
};
template <class P>
constexpr PathKernel kPathKernel = {Divide<P>, Pack<P>, Run<P>};

#if defined(__AMX_BF16__)
constexpr Path kBf16Path = Path::kTiles;
constexpr PathKernel kBf16Kernel = kPathKernel<TilePath>;
#elif defined(__AVX512BF16__)
constexpr Path kBf16Path = Path::kPairs;
constexpr PathKernel kBf16Kernel = kPathKernel<PairPath>;
#else
constexpr Path kBf16Path = Path::kFloats;
constexpr PathKernel kBf16Kernel = kPathKernel<FloatPath>;
#endif

const PathKernel& KernelOf(Path path) { return path == Path::kFloats ? kPathKernel<FloatPath> : kBf16Kernel; }

MatmulPlan PlanMatmul(const MatmulProblem& problem, int64_t threads) {
  if (problem.M <= kStreamRows && (StreamsRows(problem) || StreamsDots(problem))) return PlanStream(problem, threads);
  const bool bf16 = problem.lhs.dtype == Dtype::kBf16 && problem.rhs.dtype == Dtype::kBf16;
  MatmulPlan plan{};
  plan.path = bf16 ? kBf16Path : Path::kFloats;
  KernelOf(plan.path).divide(problem, threads, &plan);
  return plan;
}

void PackMatmul(const MatmulProblem& problem, const MatmulPlan& plan, int64_t item, float* packed) {
  KernelOf(plan.path).pack(problem, plan, item, packed);
}

void RunMatmul(const MatmulProblem& problem, const MatmulPlan& plan, int64_t item, const float* packed,
               float* scratch) {
  (plan.path == Path::kStream ? Stream : KernelOf(plan.path).run)(problem, plan, item, packed, scratch);
}

}  // namespace

const MatmulKernel kMatmul = {PlanMatmul, PackMatmul, RunMatmul};

}  // namespace zenith::ZENITH_ISA
