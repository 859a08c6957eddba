// The XLA custom calls "zenith_softmax" and "zenith_softmax_vjp": check their operands, and run the kernel on XLA's
// threads.
//
// softmax.h has the mathematics, zenith_mlir/kernels/cpu/softmax.py the Python side of this interface.
#include "softmax.h"

#include <exception>
#include <string>

#include "isa.h"
#include "row_checks.h"
#include "xla/ffi/api/ffi.h"

namespace zenith {
namespace {

ffi::Error CheckAndRun(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer y, bool log, float scale) {
  SoftmaxProblem problem{};
  problem.log = log;
  problem.scale = scale;
  ZENITH_RETURN_IF_ERROR(ToRows("x", x, &problem.x, &problem.rows, &problem.cols));
  ZENITH_RETURN_IF_ERROR(ToSameRows("y", y, x.dimensions(), &problem.y));
  const SoftmaxKernel& kernel = ZENITH_KERNEL(SoftmaxKernel, kSoftmax);
  return ForRowBlocks(pool, problem.rows, problem.cols, kernel.scratch_floats(problem.cols),
                      [&](int64_t first, int64_t rows, float* scratch) { kernel.run(problem, first, rows, scratch); });
}

ffi::Error CheckAndRunVjp(ffi::ThreadPool pool, ffi::AnyBuffer y, ffi::AnyBuffer cotangent, ffi::AnyBuffer dx,
                          bool log, float scale) {
  SoftmaxVjpProblem problem{};
  problem.log = log;
  problem.scale = scale;
  ZENITH_RETURN_IF_ERROR(ToRows("y", y, &problem.y, &problem.rows, &problem.cols));
  ZENITH_RETURN_IF_ERROR(ToSameRows("cotangent", cotangent, y.dimensions(), &problem.cotangent));
  ZENITH_RETURN_IF_ERROR(ToSameRows("dx", dx, y.dimensions(), &problem.dx));
  const SoftmaxKernel& kernel = ZENITH_KERNEL(SoftmaxKernel, kSoftmax);
  return ForRowBlocks(
      pool, problem.rows, problem.cols, kernel.scratch_floats(problem.cols),
      [&](int64_t first, int64_t rows, float* scratch) { kernel.run_vjp(problem, first, rows, scratch); });
}

ffi::Error Softmax(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::Result<ffi::AnyBuffer> y, bool log, float scale) try {
  return Named("zenith_softmax", CheckAndRun(pool, x, *y, log, scale));
} catch (const std::exception& error) {  // XLA is compiled without exceptions: none may reach it
  return ffi::Error::Internal(std::string("zenith_softmax: ") + error.what());
}

ffi::Error SoftmaxVjp(ffi::ThreadPool pool, ffi::AnyBuffer y, ffi::AnyBuffer cotangent, ffi::Result<ffi::AnyBuffer> dx,
                      bool log, float scale) try {
  return Named("zenith_softmax_vjp", CheckAndRunVjp(pool, y, cotangent, *dx, log, scale));
} catch (const std::exception& error) {
  return ffi::Error::Internal(std::string("zenith_softmax_vjp: ") + error.what());
}

}  // namespace
}  // namespace zenith

// The macros below define them; only the declarations can make them visible.
extern "C" __attribute__((visibility("default"))) XLA_FFI_Error* zenith_softmax(XLA_FFI_CallFrame* call_frame);
extern "C" __attribute__((visibility("default"))) XLA_FFI_Error* zenith_softmax_vjp(XLA_FFI_CallFrame* call_frame);

XLA_FFI_DEFINE_HANDLER_SYMBOL(zenith_softmax, zenith::Softmax,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Attr<bool>("log")
                                  .Attr<float>("scale"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(zenith_softmax_vjp, zenith::SoftmaxVjp,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Attr<bool>("log")
                                  .Attr<float>("scale"));
