// The XLA custom calls "zenith_cross_entropy" and "zenith_cross_entropy_vjp": check their operands and attributes, and
// run the kernel on XLA's threads.
//
// cross_entropy.h has the mathematics, zenith_mlir/kernels/cpu/cross_entropy.py the Python side of this interface.
#include "cross_entropy.h"

#include <exception>
#include <string>

#include "isa.h"
#include "row_checks.h"
#include "xla/ffi/api/ffi.h"

namespace zenith {
namespace {

struct Attributes {
  float smoothing, z_loss;
  int64_t outside;
  bool infinity_is_nan;
};

ffi::Error ToProblem(ffi::AnyBuffer logits, ffi::AnyBuffer labels, const Attributes& attributes,
                     CrossEntropyProblem* problem) {
  ZENITH_RETURN_IF_ERROR(ToRows("logits", logits, &problem->logits, &problem->rows, &problem->cols));
  const Extents extents = logits.dimensions();
  ZENITH_RETURN_IF_ERROR(CheckExtents("labels", labels.dimensions(), extents.first(extents.size() - 1),
                                      "the leading axes of the first operand"));
  if (labels.element_type() != ffi::DataType::S32) {
    return Invalid("labels has element type ", labels.element_type(), ", expected s32");
  }
  if (problem->cols >= kMaxExtent) return Invalid("a row has ", problem->cols, " logits, expected less than 2^31");
  if (problem->cols == 0 && problem->rows != 0) return Invalid("a row has no logits, expected at least one");
  if (attributes.outside < 0 || attributes.outside > 2) {
    return Invalid("attribute outside is ", attributes.outside, ", expected 0 (fill), 1 (zero) or 2 (drop)");
  }
  problem->labels = static_cast<const int32_t*>(labels.untyped_data());
  problem->smoothing = attributes.smoothing;
  problem->z_loss = attributes.z_loss;
  problem->outside = static_cast<Outside>(attributes.outside);
  problem->infinity_is_nan = attributes.infinity_is_nan;
  return ffi::Error::Success();
}

ffi::Error CheckAndRun(ffi::ThreadPool pool, ffi::AnyBuffer logits, ffi::AnyBuffer labels, ffi::AnyBuffer loss,
                       ffi::AnyBuffer maximum, ffi::AnyBuffer sum, const Attributes& attributes) {
  CrossEntropyProblem problem{};
  ZENITH_RETURN_IF_ERROR(ToProblem(logits, labels, attributes, &problem));
  ZENITH_RETURN_IF_ERROR(ToRowNumbers("loss", loss, logits.dimensions(), &problem.loss));
  ZENITH_RETURN_IF_ERROR(ToRowNumbers("maximum", maximum, logits.dimensions(), &problem.maximum));
  ZENITH_RETURN_IF_ERROR(ToRowNumbers("sum", sum, logits.dimensions(), &problem.sum));
  const CrossEntropyKernel& kernel = ZENITH_KERNEL(CrossEntropyKernel, kCrossEntropy);
  return ForRowBlocks(pool, problem.rows, problem.cols, 0,
                      [&](int64_t first, int64_t rows, float*) { kernel.run(problem, first, rows); });
}

ffi::Error CheckAndRunVjp(ffi::ThreadPool pool, ffi::AnyBuffer logits, ffi::AnyBuffer labels, ffi::AnyBuffer cotangent,
                          ffi::AnyBuffer lse_cotangent, Operands operands, ffi::AnyBuffer dlogits, Results results,
                          bool residuals, bool loss, const Attributes& attributes) {
  CrossEntropyGradient gradient{};
  CrossEntropyProblem& problem = gradient.problem;
  ZENITH_RETURN_IF_ERROR(ToProblem(logits, labels, attributes, &problem));
  const Extents extents = logits.dimensions();
  float *g, *h;
  ZENITH_RETURN_IF_ERROR(ToRowNumbers("cotangent", cotangent, extents, &g));
  ZENITH_RETURN_IF_ERROR(ToRowNumbers("lse_cotangent", lse_cotangent, extents, &h));
  gradient.cotangent = g;
  gradient.lse_cotangent = h;
  gradient.residuals = residuals;
  ffi::AnyBuffer buffer = logits;
  if (residuals) {
    ZENITH_RETURN_IF_ERROR(operands.Next("maximum", &buffer));
    ZENITH_RETURN_IF_ERROR(ToRowNumbers("maximum", buffer, extents, &problem.maximum));
    ZENITH_RETURN_IF_ERROR(operands.Next("sum", &buffer));
    ZENITH_RETURN_IF_ERROR(ToRowNumbers("sum", buffer, extents, &problem.sum));
  }
  if (loss) {
    if (residuals) return Invalid("the result loss is made where maximum and sum are, expected no such operands");
    ZENITH_RETURN_IF_ERROR(results.Next("loss", &buffer));
    ZENITH_RETURN_IF_ERROR(ToRowNumbers("loss", buffer, extents, &problem.loss));
  }
  ZENITH_RETURN_IF_ERROR(operands.NoMore());
  ZENITH_RETURN_IF_ERROR(results.NoMore());
  ZENITH_RETURN_IF_ERROR(ToSameRows("dlogits", dlogits, extents, &gradient.dlogits));
  if (dlogits.element_type() != logits.element_type()) {
    return Invalid("dlogits has element type ", dlogits.element_type(), ", expected that of logits, ",
                   logits.element_type());
  }
  const CrossEntropyKernel& kernel = ZENITH_KERNEL(CrossEntropyKernel, kCrossEntropy);
  return ForRowBlocks(pool, problem.rows, problem.cols, 0,
                      [&](int64_t first, int64_t rows, float*) { kernel.run_vjp(gradient, first, rows); });
}

ffi::Error CrossEntropy(ffi::ThreadPool pool, ffi::AnyBuffer logits, ffi::AnyBuffer labels,
                        ffi::Result<ffi::AnyBuffer> loss, ffi::Result<ffi::AnyBuffer> maximum,
                        ffi::Result<ffi::AnyBuffer> sum, float smoothing, float z_loss, int64_t outside,
                        bool infinity_is_nan) try {
  return Named("zenith_cross_entropy", CheckAndRun(pool, logits, labels, *loss, *maximum, *sum,
                                                   {smoothing, z_loss, outside, infinity_is_nan}));
} catch (const std::exception& error) {  // XLA is compiled without exceptions: none may reach it
  return ffi::Error::Internal(std::string("zenith_cross_entropy: ") + error.what());
}

ffi::Error CrossEntropyVjp(ffi::ThreadPool pool, ffi::AnyBuffer logits, ffi::AnyBuffer labels, ffi::AnyBuffer cotangent,
                           ffi::AnyBuffer lse_cotangent, ffi::RemainingArgs operands,
                           ffi::Result<ffi::AnyBuffer> dlogits, ffi::RemainingRets results, float smoothing,
                           float z_loss, int64_t outside, bool infinity_is_nan, bool residuals, bool loss) try {
  return Named("zenith_cross_entropy_vjp",
               CheckAndRunVjp(pool, logits, labels, cotangent, lse_cotangent, {"operand", operands}, *dlogits,
                              {"result", results}, residuals, loss, {smoothing, z_loss, outside, infinity_is_nan}));
} catch (const std::exception& error) {
  return ffi::Error::Internal(std::string("zenith_cross_entropy_vjp: ") + error.what());
}

}  // namespace
}  // namespace zenith

// The macros below define them; only the declarations can make them visible.
extern "C" __attribute__((visibility("default"))) XLA_FFI_Error* zenith_cross_entropy(XLA_FFI_CallFrame* call_frame);
extern "C" __attribute__((visibility("default"))) XLA_FFI_Error* zenith_cross_entropy_vjp(
    XLA_FFI_CallFrame* call_frame);

XLA_FFI_DEFINE_HANDLER_SYMBOL(zenith_cross_entropy, zenith::CrossEntropy,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Attr<float>("smoothing")
                                  .Attr<float>("z_loss")
                                  .Attr<int64_t>("outside")
                                  .Attr<bool>("infinity_is_nan"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(zenith_cross_entropy_vjp, zenith::CrossEntropyVjp,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .RemainingArgs()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .RemainingRets()
                                  .Attr<float>("smoothing")
                                  .Attr<float>("z_loss")
                                  .Attr<int64_t>("outside")
                                  .Attr<bool>("infinity_is_nan")
                                  .Attr<bool>("residuals")
                                  .Attr<bool>("loss"));
