// The functions of vec_math.h as functions of arrays.
#pragma once

#include <cstdint>

#include "isa.h"

namespace zenith {

struct VecFunction {
  const char* name;
  void (*run)(const float* x, float* y, int64_t n);
};
struct VecMath {
  VecFunction functions[7];
};

ZENITH_DECLARE_KERNEL(VecMath, kVecMath)

}  // namespace zenith
