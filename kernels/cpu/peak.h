// How fast the processor multiplies when nothing else holds it up: loops over registers alone, for benchmarks to measure
// a kernel's share of.
#pragma once

#include <cstdint>

#include "isa.h"

namespace zenith {

struct Peak {
  // Each runs `rounds` rounds and returns the floating-point operations it did, 0 where the processor has no such unit.
  double (*float32)(int64_t rounds);
  double (*bfloat16)(int64_t rounds);
};

ZENITH_DECLARE_KERNEL_BF16(Peak, kPeak)

}  // namespace zenith
