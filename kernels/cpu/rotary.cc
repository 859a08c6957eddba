// The XLA custom call "zenith_rotary": checks its operands and attributes, and runs the kernel on XLA's threads.
//
// rotary.h has the mathematics, zenith_mlir/kernels/cpu/rotary.py the Python side of this interface.
#include "rotary.h"

#include <algorithm>
#include <exception>
#include <string>

#include "checks.h"
#include "isa.h"
#include "parallel.h"
#include "xla/ffi/api/ffi.h"

namespace zenith {
namespace {

struct Attributes {
  Ints dims, sizes;  // sizes: features, rotated, columns of the tables
  Ints x_strides, cos_strides, sin_strides, out_strides;
  bool interleaved, transposed;
};

ffi::Error CheckSizes(const Attributes& attributes, RotaryProblem* problem) {
  if (attributes.dims.size() > kMaxRotaryDims) {
    return Invalid("dims has ", attributes.dims.size(), " elements, at most ", kMaxRotaryDims);
  }
  ZENITH_RETURN_IF_ERROR(CheckSize("sizes", attributes.sizes.size(), 3, "features, rotated, columns of the tables"));
  problem->n_dims = static_cast<int>(attributes.dims.size());
  problem->rows = 1;
  for (int d = 0; d < problem->n_dims; ++d) {
    const int64_t extent = attributes.dims[d];
    if (extent < 0 || extent > kMaxExtent) return Invalid("extent dims[", d, "] is ", extent);
    problem->dims[d] = extent;
    if (__builtin_mul_overflow(problem->rows, extent, &problem->rows)) return Invalid("the product of dims overflows");
  }
  const int64_t features = attributes.sizes[0], rotated = attributes.sizes[1], columns = attributes.sizes[2];
  if (features < 0 || features > kMaxExtent) return Invalid("features is ", features);
  if (rotated < 0 || rotated > features || rotated % 2 != 0) {
    return Invalid("rotated is ", rotated, ", expected an even number up to the ", features, " features");
  }
  if (columns != rotated && columns != rotated / 2) {
    return Invalid("the tables have ", columns, " columns, expected ", rotated, " or ", rotated / 2);
  }
  problem->features = features;
  problem->rotated = rotated;
  problem->full_table = columns == rotated;
  problem->interleaved = attributes.interleaved;
  problem->transposed = attributes.transposed;
  return ffi::Error::Success();
}

// Strides of the axes dims; rows of `columns` elements must lie inside the buffer.
ffi::Error CheckStrides(const char* name, Ints strides, const RotaryProblem& problem, int64_t columns,
                        int64_t elements, int64_t* result) {
  const std::string attribute = std::string(name) + "_strides";
  ZENITH_RETURN_IF_ERROR(CheckSize(attribute.c_str(), strides.size(), problem.n_dims, "the axes of dims"));
  int64_t last = columns - 1;
  for (int d = 0; d < problem.n_dims; ++d) {
    int64_t reach;
    if (strides[d] < 0 || __builtin_mul_overflow(strides[d], std::max<int64_t>(problem.dims[d] - 1, 0), &reach) ||
        __builtin_add_overflow(last, reach, &last)) {
      return Invalid("the strides of ", name, " are negative or overflow");
    }
    result[d] = strides[d];
  }
  if (problem.rows > 0 && columns > 0 && last >= elements) {
    return Invalid("the strides of ", name, " reach element ", last, " of ", elements);
  }
  return ffi::Error::Success();
}

// Strides that visit each element of out once: one axis steps from row to row, the next over what that covers, ...
ffi::Error CheckDense(const RotaryProblem& problem, int64_t elements) {
  bool covered[kMaxRotaryDims] = {};
  int64_t block = problem.features;
  for (int round = 0; round < problem.n_dims; ++round) {
    for (int d = 0; d < problem.n_dims; ++d) {
      if (covered[d] || problem.out_strides[d] != block || problem.dims[d] == 1) continue;
      covered[d] = true;
      block *= problem.dims[d];
    }
  }
  int64_t all;
  const bool overflow = __builtin_mul_overflow(problem.rows, problem.features, &all);
  if (!overflow && all == elements && (all == 0 || block == elements)) return ffi::Error::Success();
  return Invalid("the strides of out must visit each of its ", elements, " elements exactly once");
}

ffi::Error ToFloat(const char* name, const ffi::AnyBuffer& buffer, Dtype* dtype) {
  const std::optional<Dtype> found = ToDtype(buffer.element_type());
  if (!found || *found == Dtype::kPred) {
    return Invalid(name, " has element type ", static_cast<int>(buffer.element_type()), ", expected f32, bf16 or f16");
  }
  *dtype = *found;
  return ffi::Error::Success();
}

ffi::Error CheckAndRun(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer cos, ffi::AnyBuffer sin,
                       ffi::AnyBuffer out, const Attributes& attributes) {
  RotaryProblem problem{};
  ZENITH_RETURN_IF_ERROR(CheckSizes(attributes, &problem));
  Dtype out_dtype, sin_dtype;
  ZENITH_RETURN_IF_ERROR(ToFloat("x", x, &problem.dtype));
  ZENITH_RETURN_IF_ERROR(ToFloat("cos", cos, &problem.table_dtype));
  ZENITH_RETURN_IF_ERROR(ToFloat("sin", sin, &sin_dtype));
  ZENITH_RETURN_IF_ERROR(ToFloat("out", out, &out_dtype));
  if (out_dtype != problem.dtype) return Invalid("out has another element type than x");
  if (sin_dtype != problem.table_dtype) return Invalid("sin has another element type than cos");
  const int64_t columns = attributes.sizes[2], elements = out.element_count();
  ZENITH_RETURN_IF_ERROR(CheckStrides("x", attributes.x_strides, problem, problem.features, x.element_count(),
                                      problem.x_strides));
  ZENITH_RETURN_IF_ERROR(CheckStrides("cos", attributes.cos_strides, problem, columns, cos.element_count(),
                                      problem.cos_strides));
  ZENITH_RETURN_IF_ERROR(CheckStrides("sin", attributes.sin_strides, problem, columns, sin.element_count(),
                                      problem.sin_strides));
  ZENITH_RETURN_IF_ERROR(CheckStrides("out", attributes.out_strides, problem, problem.features, elements,
                                      problem.out_strides));
  ZENITH_RETURN_IF_ERROR(CheckDense(problem, elements));
  if (elements == 0) return ffi::Error::Success();
  problem.x = x.untyped_data();
  problem.cos = cos.untyped_data();
  problem.sin = sin.untyped_data();
  problem.out = out.untyped_data();

  constexpr int64_t kItem = 1 << 15;  // elements
  const RotaryKernel& kernel = ZENITH_KERNEL(RotaryKernel, kRotary);
  const int64_t rows = std::max<int64_t>(1, kItem / problem.features), items = (problem.rows + rows - 1) / rows;
  ParallelFor(pool, std::max<int64_t>(pool.num_threads(), 1), items, [&](auto next) {
    for (int64_t item = next(); item >= 0; item = next()) {
      kernel.run(problem, item * rows, std::min((item + 1) * rows, problem.rows));
    }
  });
  return ffi::Error::Success();
}

ffi::Error Rotary(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer cos, ffi::AnyBuffer sin,
                  ffi::Result<ffi::AnyBuffer> out, Ints dims, Ints sizes, Ints x_strides, Ints cos_strides,
                  Ints sin_strides, Ints out_strides, bool interleaved, bool transposed) try {
  const Attributes attributes{dims,        sizes,       x_strides,   cos_strides,
                              sin_strides, out_strides, interleaved, transposed};
  return Named("zenith_rotary", CheckAndRun(pool, x, cos, sin, *out, attributes));
} catch (const std::exception& error) {  // XLA is compiled without exceptions: none may reach it
  return ffi::Error::Internal(std::string("zenith_rotary: ") + error.what());
}

}  // namespace
}  // namespace zenith

// The macro below defines it; only the declaration can make it visible.
extern "C" __attribute__((visibility("default"))) XLA_FFI_Error* zenith_rotary(XLA_FFI_CallFrame* call_frame);

XLA_FFI_DEFINE_HANDLER_SYMBOL(zenith_rotary, zenith::Rotary,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Attr<zenith::Ints>("dims")
                                  .Attr<zenith::Ints>("sizes")
                                  .Attr<zenith::Ints>("x_strides")
                                  .Attr<zenith::Ints>("cos_strides")
                                  .Attr<zenith::Ints>("sin_strides")
                                  .Attr<zenith::Ints>("out_strides")
                                  .Attr<bool>("interleaved")
                                  .Attr<bool>("transposed"));
