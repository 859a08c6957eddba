// The XLA custom call "zenith_matmul": checks its operands and attributes, and runs the kernel on XLA's threads.
//
// matmul_problem.h has the mathematics and the steps, zenith_mlir/kernels/cpu/matmul.py the Python side of this
// interface.
#include <algorithm>
#include <cstdlib>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "checks.h"
#include "isa.h"
#include "matmul_problem.h"
#include "parallel.h"
#include "xla/ffi/api/ffi.h"

namespace zenith {
namespace {

constexpr int64_t kMaxPacked = int64_t{1} << 48;

// The axes that make up one index, with where they begin among all.
struct Axes {
  const char* name;
  const int64_t* extents;
  int64_t count, size;
};

ffi::Error ToAxes(const char* name, const int64_t* extents, int64_t count, Axes* axes) {
  *axes = {name, extents, count, 1};
  if (count > kMaxAxes) return Invalid(name, " is made of ", count, " axes, at most ", kMaxAxes, " are possible");
  bool empty = false;
  for (int64_t i = 0; i < count; ++i) {
    if (extents[i] < 0 || extents[i] >= kMaxExtent) {
      return Invalid("an extent of ", name, " is ", extents[i], ", expected 0 <= extent < 2^31");
    }
    empty |= extents[i] == 0;
  }
  if (empty) axes->size = 0;
  for (int64_t i = 0; !empty && i < count; ++i) {
    axes->size = extents[i] <= kMaxExtent / axes->size ? axes->size * extents[i] : kMaxExtent;
  }
  if (axes->size >= kMaxExtent) return Invalid("the extents of ", name, " multiply to 2^31 or more");
  return ffi::Error::Success();
}

// Every element that the strides reach lies inside the buffer.
ffi::Error CheckBounds(const char* name, std::initializer_list<const Axes*> groups, const int64_t* strides,
                       int64_t elements) {
  int64_t last = 0;
  bool empty = false, overflow = false;
  for (const Axes* axes : groups) {
    for (int64_t i = 0; i < axes->count; ++i, ++strides) {
      const int64_t steps = std::max<int64_t>(axes->extents[i] - 1, 0);
      int64_t reach, past;  // what StridedIndex multiplies, where an axis is empty too
      empty |= axes->extents[i] == 0;
      overflow |= *strides < 0 || __builtin_mul_overflow(steps, *strides, &reach) ||
                  __builtin_mul_overflow(axes->extents[i], *strides, &past) ||
                  __builtin_add_overflow(last, reach, &last);
    }
  }
  if (overflow) return Invalid("the strides of ", name, " are negative or overflow 64 bits");
  if (!empty && last >= elements) {
    return Invalid("the strides of ", name, " reach element ", last, ", the operand has ", elements);
  }
  return ffi::Error::Success();
}

// The strides of the result visit each of its elements once: none is left unwritten, and no two threads write the same.
ffi::Error CheckDense(std::initializer_list<const Axes*> groups, const int64_t* strides, int64_t elements) {
  std::vector<std::pair<int64_t, int64_t>> all;
  for (const Axes* axes : groups) {
    for (int64_t i = 0; i < axes->count; ++i) all.emplace_back(*strides++, axes->extents[i]);
  }
  std::sort(all.begin(), all.end());
  int64_t expected = 1;
  bool empty = false, dense = true;
  for (auto [stride, extent] : all) {
    empty |= extent == 0;
    if (extent > 1) dense &= stride == expected && !__builtin_mul_overflow(expected, extent, &expected);
  }
  if (empty ? elements == 0 : dense && expected == elements) return ffi::Error::Success();
  return Invalid("the strides of out must visit each of its ", elements, " elements exactly once");
}

StridedIndex ToIndex(const Axes& axes, const int64_t* strides) {
  StridedIndex index;
  if (axes.size == 0) return index;
  for (int64_t i = 0; i < axes.count; ++i) index.Append(axes.extents[i], strides[i]);
  return index;
}

ffi::Error ToOperand(const char* name, ffi::AnyBuffer buffer, const Axes& p, const Axes& row, const Axes& col,
                     const int64_t* strides, MatmulOperand* operand) {
  const std::optional<Dtype> dtype = ToDtype(buffer.element_type());
  if (!dtype || *dtype == Dtype::kPred) {
    return Invalid(name, " has element type ", buffer.element_type(), ", expected f32, bf16 or f16");
  }
  ZENITH_RETURN_IF_ERROR(CheckBounds(name, {&p, &row, &col}, strides, buffer.element_count()));
  *operand = {buffer.untyped_data(), *dtype, ToIndex(p, strides), ToIndex(row, strides + p.count),
              ToIndex(col, strides + p.count + row.count)};
  return ffi::Error::Success();
}

bool TakesModifier(MatmulOp op) { return op == MatmulOp::kMul || op == MatmulOp::kAdd; }

ffi::Error ToSteps(Ints rows, Floats constants, int64_t modifiers, std::vector<MatmulStep>* steps) {
  if (rows.size() % 2 != 0) return Invalid("attribute steps_op has ", rows.size(), " elements, expected rows of 2");
  ZENITH_RETURN_IF_ERROR(CheckSize("steps_f", constants.size(), rows.size() / 2, "one for each step"));
  for (size_t i = 0; i < constants.size(); ++i) {
    const int64_t op = rows.begin()[2 * i], modifier = rows.begin()[2 * i + 1];
    if (op < 0 || op >= kMatmulOps) return Invalid("step ", i, " has the unknown opcode ", op);
    if (TakesModifier(static_cast<MatmulOp>(op)) && (modifier < 0 || modifier >= modifiers)) {
      return Invalid("step ", i, " names modifier ", modifier, ", there are ", modifiers);
    }
    steps->push_back({static_cast<MatmulOp>(op), modifier, constants.begin()[i]});
  }
  return ffi::Error::Success();
}

// The buffers and attributes of the call, as XLA hands them over.
struct Arguments {
  ffi::AnyBuffer lhs, rhs;
  ffi::RemainingArgs modifiers;
  ffi::AnyBuffer out;
  Ints counts, extents, lhs_strides, rhs_strides, out_strides, mod_strides, steps_op;
  Floats steps_f;
};

// A problem and what it points to.
struct Checked {
  MatmulProblem problem{};
  std::vector<MatmulOperand> modifiers;
  std::vector<MatmulStep> steps;
};

ffi::Error Check(const Arguments& from, Checked* to) {
  ZENITH_RETURN_IF_ERROR(CheckSize("counts", from.counts.size(), 4, "axes of p, m, n, k"));
  const char* names[] = {"p", "m", "n", "k"};
  Axes axes[4];
  size_t begin = 0;
  for (int i = 0; i < 4; ++i) {
    const int64_t count = from.counts.begin()[i];
    if (count < 0 || count > static_cast<int64_t>(from.extents.size() - begin)) {
      return Invalid("attribute counts says that ", names[i], " is made of ", count, " axes, attribute extents has ",
                     from.extents.size() - begin, " left");
    }
    ZENITH_RETURN_IF_ERROR(ToAxes(names[i], from.extents.begin() + begin, count, &axes[i]));
    begin += count;
  }
  ZENITH_RETURN_IF_ERROR(CheckSize("extents", from.extents.size(), begin, "as many as counts says"));
  const auto& [p, m, n, k] = axes;
  const size_t n_modifiers = from.modifiers.size(), rank = p.count + m.count + n.count;
  ZENITH_RETURN_IF_ERROR(CheckSize("lhs_strides", from.lhs_strides.size(), p.count + m.count + k.count, "p, m, k"));
  ZENITH_RETURN_IF_ERROR(CheckSize("rhs_strides", from.rhs_strides.size(), p.count + k.count + n.count, "p, k, n"));
  ZENITH_RETURN_IF_ERROR(CheckSize("out_strides", from.out_strides.size(), rank, "p, m, n"));
  ZENITH_RETURN_IF_ERROR(
      CheckSize("mod_strides", from.mod_strides.size(), n_modifiers * rank, "p, m, n of each modifier"));

  MatmulProblem& problem = to->problem;
  problem.P = p.size, problem.M = m.size, problem.N = n.size, problem.K = k.size;
  ZENITH_RETURN_IF_ERROR(ToOperand("lhs", from.lhs, p, m, k, from.lhs_strides.begin(), &problem.lhs));
  ZENITH_RETURN_IF_ERROR(ToOperand("rhs", from.rhs, p, k, n, from.rhs_strides.begin(), &problem.rhs));
  ZENITH_RETURN_IF_ERROR(ToOperand("out", from.out, p, m, n, from.out_strides.begin(), &problem.out));
  ZENITH_RETURN_IF_ERROR(CheckDense({&p, &m, &n}, from.out_strides.begin(), from.out.element_count()));
  to->modifiers.resize(n_modifiers);
  for (size_t i = 0; i < n_modifiers; ++i) {
    ffi::ErrorOr<ffi::AnyBuffer> buffer = from.modifiers.get<ffi::AnyBuffer>(i);
    if (buffer.has_error()) return buffer.error();
    const std::string name = "modifier " + std::to_string(i);
    ZENITH_RETURN_IF_ERROR(
        ToOperand(name.c_str(), *buffer, p, m, n, from.mod_strides.begin() + i * rank, &to->modifiers[i]));
  }
  ZENITH_RETURN_IF_ERROR(ToSteps(from.steps_op, from.steps_f, n_modifiers, &to->steps));
  int64_t packed;  // with strides of 0 rhs may be larger than what holds it, and is packed as it is seen
  if (__builtin_mul_overflow(p.size * k.size, n.size, &packed) || packed >= kMaxPacked) {
    return Invalid("the extents of rhs multiply to 2^48 or more");
  }
  problem.modifiers = to->modifiers.data();
  problem.steps = to->steps.data();
  problem.n_steps = static_cast<int>(to->steps.size());
  return ffi::Error::Success();
}

ffi::Error CheckAndRun(ffi::ThreadPool pool, const Arguments& arguments) {
  Checked checked;
  ZENITH_RETURN_IF_ERROR(Check(arguments, &checked));
  if (arguments.out.element_count() == 0) return ffi::Error::Success();
  const MatmulProblem& problem = checked.problem;
  const MatmulKernel& kernel = ZENITH_KERNEL_BF16(MatmulKernel, kMatmul);
  const int64_t threads = std::max<int64_t>(pool.num_threads(), 1);
  const MatmulPlan plan = kernel.plan(problem, threads);
  std::unique_ptr<float, decltype(&std::free)> packed(nullptr, &std::free);
  if (plan.packs > 0) {
    packed.reset(static_cast<float*>(std::aligned_alloc(64, plan.packed_floats * sizeof(float))));
    if (!packed) {
      return ffi::Error(ffi::ErrorCode::kResourceExhausted,
                        "no memory for " + std::to_string(plan.packed_floats) + " floats of packed rhs");
    }
    ParallelFor(pool, threads, plan.packs, [&](auto next) {
      for (int64_t item = next(); item >= 0; item = next()) kernel.pack(problem, plan, item, packed.get());
    });
  }
  return ParallelForWithScratch(pool, threads, plan.items, plan.scratch_floats, [&](int64_t item, float* scratch) {
    kernel.run(problem, plan, item, packed.get(), scratch);
  });
}

ffi::Error Matmul(ffi::ThreadPool pool, ffi::AnyBuffer lhs, ffi::AnyBuffer rhs, ffi::RemainingArgs modifiers,
                  ffi::Result<ffi::AnyBuffer> out, Ints counts, Ints extents, Ints lhs_strides, Ints rhs_strides,
                  Ints out_strides, Ints mod_strides, Ints steps_op, Floats steps_f) try {
  const Arguments arguments{lhs,         rhs,         modifiers,   *out,        counts,   extents,
                            lhs_strides, rhs_strides, out_strides, mod_strides, steps_op, steps_f};
  return Named("zenith_matmul", CheckAndRun(pool, arguments));
} catch (const std::exception& error) {  // XLA is compiled without exceptions: none may reach it
  return ffi::Error::Internal(std::string("zenith_matmul: ") + error.what());
}

}  // namespace
}  // namespace zenith

// The macro below defines it; only the declaration can make it visible.
extern "C" __attribute__((visibility("default"))) XLA_FFI_Error* zenith_matmul(XLA_FFI_CallFrame* call_frame);

XLA_FFI_DEFINE_HANDLER_SYMBOL(zenith_matmul, zenith::Matmul,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .RemainingArgs()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Attr<zenith::Ints>("counts")
                                  .Attr<zenith::Ints>("extents")
                                  .Attr<zenith::Ints>("lhs_strides")
                                  .Attr<zenith::Ints>("rhs_strides")
                                  .Attr<zenith::Ints>("out_strides")
                                  .Attr<zenith::Ints>("mod_strides")
                                  .Attr<zenith::Ints>("steps_op")
                                  .Attr<zenith::Floats>("steps_f"));
