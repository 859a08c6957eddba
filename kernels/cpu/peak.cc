// zenith_cpu_peak(bf16, rounds): see peak.h. Not a custom call; benchmarks/peaks.py times it.
#include "peak.h"

extern "C" __attribute__((visibility("default"))) double zenith_cpu_peak(int bf16, int64_t rounds) {
  const zenith::Peak& peak = ZENITH_KERNEL_BF16(zenith::Peak, kPeak);
  return bf16 != 0 ? peak.bfloat16(rounds) : peak.float32(rounds);
}
