// The XLA custom calls "zenith_activation" and "zenith_activation_vjp": check their operands and attributes, and run
// the kernel on XLA's threads.
//
// activation.h has the mathematics, zenith_mlir/kernels/cpu/activation.py the Python side of this interface.
#include "activation.h"

#include <exception>
#include <string>

#include "activation_checks.h"
#include "isa.h"
#include "xla/ffi/api/ffi.h"

namespace zenith {
namespace {

// x, and the bias where `operands` has one.
ffi::Error CheckOperands(ffi::AnyBuffer x, ffi::RemainingArgs operands, int64_t kind, float slope,
                         ActivationProblem* problem) {
  ZENITH_RETURN_IF_ERROR(ToKind(kind, problem));
  problem->slope = slope;
  ZENITH_RETURN_IF_ERROR(ToExtents("x", x, problem));
  ZENITH_RETURN_IF_ERROR(ToRows("x", x, problem->rows, problem->cols, 0, &problem->gate));
  if (operands.empty()) return ffi::Error::Success();
  if (operands.size() != 1) return Invalid("there are ", operands.size(), " operands after x, expected at most a bias");
  ffi::ErrorOr<ffi::AnyBuffer> bias = operands.get<ffi::AnyBuffer>(0);
  if (bias.has_error()) return bias.error();
  ZENITH_RETURN_IF_ERROR(ToRows("bias", *bias, 1, problem->cols, 0, &problem->gate_bias));
  return CheckSize("bias", Features(*bias), problem->cols, "the features of x");
}

template <class Void>
ffi::Error CheckLikeX(const char* name, ffi::AnyBuffer buffer, const ActivationProblem& problem,
                      RowsView<Void>* rows) {
  ZENITH_RETURN_IF_ERROR(ToRows(name, buffer, problem.rows, problem.cols, 0, rows));
  return CheckSize(name, Features(buffer), problem.cols, "the features of x");
}

ffi::Error CheckAndRun(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::RemainingArgs operands,
                       ffi::Result<ffi::AnyBuffer> out, int64_t kind, float slope) {
  ActivationProblem problem{};
  ZENITH_RETURN_IF_ERROR(CheckOperands(x, operands, kind, slope, &problem));
  ZENITH_RETURN_IF_ERROR(CheckLikeX("out", *out, problem, &problem.out));
  RunActivation(pool, ZENITH_KERNEL(ActivationKernel, kActivation).forward, problem);
  return ffi::Error::Success();
}

ffi::Error CheckAndRunVjp(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer cotangent,
                          ffi::RemainingArgs operands, ffi::Result<ffi::AnyBuffer> dx, int64_t kind, float slope) {
  ActivationProblem problem{};
  ZENITH_RETURN_IF_ERROR(CheckOperands(x, operands, kind, slope, &problem));
  ZENITH_RETURN_IF_ERROR(CheckLikeX("cotangent", cotangent, problem, &problem.cotangent));
  ZENITH_RETURN_IF_ERROR(CheckLikeX("dx", *dx, problem, &problem.d_gate));
  RunActivation(pool, ZENITH_KERNEL(ActivationKernel, kActivation).vjp, problem);
  return ffi::Error::Success();
}

// XLA is compiled without exceptions: none may reach it.
ffi::Error Activation(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::RemainingArgs bias, ffi::Result<ffi::AnyBuffer> out,
                      int64_t kind, float slope) try {
  return Named("zenith_activation", CheckAndRun(pool, x, bias, out, kind, slope));
} catch (const std::exception& error) {
  return ffi::Error::Internal(std::string("zenith_activation: ") + error.what());
}

ffi::Error ActivationVjp(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer cotangent, ffi::RemainingArgs bias,
                         ffi::Result<ffi::AnyBuffer> dx, int64_t kind, float slope) try {
  return Named("zenith_activation_vjp", CheckAndRunVjp(pool, x, cotangent, bias, dx, kind, slope));
} catch (const std::exception& error) {
  return ffi::Error::Internal(std::string("zenith_activation_vjp: ") + error.what());
}

}  // namespace
}  // namespace zenith

// The macros below define them; only the declarations can make them visible.
extern "C" __attribute__((visibility("default"))) XLA_FFI_Error* zenith_activation(XLA_FFI_CallFrame* call_frame);
extern "C" __attribute__((visibility("default"))) XLA_FFI_Error* zenith_activation_vjp(XLA_FFI_CallFrame* call_frame);

XLA_FFI_DEFINE_HANDLER_SYMBOL(zenith_activation, zenith::Activation,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .RemainingArgs()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Attr<int64_t>("kind")
                                  .Attr<float>("slope"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(zenith_activation_vjp, zenith::ActivationVjp,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .RemainingArgs()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Attr<int64_t>("kind")
                                  .Attr<float>("slope"));
