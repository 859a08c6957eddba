// The XLA custom call "zenith_attention": checks its operands and attributes, and runs the kernel on XLA's threads.
//
// attention.h has the mathematics and the steps, zenith_mlir/kernels/cpu/attention.py the Python side of this interface.
#include "attention.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <exception>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "isa.h"
#include "parallel.h"
#include "xla/ffi/api/ffi.h"

namespace zenith {
namespace {

namespace ffi = xla::ffi;
using Ints = ffi::Span<const int64_t>;
using Floats = ffi::Span<const float>;

constexpr int64_t kMaxExtent = int64_t{1} << 31;
constexpr int64_t kMaxDistance = int64_t{1} << 62;  // a wider band is unbounded

template <class... Parts>
ffi::Error Invalid(const Parts&... parts) {
  std::ostringstream message;
  message << "zenith_attention: ";
  (message << ... << parts);
  return ffi::Error::InvalidArgument(message.str());
}

#define ZENITH_RETURN_IF_ERROR(expression)              \
  if (ffi::Error error = (expression); error.failure()) \
  return error

std::optional<Dtype> ToDtype(ffi::DataType type) {
  switch (type) {
    case ffi::DataType::F32: return Dtype::kF32;
    case ffi::DataType::BF16: return Dtype::kBf16;
    case ffi::DataType::F16: return Dtype::kF16;
    case ffi::DataType::PRED: return Dtype::kPred;
    default: return std::nullopt;
  }
}

ffi::Error CheckSize(const char* name, size_t got, size_t expected, const char* meaning) {
  if (got == expected) return ffi::Error::Success();
  return Invalid("attribute ", name, " has ", got, " elements, expected ", expected, " (", meaning, ")");
}

ffi::Error CheckExtents(const AttentionProblem& problem) {
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
ffi::Error CheckBounds(const char* name, const AttentionProblem& problem, const Operand& operand, int64_t rows,
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

// The strides of out visit each of its elements once: no element is left unwritten, and no two threads write the same.
ffi::Error CheckDense(const AttentionProblem& problem, int64_t elements) {
  std::vector<std::pair<int64_t, int64_t>> axes = {{problem.out.row, problem.T}, {problem.out.col, problem.E}};
  for (int i = 0; i < problem.n_parallel; ++i) axes.emplace_back(problem.out.parallel[i], problem.dims[i]);
  int64_t expected = 1;
  bool empty = false, dense = true;
  std::sort(axes.begin(), axes.end());
  for (auto [stride, extent] : axes) {
    empty |= extent == 0;
    if (extent <= 1) continue;
    dense &= stride == expected && !__builtin_mul_overflow(expected, extent, &expected);
  }
  if (empty ? elements == 0 : dense && expected == elements) return ffi::Error::Success();
  return Invalid("the strides of out must visit each of its ", elements, " elements exactly once");
}

ffi::Error ToOperand(const char* name, ffi::AnyBuffer buffer, const AttentionProblem& problem, const int64_t* strides,
                     int64_t rows, int64_t cols, Operand* operand) {
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

ffi::Error CheckFloat(const char* name, const Operand& operand) {
  if (operand.dtype != Dtype::kPred) return ffi::Error::Success();
  return Invalid(name, " has element type pred, expected f32, bf16 or f16");
}

enum class Wants { kNothing, kFloat, kPred };

std::optional<Wants> ModifierOf(Opcode op) {
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

bool IsPost(Opcode op) { return op >= Opcode::kPostMul; }

ffi::Error ToSteps(Ints rows, Floats constants, const std::vector<Operand>& modifiers, std::vector<Step>* steps) {
  if (rows.size() % 4 != 0) return Invalid("attribute steps_op has ", rows.size(), " elements, expected rows of 4");
  ZENITH_RETURN_IF_ERROR(CheckSize("steps_f", constants.size(), rows.size() / 4, "one for each step"));
  for (size_t i = 0; i < constants.size(); ++i) {
    const int64_t* row = rows.begin() + 4 * i;
    Step step{static_cast<Opcode>(row[0]), static_cast<int>(row[1]), std::max(row[2], -kMaxDistance),
              std::min(row[3], kMaxDistance), constants.begin()[i]};
    step.lo = std::min(step.lo, kMaxDistance);
    step.hi = std::max(step.hi, -kMaxDistance);
    const std::optional<Wants> wants = ModifierOf(step.op);
    if (!wants) return Invalid("step ", i, " has the unknown opcode ", row[0]);
    if (*wants != Wants::kNothing) {
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

const AttentionKernel& Kernel() {
#if defined(ZENITH_X86)
  switch (ActiveIsa()) {
    case Isa::kAvx512: return avx512::kAttention;
    case Isa::kAvx2: return avx2::kAttention;
    case Isa::kPortable: break;
  }
#endif
  return portable::kAttention;
}

ffi::Error RunKernel(ffi::ThreadPool pool, const AttentionProblem& problem) {
  const AttentionKernel& kernel = Kernel();
  const int64_t threads = std::max<int64_t>(pool.num_threads(), 1);
  const AttentionPlan plan = kernel.plan(problem, threads);
  std::atomic<bool> out_of_memory{false};
  ParallelFor(pool, threads, plan.items, [&](auto next) {
    auto bytes = static_cast<size_t>(plan.scratch_floats) * sizeof(float);
    std::unique_ptr<float, decltype(&std::free)> scratch(
        static_cast<float*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64)), &std::free);
    if (!scratch) out_of_memory = true;
    for (int64_t item = next(); item >= 0; item = next()) {
      if (scratch) kernel.run(problem, plan, item, scratch.get());
    }
  });
  if (!out_of_memory) return ffi::Error::Success();
  std::ostringstream message;
  message << "zenith_attention: no memory for " << plan.scratch_floats << " floats of scratch a thread";
  return ffi::Error(ffi::ErrorCode::kResourceExhausted, message.str());
}

ffi::Error Attention(ffi::ThreadPool pool, ffi::AnyBuffer q, ffi::AnyBuffer k, ffi::AnyBuffer v,
                     ffi::RemainingArgs modifier_buffers, ffi::Result<ffi::AnyBuffer> out, Ints dims, Ints sizes,
                     Ints q_strides, Ints k_strides, Ints v_strides, Ints out_strides, Ints mod_strides, Ints steps_op,
                     Floats steps_f) try {
  if (dims.size() > kMaxParallel) return Invalid("attribute dims has ", dims.size(), " elements, at most 8 are possible");
  ZENITH_RETURN_IF_ERROR(CheckSize("sizes", sizes.size(), 4, "T, S, D, E"));
  const size_t rank = dims.size() + 2, n_modifiers = modifier_buffers.size();
  ZENITH_RETURN_IF_ERROR(CheckSize("q_strides", q_strides.size(), rank, "parallel axes, t, d"));
  ZENITH_RETURN_IF_ERROR(CheckSize("k_strides", k_strides.size(), rank, "parallel axes, s, d"));
  ZENITH_RETURN_IF_ERROR(CheckSize("v_strides", v_strides.size(), rank, "parallel axes, s, e"));
  ZENITH_RETURN_IF_ERROR(CheckSize("out_strides", out_strides.size(), rank, "parallel axes, t, e"));
  ZENITH_RETURN_IF_ERROR(
      CheckSize("mod_strides", mod_strides.size(), n_modifiers * rank, "parallel axes, t, s of each modifier"));

  AttentionProblem problem{};
  problem.n_parallel = static_cast<int>(dims.size());
  std::copy(dims.begin(), dims.end(), problem.dims);
  problem.T = sizes.begin()[0];
  problem.S = sizes.begin()[1];
  problem.D = sizes.begin()[2];
  problem.E = sizes.begin()[3];
  const auto [T, S, D, E] = std::tie(problem.T, problem.S, problem.D, problem.E);
  ZENITH_RETURN_IF_ERROR(CheckExtents(problem));
  ZENITH_RETURN_IF_ERROR(ToOperand("q", q, problem, q_strides.begin(), T, D, &problem.q));
  ZENITH_RETURN_IF_ERROR(ToOperand("k", k, problem, k_strides.begin(), S, D, &problem.k));
  ZENITH_RETURN_IF_ERROR(ToOperand("v", v, problem, v_strides.begin(), S, E, &problem.v));
  ZENITH_RETURN_IF_ERROR(ToOperand("out", *out, problem, out_strides.begin(), T, E, &problem.out));
  ZENITH_RETURN_IF_ERROR(CheckFloat("q", problem.q));
  ZENITH_RETURN_IF_ERROR(CheckFloat("k", problem.k));
  ZENITH_RETURN_IF_ERROR(CheckFloat("v", problem.v));
  ZENITH_RETURN_IF_ERROR(CheckFloat("out", problem.out));
  ZENITH_RETURN_IF_ERROR(CheckDense(problem, out->element_count()));

  std::vector<Operand> modifiers(n_modifiers);
  for (size_t i = 0; i < n_modifiers; ++i) {
    ffi::ErrorOr<ffi::AnyBuffer> buffer = modifier_buffers.get<ffi::AnyBuffer>(i);
    if (buffer.has_error()) return buffer.error();
    const std::string name = "modifier " + std::to_string(i);
    ZENITH_RETURN_IF_ERROR(
        ToOperand(name.c_str(), *buffer, problem, mod_strides.begin() + i * rank, T, S, &modifiers[i]));
  }
  std::vector<Step> steps;
  ZENITH_RETURN_IF_ERROR(ToSteps(steps_op, steps_f, modifiers, &steps));

  if (out->element_count() == 0) return ffi::Error::Success();
  problem.count = 1;
  for (int64_t extent : dims) problem.count *= extent;
  problem.modifiers = modifiers.data();
  problem.steps = steps.data();
  problem.n_steps = static_cast<int>(steps.size());
  problem.n_logit_steps = static_cast<int>(
      std::count_if(steps.begin(), steps.end(), [](const Step& step) { return !IsPost(step.op); }));
  std::vector<int8_t> values_finite(problem.count);
  problem.values_finite = values_finite.data();
  return RunKernel(pool, problem);
} catch (const std::exception& error) {  // XLA is compiled without exceptions: none may reach it
  return ffi::Error::Internal(std::string("zenith_attention: ") + error.what());
}

}  // namespace
}  // namespace zenith

// The macro below defines it; only the declaration can make it visible.
extern "C" __attribute__((visibility("default"))) XLA_FFI_Error* zenith_attention(XLA_FFI_CallFrame* call_frame);

XLA_FFI_DEFINE_HANDLER_SYMBOL(zenith_attention, zenith::Attention,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .RemainingArgs()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Attr<zenith::Ints>("dims")
                                  .Attr<zenith::Ints>("sizes")
                                  .Attr<zenith::Ints>("q_strides")
                                  .Attr<zenith::Ints>("k_strides")
                                  .Attr<zenith::Ints>("v_strides")
                                  .Attr<zenith::Ints>("out_strides")
                                  .Attr<zenith::Ints>("mod_strides")
                                  .Attr<zenith::Ints>("steps_op")
                                  .Attr<zenith::Floats>("steps_f"));
