// What the handlers of row kernels check in common, and how they share rows out.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>

#include "checks.h"
#include "parallel.h"
#include "row_array.h"
#include "xla/ffi/api/ffi.h"

namespace zenith {

using Extents = ffi::AnyBuffer::Dimensions;

inline std::string ToString(Extents extents) {
  std::string text = "[";
  for (size_t i = 0; i < extents.size(); ++i) text += (i == 0 ? "" : ",") + std::to_string(extents[i]);
  return text + "]";
}

inline int64_t Product(Extents extents) {
  int64_t product = 1;  // of a buffer that exists: no overflow
  for (int64_t extent : extents) product *= extent;
  return product;
}

inline ffi::Error ToFloats(const char* name, ffi::AnyBuffer buffer, RowArray* array) {
  const std::optional<Dtype> dtype = ToDtype(buffer.element_type());
  if (!dtype || *dtype == Dtype::kPred) {
    return Invalid(name, " has element type ", buffer.element_type(), ", expected f32, bf16 or f16");
  }
  *array = {buffer.untyped_data(), *dtype};
  return ffi::Error::Success();
}

// The operand that says how many rows there are and how long they are.
inline ffi::Error ToRows(const char* name, ffi::AnyBuffer buffer, RowArray* array, int64_t* rows, int64_t* cols) {
  const Extents extents = buffer.dimensions();
  if (extents.size() == 0) return Invalid(name, " is a scalar, expected rows along its last axis");
  *rows = Product(extents.first(extents.size() - 1));
  *cols = extents.back();
  return ToFloats(name, buffer, array);
}

inline ffi::Error CheckExtents(const char* name, Extents got, Extents expected, const char* meaning) {
  if (std::equal(got.begin(), got.end(), expected.begin(), expected.end())) return ffi::Error::Success();
  return Invalid(name, " has the shape ", ToString(got), ", expected ", ToString(expected), " (", meaning, ")");
}

// Another operand or result of the same shape.
inline ffi::Error ToSameRows(const char* name, ffi::AnyBuffer buffer, Extents expected, RowArray* array) {
  ZENITH_RETURN_IF_ERROR(CheckExtents(name, buffer.dimensions(), expected, "that of the first operand"));
  return ToFloats(name, buffer, array);
}

// One element for each column.
inline ffi::Error ToColumns(const char* name, ffi::AnyBuffer buffer, Extents rows, RowArray* array) {
  ZENITH_RETURN_IF_ERROR(CheckExtents(name, buffer.dimensions(), rows.last(1), "the last axis of the first operand"));
  return ToFloats(name, buffer, array);
}

// One float32 for each row.
inline ffi::Error ToRowNumbers(const char* name, ffi::AnyBuffer buffer, Extents rows, float** numbers) {
  ZENITH_RETURN_IF_ERROR(
      CheckExtents(name, buffer.dimensions(), rows.first(rows.size() - 1), "the leading axes of the first operand"));
  if (buffer.element_type() != ffi::DataType::F32) {
    return Invalid(name, " has element type ", buffer.element_type(), ", expected f32");
  }
  *numbers = static_cast<float*>(buffer.untyped_data());
  return ffi::Error::Success();
}

// The operands that a call has, or the results, handed out in order by name.
template <class Remaining>
class InOrder {
 public:
  InOrder(const char* kind, Remaining remaining) : kind_(kind), remaining_(remaining) {}

  // The next one into `buffer`.
  ffi::Error Next(const char* name, ffi::AnyBuffer* buffer) {
    if (next_ == remaining_.size()) return Invalid("the ", kind_, " ", name, " is missing");
    auto found = remaining_.template get<ffi::AnyBuffer>(next_++);
    if (found.has_error()) return found.error();
    *buffer = Unwrapped(*found);
    return ffi::Error::Success();
  }
  ffi::Error NoMore() const {
    if (next_ == remaining_.size()) return ffi::Error::Success();
    return Invalid("there are ", remaining_.size() - next_, " ", kind_, "s too many");
  }

 private:
  static ffi::AnyBuffer Unwrapped(ffi::AnyBuffer buffer) { return buffer; }
  static ffi::AnyBuffer Unwrapped(ffi::Result<ffi::AnyBuffer> buffer) { return *buffer; }

  const char* kind_;
  Remaining remaining_;
  size_t next_ = 0;
};
using Operands = InOrder<ffi::RemainingArgs>;
using Results = InOrder<ffi::RemainingRets>;

// Runs run(first row, rows, scratch) on blocks of rows that are worth a thread's while.
template <class Run>
ffi::Error ForRowBlocks(ffi::ThreadPool pool, int64_t rows, int64_t cols, int64_t scratch_floats, const Run& run) {
  constexpr int64_t kElements = 32768;
  if (rows == 0 || cols == 0) return ffi::Error::Success();
  const int64_t block = std::max<int64_t>(kElements / cols, 1);
  const int64_t threads = std::max<int64_t>(pool.num_threads(), 1);
  return ParallelForWithScratch(pool, threads, (rows + block - 1) / block, scratch_floats,
                                [&](int64_t item, float* scratch) {
                                  run(item * block, std::min(block, rows - item * block), scratch);
                                });
}

}  // namespace zenith
