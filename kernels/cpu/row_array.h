// An operand as the kernels of rows see it: elements of one type, row after row. The last axis is the row, and any
// number of leading axes counts the rows.
#pragma once

#include <cstdint>

#include "dtype.h"

namespace zenith {

struct RowArray {
  void* data = nullptr;  // nullptr where an optional operand is not there
  Dtype dtype = Dtype::kF32;

  explicit operator bool() const { return data != nullptr; }
  void* At(int64_t element) const { return static_cast<char*>(data) + element * ElementBytes(dtype); }
};

}  // namespace zenith
