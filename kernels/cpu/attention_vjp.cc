// The XLA custom call "zenith_attention_vjp": checks its operands and attributes, and runs the kernel on XLA's threads.
//
// attention_vjp.h has the mathematics, zenith_mlir/kernels/cpu/attention_vjp.py the Python side of this interface.
#include "attention_vjp.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "attention_checks.h"
#include "isa.h"
#include "parallel.h"
#include "xla/ffi/api/ffi.h"

namespace zenith {
namespace {

using Copies = std::unique_ptr<float, decltype(&std::free)>;

// Of the keys and values of one position: their gradients are summed in scratch.
constexpr int64_t kMaxKeyFloats = int64_t{1} << 40;
constexpr int64_t kElementsPerSum = 1 << 16;  // that one thread sums over the copies at a time

ffi::Error CheckKeys(const AttentionProblem& problem) {
  if (problem.S <= kMaxKeyFloats / std::max<int64_t>(problem.D + problem.E, 1)) return ffi::Error::Success();
  return Invalid(problem.S, " keys of depths ", problem.D, " and ", problem.E, " are too many");
}

ffi::Error CheckLinear(const AttentionProblem& problem) {
  for (int i = 0; i < problem.n_steps; ++i) {
    if (problem.steps[i].op == Opcode::kPostSelect && problem.steps[i].c != 0.0f) {
      return Invalid("step ", i, " selects the probability ", problem.steps[i].c, ", which is possible with 0 only");
    }
  }
  return ffi::Error::Success();
}

// The rows and columns that the gradient of a role runs over.
std::pair<int64_t, int64_t> ExtentsOf(Role role, const AttentionProblem& problem) {
  switch (role) {
    case Role::kQ: return {problem.T, problem.D};
    case Role::kK: return {problem.S, problem.D};
    case Role::kV: return {problem.S, problem.E};
    case Role::kFirstModifier: break;
  }
  return {problem.T, problem.S};
}

// Whether several positions of the gradient's axes share an element, or a tile may be skipped that has elements.
bool Adds(const Gradient& gradient, const AttentionProblem& problem) {
  bool adds = gradient.OfModifier() || (gradient.to.row == 0 && gradient.rows > 1) ||
              (gradient.to.col == 0 && gradient.cols > 1);
  for (int i = 0; i < problem.n_parallel; ++i) adds |= gradient.to.parallel[i] == 0 && problem.dims[i] > 1;
  return adds;
}

ffi::Error CheckRole(const std::string& name, int64_t role, const std::vector<Operand>& modifiers) {
  const int64_t roles = static_cast<int64_t>(Role::kFirstModifier) + modifiers.size();
  if (role < 0 || role >= roles) return Invalid(name, " is of role ", role, ", there are ", roles);
  const int64_t modifier = role - static_cast<int64_t>(Role::kFirstModifier);
  if (modifier < 0 || modifiers[modifier].dtype != Dtype::kPred) return ffi::Error::Success();
  return Invalid(name, " is of modifier ", modifier, ", which is pred and has none");
}

// A sink has no key to which its gradient could belong, and its gradient is written where there is no key, too.
ffi::Error CheckSink(const std::string& name, const Gradient& gradient, const CheckedAttention& checked) {
  for (const Step& step : checked.steps) {
    if (step.op != Opcode::kSink || !gradient.IsModifier(step.modifier)) continue;
    if (gradient.to.col != 0) return Invalid(name, " is of a sink and must not vary along s");
    ZENITH_RETURN_IF_ERROR(
        CheckBounds(name.c_str(), checked.problem, gradient.to, gradient.rows, 1, gradient.elements));
  }
  return ffi::Error::Success();
}

ffi::Error ToGradient(size_t i, int64_t role, float factor, ffi::AnyBuffer buffer, const int64_t* strides,
                      const CheckedAttention& checked, Gradient* gradient) {
  const AttentionProblem& problem = checked.problem;
  const std::string name = "gradient " + std::to_string(i);
  ZENITH_RETURN_IF_ERROR(CheckRole(name, role, checked.modifiers));
  gradient->role = static_cast<Role>(role);
  gradient->factor = factor;
  if (factor != 1.0f && gradient->OfModifier()) return Invalid(name, " is of a modifier and has the factor ", factor);
  std::tie(gradient->rows, gradient->cols) = ExtentsOf(gradient->role, problem);
  gradient->elements = buffer.element_count();
  if (buffer.element_type() != ffi::DataType::F32) {
    return Invalid(name, " has element type ", buffer.element_type(), ", expected f32");
  }
  ZENITH_RETURN_IF_ERROR(
      ToOperand(name.c_str(), buffer, problem, strides, gradient->rows, gradient->cols, &gradient->to));
  ZENITH_RETURN_IF_ERROR(CheckDense(name.c_str(), problem, gradient->to, gradient->rows, gradient->cols,
                                    gradient->elements, Axes::kNotSummed));
  ZENITH_RETURN_IF_ERROR(CheckSink(name, *gradient, checked));
  gradient->adds = Adds(*gradient, problem);
  return ffi::Error::Success();
}

ffi::Error ToGradients(ffi::RemainingRets results, Ints roles, Floats factors, Ints strides,
                       const CheckedAttention& checked, std::vector<Gradient>* gradients) {
  const size_t rank = checked.problem.n_parallel + 2;
  ZENITH_RETURN_IF_ERROR(CheckSize("gradient_roles", roles.size(), results.size(), "one for each result"));
  ZENITH_RETURN_IF_ERROR(CheckSize("gradient_factors", factors.size(), results.size(), "one for each result"));
  ZENITH_RETURN_IF_ERROR(CheckSize("gradient_strides", strides.size(), results.size() * rank,
                                   "parallel axes, row and column of each result"));
  gradients->resize(results.size());
  for (size_t i = 0; i < results.size(); ++i) {
    ffi::ErrorOr<ffi::Result<ffi::AnyBuffer>> buffer = results.get<ffi::AnyBuffer>(i);
    if (buffer.has_error()) return buffer.error();
    ZENITH_RETURN_IF_ERROR(ToGradient(i, roles.begin()[i], factors.begin()[i], **buffer, strides.begin() + i * rank,
                                      checked, &(*gradients)[i]));
  }
  return ffi::Error::Success();
}

// Results that are added to start as 0, and where an axis is empty so do all.
void ClearResults(const AttentionProblem& problem, const std::vector<Gradient>& gradients) {
  const bool empty = std::min({problem.count, problem.T, problem.S, problem.D, problem.E}) == 0;
  for (const Gradient& gradient : gradients) {
    if (gradient.adds || empty) std::memset(gradient.to.data, 0, gradient.elements * sizeof(float));
  }
}

// Gives gradients that do not vary with the query a copy for each part but the first.
ffi::Error MakeCopies(int64_t parts, std::vector<Gradient>* gradients, std::vector<Copies>* copies) {
  for (Gradient& gradient : *gradients) {
    gradient.parts = nullptr;
    if (parts == 1 || gradient.VariesWithQuery()) continue;
    const size_t elements = std::max<int64_t>(gradient.elements, 1);
    copies->emplace_back(static_cast<float*>(std::calloc(elements * (parts - 1), sizeof(float))), &std::free);
    gradient.parts = copies->back().get();
    if (gradient.parts == nullptr) {
      return ffi::Error(ffi::ErrorCode::kResourceExhausted,
                        "no memory for " + std::to_string(parts - 1) + " copies of a gradient");
    }
  }
  return ffi::Error::Success();
}

void SumCopies(ffi::ThreadPool& pool, int64_t threads, int64_t parts, const Gradient& gradient) {
  float* sum = static_cast<float*>(gradient.to.data);
  const int64_t slices = (gradient.elements + kElementsPerSum - 1) / kElementsPerSum;
  ParallelFor(pool, threads, slices, [&](auto next) {
    for (int64_t slice = next(); slice >= 0; slice = next()) {
      const int64_t begin = slice * kElementsPerSum, end = std::min(begin + kElementsPerSum, gradient.elements);
      for (int64_t part = 1; part < parts; ++part) {
        const float* copy = gradient.parts + (part - 1) * gradient.elements;
        for (int64_t i = begin; i < end; ++i) sum[i] += copy[i];
      }
    }
  });
}

ffi::Error RunKernel(ffi::ThreadPool pool, const AttentionProblem& attention, const Operand& cotangent,
                     std::vector<Gradient>* gradients) {
  const AttentionVjpKernel& kernel = ZENITH_KERNEL_BF16(AttentionVjpKernel, kAttentionVjp);
  const int64_t threads = std::max<int64_t>(pool.num_threads(), 1);
  const AttentionVjpProblem problem{attention, cotangent, gradients->data(), static_cast<int>(gradients->size())};
  const AttentionVjpPlan plan = kernel.plan(problem, threads);
  std::vector<Copies> copies;
  ZENITH_RETURN_IF_ERROR(MakeCopies(plan.parts, gradients, &copies));
  ClearResults(attention, *gradients);
  ZENITH_RETURN_IF_ERROR(
      ParallelForWithScratch(pool, threads, plan.items, plan.scratch_floats, [&](int64_t item, float* scratch) {
        kernel.run(problem, plan, item, scratch);
      }));
  for (const Gradient& gradient : *gradients) {
    if (gradient.parts != nullptr) SumCopies(pool, threads, plan.parts, gradient);
  }
  return ffi::Error::Success();
}

ffi::Error CheckAndRun(ffi::ThreadPool pool, const AttentionArguments& arguments, ffi::AnyBuffer maximum,
                       ffi::AnyBuffer sum, ffi::AnyBuffer cotangent, ffi::RemainingRets results, Ints cotangent_strides,
                       Ints gradient_roles, Floats gradient_factors, Ints gradient_strides) {
  CheckedAttention checked;
  ZENITH_RETURN_IF_ERROR(CheckAttention(arguments, &checked));
  AttentionProblem& problem = checked.problem;
  ZENITH_RETURN_IF_ERROR(CheckKeys(problem));
  ZENITH_RETURN_IF_ERROR(CheckLinear(problem));
  ZENITH_RETURN_IF_ERROR(ToRows("maximum", maximum, problem, &problem.maximum));
  ZENITH_RETURN_IF_ERROR(ToRows("sum", sum, problem, &problem.sum));
  ZENITH_RETURN_IF_ERROR(
      CheckSize("cotangent_strides", cotangent_strides.size(), problem.n_parallel + 2, "parallel axes, t, e"));
  Operand from;
  ZENITH_RETURN_IF_ERROR(
      ToOperand("cotangent", cotangent, problem, cotangent_strides.begin(), problem.T, problem.E, &from));
  ZENITH_RETURN_IF_ERROR(CheckFloat("cotangent", from));
  std::vector<Gradient> gradients;
  ZENITH_RETURN_IF_ERROR(ToGradients(results, gradient_roles, gradient_factors, gradient_strides, checked, &gradients));
  return RunKernel(pool, problem, from, &gradients);
}

ffi::Error AttentionVjp(ffi::ThreadPool pool, ffi::AnyBuffer q, ffi::AnyBuffer k, ffi::AnyBuffer v,
                        ffi::AnyBuffer maximum, ffi::AnyBuffer sum, ffi::AnyBuffer cotangent,
                        ffi::RemainingArgs modifiers, ffi::RemainingRets gradients, Ints dims, Ints sizes,
                        Ints q_strides, Ints k_strides, Ints v_strides, Ints cotangent_strides, Ints mod_strides,
                        Ints steps_op, Floats steps_f, Ints gradient_roles, Floats gradient_factors,
                        Ints gradient_strides) try {
  const AttentionArguments arguments{q,         k,         v,           modifiers, dims,   sizes, q_strides,
                                     k_strides, v_strides, mod_strides, steps_op,  steps_f};
  return Named("zenith_attention_vjp",
               CheckAndRun(pool, arguments, maximum, sum, cotangent, gradients, cotangent_strides, gradient_roles,
                           gradient_factors, gradient_strides));
} catch (const std::exception& error) {  // XLA is compiled without exceptions: none may reach it
  return ffi::Error::Internal(std::string("zenith_attention_vjp: ") + error.what());
}

}  // namespace
}  // namespace zenith

// The macro below defines it; only the declaration can make it visible.
extern "C" __attribute__((visibility("default"))) XLA_FFI_Error* zenith_attention_vjp(XLA_FFI_CallFrame* call_frame);

XLA_FFI_DEFINE_HANDLER_SYMBOL(zenith_attention_vjp, zenith::AttentionVjp,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attr<zenith::Ints>("dims")
                                  .Attr<zenith::Ints>("sizes")
                                  .Attr<zenith::Ints>("q_strides")
                                  .Attr<zenith::Ints>("k_strides")
                                  .Attr<zenith::Ints>("v_strides")
                                  .Attr<zenith::Ints>("cotangent_strides")
                                  .Attr<zenith::Ints>("mod_strides")
                                  .Attr<zenith::Ints>("steps_op")
                                  .Attr<zenith::Floats>("steps_f")
                                  .Attr<zenith::Ints>("gradient_roles")
                                  .Attr<zenith::Floats>("gradient_factors")
                                  .Attr<zenith::Ints>("gradient_strides"));
