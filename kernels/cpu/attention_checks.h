// What the handlers of attention and of its gradients check in common. An operand that passes can be read through its
// strides without leaving its buffer.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "attention.h"
#include "checks.h"
#include "xla/ffi/api/ffi.h"

namespace zenith {

constexpr int64_t kMaxDistance = int64_t{1} << 62;  // a wider band is unbounded

inline ffi::Error CheckExtents(const AttentionProblem& problem) {
  auto check = [](const char* name, int64_t extent) {
    if (extent >= 0 && extent < kMaxExtent) return ffi::Error::Success();
    return Invalid("extent ", name, " is ", extent, ", expected 0 <= ", name, " < 2^31");
  };
  ZENITH_RETURN_IF_ERROR(check("T", problem.T));
  ZENITH_RETURN_IF_ERROR(check("S", problem.S));
  ZENITH_RETURN_IF_ERROR(check("D", problem.D));
  ZENITH_RETURN_IF_ERROR(check("E", problem.E));
  for (int i = 0; i < problem.n_parallel; ++i) ZENITH_RETURN_IF_ERROR(check("dims[i]", problem.dims[i]));
  return ffi::Error::Success();
}

// Every element the strides reach lies inside the buffer.
inline ffi::Error CheckBounds(const char* name, const AttentionProblem& problem, const Operand& operand, int64_t rows,
                              int64_t cols, int64_t elements) {
  int64_t last = 0;
  bool empty = false, overflow = false;
  auto axis = [&](int64_t extent, int64_t stride) {
    int64_t reach;
    if (extent == 0) empty = true;
    overflow |= stride < 0 || __builtin_mul_overflow(std::max<int64_t>(extent - 1, 0), stride, &reach) ||
                __builtin_add_overflow(last, reach, &last);
  };
  for (int i = 0; i < problem.n_parallel; ++i) axis(problem.dims[i], operand.parallel[i]);
  axis(rows, operand.row);
  axis(cols, operand.col);
  if (overflow) return Invalid("the strides of ", name, " are negative or overflow 64 bits");
  if (!empty && last >= elements) {
    return Invalid("the strides of ", name, " reach element ", last, ", the operand has ", elements);
  }
  return ffi::Error::Success();
}

enum class Axes { kAll, kNotSummed };

// The strides of a result visit each of its elements once: none is left unwritten, and no two threads write the same.
// With kNotSummed, this holds for the axes whose stride is not 0.
inline ffi::Error CheckDense(const char* name, const AttentionProblem& problem, const Operand& result, int64_t rows,
                             int64_t cols, int64_t elements, Axes which = Axes::kAll) {
  std::vector<std::pair<int64_t, int64_t>> axes = {{result.row, rows}, {result.col, cols}};
  for (int i = 0; i < problem.n_parallel; ++i) axes.emplace_back(result.parallel[i], problem.dims[i]);
  int64_t expected = 1;
  bool empty = false, dense = true;
  std::sort(axes.begin(), axes.end());
  for (auto [stride, extent] : axes) {
    empty |= extent == 0;
    if (extent <= 1 || (stride == 0 && which == Axes::kNotSummed)) continue;
    dense &= stride == expected && !__builtin_mul_overflow(expected, extent, &expected);
  }
  if (empty && elements == 0) return ffi::Error::Success();
  if (dense && expected == elements && (!empty || which == Axes::kNotSummed)) return ffi::Error::Success();
  return Invalid("the strides of ", name, " must visit each of its ", elements, " elements exactly once");
}

inline ffi::Error ToOperand(const char* name, ffi::AnyBuffer buffer, const AttentionProblem& problem,
                            const int64_t* strides, int64_t rows, int64_t cols, Operand* operand) {
  const std::optional<Dtype> dtype = ToDtype(buffer.element_type());
  if (!dtype) return Invalid(name, " has element type ", buffer.element_type(), ", expected f32, bf16, f16 or pred");
  operand->data = buffer.untyped_data();
  operand->dtype = *dtype;
  std::copy_n(strides, problem.n_parallel, operand->parallel);
  operand->row = strides[problem.n_parallel];
  operand->col = strides[problem.n_parallel + 1];
  ZENITH_RETURN_IF_ERROR(CheckBounds(name, problem, *operand, rows, cols, buffer.element_count()));
  if (rows <= 1) operand->row = 0;  // the same elements, and a modifier that is seen not to depend on t
  return ffi::Error::Success();
}

inline ffi::Error CheckFloat(const char* name, const Operand& operand) {
  if (operand.dtype != Dtype::kPred) return ffi::Error::Success();
  return Invalid(name, " has element type pred, expected f32, bf16 or f16");
}

// One float32 for each row of logits, in the order of the parallel axes, then t.
inline ffi::Error ToRows(const char* name, ffi::AnyBuffer buffer, const AttentionProblem& problem, float** rows) {
  if (buffer.element_type() != ffi::DataType::F32) {
    return Invalid(name, " has element type ", buffer.element_type(), ", expected f32");
  }
  const int64_t expected = problem.count * problem.T, elements = buffer.element_count();
  if (elements != expected) return Invalid(name, " has ", elements, " elements, expected ", expected, " (one a row)");
  *rows = static_cast<float*>(buffer.untyped_data());
  return ffi::Error::Success();
}

enum class Wants { kNothing, kFloat, kPred };

inline std::optional<Wants> ModifierOf(Opcode op) {
  switch (op) {
    case Opcode::kMul:
    case Opcode::kAdd:
    case Opcode::kSink:
    case Opcode::kPostMul: return Wants::kFloat;
    case Opcode::kSelect:
    case Opcode::kSelectAdd:
    case Opcode::kPostSelect: return Wants::kPred;
    case Opcode::kScale:
    case Opcode::kBand:
    case Opcode::kTanh:
    case Opcode::kMax:
    case Opcode::kOffset:
    case Opcode::kBandAdd: return Wants::kNothing;
  }
  return std::nullopt;
}

inline bool IsPost(Opcode op) { return op >= Opcode::kPostMul; }

inline ffi::Error ToSteps(Ints rows, Floats constants, const std::vector<Operand>& modifiers,
                          std::vector<Step>* steps) {
  if (rows.size() % 4 != 0) return Invalid("attribute steps_op has ", rows.size(), " elements, expected rows of 4");
  ZENITH_RETURN_IF_ERROR(CheckSize("steps_f", constants.size(), rows.size() / 4, "one for each step"));
  for (size_t i = 0; i < constants.size(); ++i) {
    const int64_t* row = rows.begin() + 4 * i;
    Step step{static_cast<Opcode>(row[0]), row[1], std::max(row[2], -kMaxDistance),
              std::min(row[3], kMaxDistance), constants.begin()[i]};
    step.lo = std::min(step.lo, kMaxDistance);
    step.hi = std::max(step.hi, -kMaxDistance);
    const std::optional<Wants> wants = ModifierOf(step.op);
    if (!wants) return Invalid("step ", i, " has the unknown opcode ", row[0]);
    if (*wants == Wants::kNothing) {
      step.modifier = -1;
    } else {
      if (row[1] < 0 || row[1] >= static_cast<int64_t>(modifiers.size())) {
        return Invalid("step ", i, " names modifier ", row[1], ", there are ", modifiers.size());
      }
      if ((modifiers[row[1]].dtype == Dtype::kPred) != (*wants == Wants::kPred)) {
        return Invalid("step ", i, " (opcode ", row[0], ") expects modifier ", row[1], " to be ",
                       *wants == Wants::kPred ? "pred" : "f32, bf16 or f16");
      }
    }
    if (step.op == Opcode::kSink && std::any_of(steps->begin(), steps->end(), [](const Step& other) {
          return other.op == Opcode::kSink;
        })) {
      return Invalid("step ", i, " is a second sink, one is possible");
    }
    if (!steps->empty() && IsPost(steps->back().op) && !IsPost(step.op)) {
      return Invalid("step ", i, " acts on the logits but follows a step that acts on the probabilities");
    }
    steps->push_back(step);
  }
  return ffi::Error::Success();
}

// The buffers and attributes that both calls have, as XLA hands them over.
struct AttentionArguments {
  ffi::AnyBuffer q, k, v;
  ffi::RemainingArgs modifiers;
  Ints dims, sizes, q_strides, k_strides, v_strides, mod_strides, steps_op;
  Floats steps_f;
};

// A problem and what it points to.
struct CheckedAttention {
  AttentionProblem problem{};
  std::vector<Operand> modifiers;
  std::vector<Step> steps;
  std::vector<int8_t> values_finite;
};

inline ffi::Error CheckAttention(const AttentionArguments& from, CheckedAttention* to) {
  if (from.dims.size() > kMaxParallel) {
    return Invalid("attribute dims has ", from.dims.size(), " elements, at most 8 are possible");
  }
  ZENITH_RETURN_IF_ERROR(CheckSize("sizes", from.sizes.size(), 4, "T, S, D, E"));
  const size_t rank = from.dims.size() + 2, n_modifiers = from.modifiers.size();
  ZENITH_RETURN_IF_ERROR(CheckSize("q_strides", from.q_strides.size(), rank, "parallel axes, t, d"));
  ZENITH_RETURN_IF_ERROR(CheckSize("k_strides", from.k_strides.size(), rank, "parallel axes, s, d"));
  ZENITH_RETURN_IF_ERROR(CheckSize("v_strides", from.v_strides.size(), rank, "parallel axes, s, e"));
  ZENITH_RETURN_IF_ERROR(
      CheckSize("mod_strides", from.mod_strides.size(), n_modifiers * rank, "parallel axes, t, s of each modifier"));

  AttentionProblem& problem = to->problem;
  problem.n_parallel = static_cast<int>(from.dims.size());
  std::copy(from.dims.begin(), from.dims.end(), problem.dims);
  problem.T = from.sizes.begin()[0];
  problem.S = from.sizes.begin()[1];
  problem.D = from.sizes.begin()[2];
  problem.E = from.sizes.begin()[3];
  const auto [T, S, D, E] = std::tie(problem.T, problem.S, problem.D, problem.E);
  ZENITH_RETURN_IF_ERROR(CheckExtents(problem));
  ZENITH_RETURN_IF_ERROR(ToOperand("q", from.q, problem, from.q_strides.begin(), T, D, &problem.q));
  ZENITH_RETURN_IF_ERROR(ToOperand("k", from.k, problem, from.k_strides.begin(), S, D, &problem.k));
  ZENITH_RETURN_IF_ERROR(ToOperand("v", from.v, problem, from.v_strides.begin(), S, E, &problem.v));
  ZENITH_RETURN_IF_ERROR(CheckFloat("q", problem.q));
  ZENITH_RETURN_IF_ERROR(CheckFloat("k", problem.k));
  ZENITH_RETURN_IF_ERROR(CheckFloat("v", problem.v));

  to->modifiers.resize(n_modifiers);
  for (size_t i = 0; i < n_modifiers; ++i) {
    ffi::ErrorOr<ffi::AnyBuffer> buffer = from.modifiers.get<ffi::AnyBuffer>(i);
    if (buffer.has_error()) return buffer.error();
    const std::string name = "modifier " + std::to_string(i);
    ZENITH_RETURN_IF_ERROR(
        ToOperand(name.c_str(), *buffer, problem, from.mod_strides.begin() + i * rank, T, S, &to->modifiers[i]));
  }
  ZENITH_RETURN_IF_ERROR(ToSteps(from.steps_op, from.steps_f, to->modifiers, &to->steps));
  for (const Step& step : to->steps) {  // a sink is read where there is no key, too
    if (step.op != Opcode::kSink) continue;
    const int64_t elements = from.modifiers.get<ffi::AnyBuffer>(step.modifier)->element_count();
    ZENITH_RETURN_IF_ERROR(CheckBounds("the sink", problem, to->modifiers[step.modifier], T, 1, elements));
  }

  problem.count = std::find(from.dims.begin(), from.dims.end(), 0) == from.dims.end() ? 1 : 0;
  int64_t rows;
  for (int64_t extent : from.dims) {
    if (__builtin_mul_overflow(problem.count, extent, &problem.count)) return Invalid("the extents overflow 64 bits");
  }
  if (__builtin_mul_overflow(problem.count, T, &rows)) return Invalid("the extents overflow 64 bits");
  problem.modifiers = to->modifiers.data();
  problem.steps = to->steps.data();
  problem.n_steps = static_cast<int>(to->steps.size());
  problem.n_logit_steps = static_cast<int>(
      std::count_if(to->steps.begin(), to->steps.end(), [](const Step& step) { return !IsPost(step.op); }));
  return ffi::Error::Success();
}

}  // namespace zenith
