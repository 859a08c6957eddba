// Products of very few rows, which take as long as reading the right-hand side: it streams by in place, end to end.
//
// Where columns are neighbours (`StreamRows`), each stretch of a row of it is multiplied with its element of every row
// of the left-hand side; where k are (`StreamDots`), its columns are, and the lanes of a dot product are added up last.
#pragma once

#include "matmul_paths.h"

namespace zenith::ZENITH_ISA {

constexpr int64_t kStreamRows = 4, kStreamCols = 2048;  // of an item: long stretches are what prefetchers like
constexpr int64_t kStreamDepth = 256, kStreamUnroll = 8;
constexpr int64_t kDotDepth = 4096;  // each of kWidth lanes adds up its share

struct Stretch {
  int64_t p, rows, col, cols;
};

inline bool StreamsRows(const MatmulProblem& problem) {
  return problem.rhs.col.axes <= 1 && (problem.rhs.col.Step() == 1 || problem.N == 1);
}
inline bool StreamsDots(const MatmulProblem& problem) {
  return !StreamsRows(problem) && problem.rhs.col.axes <= 1 && problem.rhs.row.axes <= 1 && problem.rhs.row.Step() == 1;
}

template <class Element>
inline Vec LoadUpTo(const typename Element::Storage* p, int64_t live) {
  return live >= kWidth ? Element::LoadVec(p) : Element::LoadFirst(p, live);
}

template <class Element, int M>
void RowsOf(const typename Element::Storage* b, const DepthPlaces& ks, int64_t depth, int64_t cols, const float* a,
            float* sums) {
  if (depth == 0) __builtin_memset(sums, 0, M * kStreamCols * sizeof(float));
  for (int64_t k = 0; k < depth; k += kStreamUnroll) {
    const int64_t unrolled = Min(kStreamUnroll, depth - k);
    const typename Element::Storage* row[kStreamUnroll];
    for (int64_t i = 0; i < unrolled; ++i) row[i] = b + ks[k + i];
    for (int64_t c = 0; c < cols; c += kWidth) {
      Vec acc[M];
      for (int m = 0; m < M; ++m) acc[m] = Broadcast(0.0f);
#pragma GCC unroll 8
      for (int64_t i = 0; i < kStreamUnroll; ++i) {
        if (i >= unrolled) break;
        const Vec x = LoadUpTo<Element>(row[i] + c, cols - c);
        for (int m = 0; m < M; ++m) acc[m] = Fma(Broadcast(a[m * kStreamDepth + k + i]), x, acc[m]);
      }
      for (int m = 0; m < M; ++m) Keep(sums + m * kStreamCols + c, acc[m], k > 0);
    }
  }
}

template <class Element, int M>
void DotsOf(const typename Element::Storage* b, int64_t col, int64_t depth, int64_t cols, const float* a, float* sums) {
  for (int64_t c = 0; c < cols; c += kWidth) {
    Vec dots[M][kWidth];
    for (int i = 0; i < kWidth; ++i) {
      const typename Element::Storage* column = b + Min(c + i, cols - 1) * col;
      Vec even[M], odd[M];
      for (int m = 0; m < M; ++m) even[m] = odd[m] = Broadcast(0.0f);
      for (int64_t k = 0; k < depth; k += 2 * kWidth) {
        const Vec x = LoadUpTo<Element>(column + k, depth - k);
        for (int m = 0; m < M; ++m) even[m] = Fma(Load(a + m * kDotDepth + k), x, even[m]);
        if (k + kWidth >= depth) break;
        const Vec y = LoadUpTo<Element>(column + k + kWidth, depth - k - kWidth);
        for (int m = 0; m < M; ++m) odd[m] = Fma(Load(a + m * kDotDepth + k + kWidth), y, odd[m]);
      }
      for (int m = 0; m < M; ++m) dots[m][i] = even[m] + odd[m];
    }
    for (int m = 0; m < M; ++m) {
      Transpose(dots[m]);
      for (int half = kWidth / 2; half > 0; half /= 2) {
        for (int i = 0; i < half; ++i) dots[m][i] = dots[m][i] + dots[m][i + half];
      }
      Store(sums + m * kStreamCols + c, dots[m][0]);
    }
  }
}

// sums[m][c] = sum over one block of k from `k` on; `a` has room for the rows of lhs there.
inline void StreamRows(const MatmulProblem& problem, const Stretch& at, int64_t k, float* a, float* sums) {
  const int64_t depth = Min(kStreamDepth, problem.K - k);
  const DepthPlaces ks(problem.rhs.row, k, depth), lhs_ks(problem.lhs.col, k, depth);
  FloatPath::CopyRows(problem.lhs, at.p, RowPlaces(problem.lhs.row, 0, at.rows), at.rows, lhs_ks, depth, a,
                      kStreamDepth);
  WithFloat(problem.rhs.dtype, [&](auto element) {
    using Element = decltype(element);
    auto* b = static_cast<const typename Element::Storage*>(problem.rhs.data) + problem.rhs.parallel.Offset(at.p) +
              problem.rhs.col.Offset(at.col);
    static_assert(kStreamRows == 4, "one entry for each number of rows");
    constexpr decltype(&RowsOf<Element, 1>) kRows[] = {RowsOf<Element, 1>, RowsOf<Element, 2>, RowsOf<Element, 3>,
                                                       RowsOf<Element, 4>};
    kRows[at.rows - 1](b, ks, depth, at.cols, a, sums);
  });
}

inline void StreamDots(const MatmulProblem& problem, const Stretch& at, int64_t k, float* a, float* sums) {
  const int64_t depth = Min(kDotDepth, problem.K - k);
  const RowPlaces rows(problem.lhs.row, 0, at.rows);
  for (int64_t d = 0; d < depth; d += kMaxDepth) {
    const int64_t count = Min(kMaxDepth, depth - d);
    FloatPath::CopyRows(problem.lhs, at.p, rows, at.rows, DepthPlaces(problem.lhs.col, k + d, count), count, a + d,
                        kDotDepth);
  }
  // What the last vector reads beyond is multiplied by 0, and must not be NaN.
  for (int64_t m = 0; m < at.rows; ++m) {
    for (int64_t d = depth; d < Min(kDotDepth, depth + kWidth); ++d) a[m * kDotDepth + d] = 0.0f;
  }
  WithFloat(problem.rhs.dtype, [&](auto element) {
    using Element = decltype(element);
    auto* b = static_cast<const typename Element::Storage*>(problem.rhs.data) + problem.rhs.parallel.Offset(at.p) +
              problem.rhs.col.Offset(at.col) + k;
    static_assert(kStreamRows == 4, "one entry for each number of rows");
    constexpr decltype(&DotsOf<Element, 1>) kDots[] = {DotsOf<Element, 1>, DotsOf<Element, 2>, DotsOf<Element, 3>,
                                                       DotsOf<Element, 4>};
    kDots[at.rows - 1](b, problem.rhs.col.Step(), depth, at.cols, a, sums);
  });
}

}  // namespace zenith::ZENITH_ISA
