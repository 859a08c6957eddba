// The XLA custom calls "zenith_norm" and "zenith_norm_vjp": check their operands and attributes, and run the kernels on
// XLA's threads.
//
// norm.h has the mathematics, zenith_mlir/kernels/cpu/norm.py the Python side of this interface.
#include "norm.h"

#include <cstdlib>
#include <exception>
#include <memory>
#include <string>

#include "isa.h"
#include "row_checks.h"
#include "xla/ffi/api/ffi.h"

namespace zenith {
namespace {

ffi::Error CheckAndRun(ffi::ThreadPool pool, ffi::AnyBuffer x, Operands operands, ffi::AnyBuffer out, Results results,
                       bool centred, bool residual, bool weight, bool bias, float epsilon, float offset) {
  NormProblem problem{};
  problem.centred = centred;
  problem.epsilon = epsilon;
  problem.offset = offset;
  const Extents extents = x.dimensions();
  ffi::AnyBuffer buffer = x;
  ZENITH_RETURN_IF_ERROR(ToRows("x", x, &problem.x, &problem.rows, &problem.cols));
  if (residual) {
    ZENITH_RETURN_IF_ERROR(operands.Next("residual", &buffer));
    ZENITH_RETURN_IF_ERROR(ToSameRows("residual", buffer, extents, &problem.residual));
    ZENITH_RETURN_IF_ERROR(results.Next("sum", &buffer));
    ZENITH_RETURN_IF_ERROR(ToSameRows("sum", buffer, extents, &problem.sum));
  }
  if (weight) {
    ZENITH_RETURN_IF_ERROR(operands.Next("weight", &buffer));
    ZENITH_RETURN_IF_ERROR(ToColumns("weight", buffer, extents, &problem.weight));
  }
  if (bias) {
    ZENITH_RETURN_IF_ERROR(operands.Next("bias", &buffer));
    ZENITH_RETURN_IF_ERROR(ToColumns("bias", buffer, extents, &problem.bias));
  }
  ZENITH_RETURN_IF_ERROR(operands.NoMore());
  ZENITH_RETURN_IF_ERROR(results.NoMore());
  ZENITH_RETURN_IF_ERROR(ToSameRows("out", out, extents, &problem.out));

  const NormKernel& kernel = ZENITH_KERNEL(NormKernel, kNorm);
  return ForRowBlocks(pool, problem.rows, problem.cols, kernel.scratch_floats(problem),
                      [&](int64_t first, int64_t rows, float* scratch) { kernel.run(problem, first, rows, scratch); });
}

ffi::Error RunVjp(ffi::ThreadPool pool, NormVjpProblem problem) {
  constexpr int64_t kColumns = 1024;  // of dweight and dbias, for one thread to sum
  const NormVjpKernel& kernel = ZENITH_KERNEL(NormVjpKernel, kNormVjp);
  kernel.plan(&problem);
  const int64_t threads = std::max<int64_t>(pool.num_threads(), 1);
  const bool affine = problem.dweight || problem.dbias;
  const size_t bytes = affine ? (2 * problem.chunks * problem.padded * sizeof(float) + 63) / 64 * 64 : 0;
  std::unique_ptr<float, decltype(&std::free)> partial(
      bytes == 0 ? nullptr : static_cast<float*>(std::aligned_alloc(64, bytes)), &std::free);
  if (bytes != 0 && !partial) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "no memory for " + std::to_string(bytes) + " bytes of sums");
  }
  problem.partial = partial.get();
  if (problem.cols == 0) return ffi::Error::Success();
  ZENITH_RETURN_IF_ERROR(ParallelForWithScratch(
      pool, threads, problem.chunks, kernel.scratch_floats(problem),
      [&](int64_t chunk, float* scratch) { kernel.run(problem, chunk, scratch); }));
  if (!affine) return ffi::Error::Success();
  ParallelFor(pool, threads, (problem.cols + kColumns - 1) / kColumns, [&](auto next) {
    for (int64_t item = next(); item >= 0; item = next()) {
      kernel.reduce(problem, item * kColumns, std::min((item + 1) * kColumns, problem.cols));
    }
  });
  return ffi::Error::Success();
}

ffi::Error CheckAndRunVjp(ffi::ThreadPool pool, ffi::AnyBuffer s, ffi::AnyBuffer cotangent, Operands operands,
                          ffi::AnyBuffer dx, Results results, bool centred, bool weight, bool sum_cotangent,
                          bool dweight, bool dbias, float epsilon, float offset) {
  NormVjpProblem problem{};
  problem.centred = centred;
  problem.epsilon = epsilon;
  problem.offset = offset;
  const Extents extents = s.dimensions();
  ffi::AnyBuffer buffer = s;
  ZENITH_RETURN_IF_ERROR(ToRows("s", s, &problem.s, &problem.rows, &problem.cols));
  ZENITH_RETURN_IF_ERROR(ToSameRows("cotangent", cotangent, extents, &problem.cotangent));
  if (sum_cotangent) {
    ZENITH_RETURN_IF_ERROR(operands.Next("sum_cotangent", &buffer));
    ZENITH_RETURN_IF_ERROR(ToSameRows("sum_cotangent", buffer, extents, &problem.sum_cotangent));
  }
  if (weight) {
    ZENITH_RETURN_IF_ERROR(operands.Next("weight", &buffer));
    ZENITH_RETURN_IF_ERROR(ToColumns("weight", buffer, extents, &problem.weight));
  }
  if (dweight) {
    ZENITH_RETURN_IF_ERROR(results.Next("dweight", &buffer));
    ZENITH_RETURN_IF_ERROR(ToColumns("dweight", buffer, extents, &problem.dweight));
  }
  if (dbias) {
    ZENITH_RETURN_IF_ERROR(results.Next("dbias", &buffer));
    ZENITH_RETURN_IF_ERROR(ToColumns("dbias", buffer, extents, &problem.dbias));
  }
  ZENITH_RETURN_IF_ERROR(operands.NoMore());
  ZENITH_RETURN_IF_ERROR(results.NoMore());
  ZENITH_RETURN_IF_ERROR(ToSameRows("dx", dx, extents, &problem.dx));
  return RunVjp(pool, problem);
}

ffi::Error Norm(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::RemainingArgs operands, ffi::Result<ffi::AnyBuffer> out,
                ffi::RemainingRets results, bool centred, bool residual, bool weight, bool bias, float epsilon,
                float offset) try {
  return Named("zenith_norm", CheckAndRun(pool, x, {"operand", operands}, *out, {"result", results}, centred, residual,
                                          weight, bias, epsilon, offset));
} catch (const std::exception& error) {  // XLA is compiled without exceptions: none may reach it
  return ffi::Error::Internal(std::string("zenith_norm: ") + error.what());
}

ffi::Error NormVjp(ffi::ThreadPool pool, ffi::AnyBuffer s, ffi::AnyBuffer cotangent, ffi::RemainingArgs operands,
                   ffi::Result<ffi::AnyBuffer> dx, ffi::RemainingRets results, bool centred, bool weight,
                   bool sum_cotangent, bool dweight, bool dbias, float epsilon, float offset) try {
  return Named("zenith_norm_vjp",
               CheckAndRunVjp(pool, s, cotangent, {"operand", operands}, *dx, {"result", results}, centred, weight,
                              sum_cotangent, dweight, dbias, epsilon, offset));
} catch (const std::exception& error) {
  return ffi::Error::Internal(std::string("zenith_norm_vjp: ") + error.what());
}

}  // namespace
}  // namespace zenith

// The macros below define them; only the declarations can make them visible.
extern "C" __attribute__((visibility("default"))) XLA_FFI_Error* zenith_norm(XLA_FFI_CallFrame* call_frame);
extern "C" __attribute__((visibility("default"))) XLA_FFI_Error* zenith_norm_vjp(XLA_FFI_CallFrame* call_frame);

XLA_FFI_DEFINE_HANDLER_SYMBOL(zenith_norm, zenith::Norm,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .RemainingArgs()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .RemainingRets()
                                  .Attr<bool>("centred")
                                  .Attr<bool>("residual")
                                  .Attr<bool>("weight")
                                  .Attr<bool>("bias")
                                  .Attr<float>("epsilon")
                                  .Attr<float>("offset"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(zenith_norm_vjp, zenith::NormVjp,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .RemainingArgs()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .RemainingRets()
                                  .Attr<bool>("centred")
                                  .Attr<bool>("weight")
                                  .Attr<bool>("sum_cotangent")
                                  .Attr<bool>("dweight")
                                  .Attr<bool>("dbias")
                                  .Attr<float>("epsilon")
                                  .Attr<float>("offset"));
