// What the activation handlers check, and how they share an activation out to XLA's threads.
#pragma once

#include <algorithm>

#include "activation.h"
#include "checks.h"
#include "parallel.h"

namespace zenith {

inline ffi::Error ToKind(int64_t kind, ActivationProblem* problem) {
  if (kind < 0 || kind >= kActivations) {
    return Invalid("attribute kind is ", kind, ", expected 0 to ", kActivations - 1);
  }
  problem->kind = static_cast<ActivationKind>(kind);
  return ffi::Error::Success();
}

// The extent of the last axis; 0 for a scalar, which is refused.
inline int64_t Features(const ffi::AnyBuffer& buffer) {
  return buffer.dimensions().size() == 0 ? 0 : buffer.dimensions().back();
}

// The extents of the problem are those of `buffer` (named `name`): its last axis is the columns.
inline ffi::Error ToExtents(const char* name, const ffi::AnyBuffer& buffer, ActivationProblem* problem) {
  if (buffer.dimensions().size() == 0) return Invalid(name, " is a scalar, expected an axis of features");
  problem->cols = Features(buffer);
  problem->rows = problem->cols == 0 ? 0 : static_cast<int64_t>(buffer.element_count()) / problem->cols;
  return ffi::Error::Success();
}

// Columns offset to offset + cols of `buffer`, an array [..., features] of `rows` rows.
template <class Void>
ffi::Error ToRows(const char* name, ffi::AnyBuffer buffer, int64_t rows, int64_t cols, int64_t offset,
                  RowsView<Void>* result) {
  const std::optional<Dtype> dtype = ToDtype(buffer.element_type());
  if (!dtype || *dtype == Dtype::kPred) {
    return Invalid(name, " has element type ", static_cast<int>(buffer.element_type()), ", expected f32, bf16 or f16");
  }
  if (buffer.dimensions().size() == 0) return Invalid(name, " is a scalar, expected an axis of features");
  const int64_t features = Features(buffer), got = features == 0 ? 0 : buffer.element_count() / features;
  if (offset < 0 || offset > features || cols > features - offset) {
    return Invalid(name, " has ", features, " features, expected at least ", cols, " from ", offset, " on");
  }
  if (got != rows && cols != 0) return Invalid(name, " has ", got, " rows of features, expected ", rows);
  char* data = static_cast<char*>(buffer.untyped_data());
  *result = {data + offset * ElementBytes(*dtype), *dtype, features};
  return ffi::Error::Success();
}

// Runs the kernel on items of about kItem elements. Rows that lie side by side in every operand are one long row.
inline void RunActivation(ffi::ThreadPool pool, ActivationKernel::Run run, ActivationProblem problem) {
  constexpr int64_t kItem = 1 << 15;
  if (problem.rows == 0 || problem.cols == 0) return;
  bool dense = true;
  for (const Rows& rows : {problem.gate, problem.up, problem.cotangent}) {
    dense = dense && (rows.data == nullptr || rows.row == problem.cols);
  }
  for (const MutableRows& rows : {problem.out, problem.d_gate, problem.d_up}) {
    dense = dense && (rows.data == nullptr || rows.row == problem.cols);
  }
  if (dense && problem.gate_bias.data == nullptr && problem.up_bias.data == nullptr) {
    problem.cols *= problem.rows;
    problem.rows = 1;
  }
  const int64_t cols = std::min(problem.cols, kItem), rows = std::max<int64_t>(1, kItem / cols);
  const int64_t across = (problem.cols + cols - 1) / cols, down = (problem.rows + rows - 1) / rows;
  ParallelFor(pool, std::max<int64_t>(pool.num_threads(), 1), across * down, [&](auto next) {
    for (int64_t item = next(); item >= 0; item = next()) {
      const int64_t r = item / across * rows, c = item % across * cols;
      run(problem, r, std::min(r + rows, problem.rows), c, std::min(c + cols, problem.cols));
    }
  });
}

}  // namespace zenith
