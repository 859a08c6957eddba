// The XLA custom call "zenith_attention": checks its operands and attributes, and runs the kernel on XLA's threads.
//
// attention.h has the mathematics and the steps, zenith_mlir/kernels/cpu/attention.py the Python side of this interface.
#include "attention.h"

#include <algorithm>
#include <exception>
#include <string>
#include <vector>

#include "attention_checks.h"
#include "attention_rows.h"
#include "isa.h"
#include "parallel.h"
#include "xla/ffi/api/ffi.h"

namespace zenith {
namespace {

// Few queries: reading K and V takes all the time.
ffi::Error RunRowsKernel(ffi::ThreadPool pool, const AttentionProblem& problem, const AttentionRowsKernel& kernel) {
  const AttentionRowsPlan plan = kernel.plan(problem);
  const int64_t threads = std::max<int64_t>(pool.num_threads(), 1);
  std::vector<float> partials(plan.partial_floats);
  auto run = [&](int64_t item, float* scratch) { kernel.run(problem, plan, item, partials.data(), scratch); };
  ZENITH_RETURN_IF_ERROR(ParallelForWithScratch(pool, threads, plan.items, plan.scratch_floats, run));
  if (plan.chunks <= 1) return ffi::Error::Success();
  ParallelFor(pool, threads, plan.tiles, [&](auto next) {
    for (int64_t tile = next(); tile >= 0; tile = next()) kernel.combine(problem, plan, tile, partials.data());
  });
  return ffi::Error::Success();
}

ffi::Error RunKernel(ffi::ThreadPool pool, const AttentionProblem& problem) {
  const AttentionRowsKernel& rows = ZENITH_KERNEL(AttentionRowsKernel, kAttentionRows);
  if (rows.takes(problem)) return RunRowsKernel(pool, problem, rows);
  const AttentionKernel& kernel = ZENITH_KERNEL_BF16(AttentionKernel, kAttention);
  const int64_t threads = std::max<int64_t>(pool.num_threads(), 1);
  const AttentionPlan plan = kernel.plan(problem, threads);
  return ParallelForWithScratch(pool, threads, plan.items, plan.scratch_floats, [&](int64_t item, float* scratch) {
    kernel.run(problem, plan, item, scratch);
  });
}

ffi::Error CheckResiduals(ffi::RemainingRets results, AttentionProblem* problem) {
  if (results.empty()) return ffi::Error::Success();
  if (results.size() != 2) {
    return Invalid("there are ", 1 + results.size(), " results, expected out or out, maximum, sum");
  }
  float** rows[] = {&problem->maximum, &problem->sum};
  for (size_t i = 0; i < 2; ++i) {
    ffi::ErrorOr<ffi::Result<ffi::AnyBuffer>> buffer = results.get<ffi::AnyBuffer>(i);
    if (buffer.has_error()) return buffer.error();
    ZENITH_RETURN_IF_ERROR(ToRows(i == 0 ? "maximum" : "sum", **buffer, *problem, rows[i]));
  }
  return ffi::Error::Success();
}

ffi::Error CheckOut(ffi::AnyBuffer out, Ints strides, AttentionProblem* problem) {
  ZENITH_RETURN_IF_ERROR(CheckSize("out_strides", strides.size(), problem->n_parallel + 2, "parallel axes, t, e"));
  ZENITH_RETURN_IF_ERROR(ToOperand("out", out, *problem, strides.begin(), problem->T, problem->E, &problem->out));
  ZENITH_RETURN_IF_ERROR(CheckFloat("out", problem->out));
  return CheckDense("out", *problem, problem->out, problem->T, problem->E, out.element_count());
}

ffi::Error CheckAndRun(ffi::ThreadPool pool, const AttentionArguments& arguments, ffi::AnyBuffer out,
                       ffi::RemainingRets residuals, Ints out_strides) {
  CheckedAttention checked;
  ZENITH_RETURN_IF_ERROR(CheckAttention(arguments, &checked));
  AttentionProblem& problem = checked.problem;
  const int64_t elements = out.element_count();
  ZENITH_RETURN_IF_ERROR(CheckOut(out, out_strides, &problem));
  ZENITH_RETURN_IF_ERROR(CheckResiduals(residuals, &problem));
  if (elements == 0 && (problem.maximum == nullptr || problem.count * problem.T == 0)) return ffi::Error::Success();
  checked.values_finite.resize(problem.count);
  problem.values_finite = checked.values_finite.data();
  return RunKernel(pool, problem);
}

ffi::Error Attention(ffi::ThreadPool pool, ffi::AnyBuffer q, ffi::AnyBuffer k, ffi::AnyBuffer v,
                     ffi::RemainingArgs modifiers, ffi::Result<ffi::AnyBuffer> out, ffi::RemainingRets residuals,
                     Ints dims, Ints sizes, Ints q_strides, Ints k_strides, Ints v_strides, Ints out_strides,
                     Ints mod_strides, Ints steps_op, Floats steps_f) try {
  const AttentionArguments arguments{q,         k,         v,           modifiers, dims,   sizes, q_strides,
                                     k_strides, v_strides, mod_strides, steps_op,  steps_f};
  return Named("zenith_attention", CheckAndRun(pool, arguments, *out, residuals, out_strides));
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
                                  .RemainingRets()
                                  .Attr<zenith::Ints>("dims")
                                  .Attr<zenith::Ints>("sizes")
                                  .Attr<zenith::Ints>("q_strides")
                                  .Attr<zenith::Ints>("k_strides")
                                  .Attr<zenith::Ints>("v_strides")
                                  .Attr<zenith::Ints>("out_strides")
                                  .Attr<zenith::Ints>("mod_strides")
                                  .Attr<zenith::Ints>("steps_op")
                                  .Attr<zenith::Floats>("steps_f"));
