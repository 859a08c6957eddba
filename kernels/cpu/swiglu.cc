// The XLA custom calls "zenith_swiglu" and "zenith_swiglu_vjp": act(gate + bias) (up + bias') and its gradients, where
// gate and up are operands of their own or columns of one, as their biases are.
//
// activation.h has the mathematics, zenith_mlir/kernels/cpu/swiglu.py the Python side of this interface.
#include <exception>
#include <string>

#include "activation.h"
#include "activation_checks.h"
#include "isa.h"
#include "xla/ffi/api/ffi.h"

namespace zenith {
namespace {

// Who reads which operand: of gate, up, gate bias and up bias the number of the operand, -1 for no bias, and the first
// column.
struct Sources {
  Ints operands, offsets;
};

ffi::Error CheckOperands(ffi::RemainingArgs operands, size_t count, const Sources& sources,
                         ActivationProblem* problem) {
  ZENITH_RETURN_IF_ERROR(CheckSize("sources", sources.operands.size(), 4, "gate, up and the bias of each"));
  ZENITH_RETURN_IF_ERROR(CheckSize("offsets", sources.offsets.size(), 4, "gate, up and the bias of each"));
  const char* names[] = {"gate", "up", "gate bias", "up bias"};
  Rows* rows[] = {&problem->gate, &problem->up, &problem->gate_bias, &problem->up_bias};
  for (int i = 0; i < 4; ++i) {
    const int64_t source = sources.operands[i];
    if (source == -1 && i >= 2) continue;
    if (source < 0 || source >= static_cast<int64_t>(count)) {
      return Invalid("sources[", i, "] names operand ", source, " as the ", names[i], ", there are ", count);
    }
    ffi::ErrorOr<ffi::AnyBuffer> buffer = operands.get<ffi::AnyBuffer>(source);
    if (buffer.has_error()) return buffer.error();
    ZENITH_RETURN_IF_ERROR(
        ToRows(names[i], *buffer, i < 2 ? problem->rows : 1, problem->cols, sources.offsets[i], rows[i]));
  }
  return ffi::Error::Success();
}

ffi::Error CheckAndRun(ffi::ThreadPool pool, ffi::RemainingArgs operands, ffi::Result<ffi::AnyBuffer> out,
                       const Sources& sources, int64_t kind, float slope) {
  ActivationProblem problem{};
  ZENITH_RETURN_IF_ERROR(ToKind(kind, &problem));
  problem.slope = slope;
  ZENITH_RETURN_IF_ERROR(ToExtents("out", *out, &problem));
  ZENITH_RETURN_IF_ERROR(CheckOperands(operands, operands.size(), sources, &problem));
  ZENITH_RETURN_IF_ERROR(ToRows("out", *out, problem.rows, problem.cols, 0, &problem.out));
  RunActivation(pool, ZENITH_KERNEL(ActivationKernel, kActivation).gated, problem);
  return ffi::Error::Success();
}

// d_gate and d_up, or one result that has them where gate and up are in their operand and nothing else.
ffi::Error CheckGradients(ffi::RemainingRets results, const Sources& sources, ActivationProblem* problem) {
  const bool together = sources.operands[0] == sources.operands[1];
  const size_t expected = together ? 1 : 2;
  if (results.size() != expected) return Invalid("there are ", results.size(), " results, expected ", expected);
  MutableRows* gradients[] = {&problem->d_gate, &problem->d_up};
  for (int i = 0; i < 2; ++i) {
    const char* name = i == 0 ? "d_gate" : "d_up";
    ffi::ErrorOr<ffi::Result<ffi::AnyBuffer>> buffer = results.get<ffi::AnyBuffer>(together ? 0 : i);
    if (buffer.has_error()) return buffer.error();
    const int64_t offset = together ? sources.offsets[i] : 0;
    ZENITH_RETURN_IF_ERROR(ToRows(name, **buffer, problem->rows, problem->cols, offset, gradients[i]));
    ZENITH_RETURN_IF_ERROR(
        CheckSize(name, Features(**buffer), (together ? 2 : 1) * problem->cols, "the features that have a gradient"));
    if (together && offset != 0 && offset != problem->cols) {
      return Invalid("offsets[", i, "] is ", offset, ", expected 0 or ", problem->cols, " for a gradient of both");
    }
  }
  if (together && sources.offsets[0] == sources.offsets[1]) return Invalid("gate and up are the same columns");
  return ffi::Error::Success();
}

ffi::Error CheckAndRunVjp(ffi::ThreadPool pool, ffi::AnyBuffer cotangent, ffi::RemainingArgs operands,
                          ffi::RemainingRets gradients, const Sources& sources, int64_t kind, float slope) {
  ActivationProblem problem{};
  ZENITH_RETURN_IF_ERROR(ToKind(kind, &problem));
  problem.slope = slope;
  ZENITH_RETURN_IF_ERROR(ToExtents("cotangent", cotangent, &problem));
  ZENITH_RETURN_IF_ERROR(CheckOperands(operands, operands.size(), sources, &problem));
  ZENITH_RETURN_IF_ERROR(ToRows("cotangent", cotangent, problem.rows, problem.cols, 0, &problem.cotangent));
  ZENITH_RETURN_IF_ERROR(CheckGradients(gradients, sources, &problem));
  RunActivation(pool, ZENITH_KERNEL(ActivationKernel, kActivation).gated_vjp, problem);
  return ffi::Error::Success();
}

// XLA is compiled without exceptions: none may reach it.
ffi::Error Swiglu(ffi::ThreadPool pool, ffi::RemainingArgs operands, ffi::Result<ffi::AnyBuffer> out, Ints sources,
                  Ints offsets, int64_t kind, float slope) try {
  return Named("zenith_swiglu", CheckAndRun(pool, operands, out, {sources, offsets}, kind, slope));
} catch (const std::exception& error) {
  return ffi::Error::Internal(std::string("zenith_swiglu: ") + error.what());
}

ffi::Error SwigluVjp(ffi::ThreadPool pool, ffi::AnyBuffer cotangent, ffi::RemainingArgs operands,
                     ffi::RemainingRets gradients, Ints sources, Ints offsets, int64_t kind, float slope) try {
  return Named("zenith_swiglu_vjp",
               CheckAndRunVjp(pool, cotangent, operands, gradients, {sources, offsets}, kind, slope));
} catch (const std::exception& error) {
  return ffi::Error::Internal(std::string("zenith_swiglu_vjp: ") + error.what());
}

}  // namespace
}  // namespace zenith

// The macros below define them; only the declarations can make them visible.
extern "C" __attribute__((visibility("default"))) XLA_FFI_Error* zenith_swiglu(XLA_FFI_CallFrame* call_frame);
extern "C" __attribute__((visibility("default"))) XLA_FFI_Error* zenith_swiglu_vjp(XLA_FFI_CallFrame* call_frame);

XLA_FFI_DEFINE_HANDLER_SYMBOL(zenith_swiglu, zenith::Swiglu,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .RemainingArgs()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Attr<zenith::Ints>("sources")
                                  .Attr<zenith::Ints>("offsets")
                                  .Attr<int64_t>("kind")
                                  .Attr<float>("slope"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(zenith_swiglu_vjp, zenith::SwigluVjp,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attr<zenith::Ints>("sources")
                                  .Attr<zenith::Ints>("offsets")
                                  .Attr<int64_t>("kind")
                                  .Attr<float>("slope"));
