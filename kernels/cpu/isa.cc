#include "isa.h"

#include <algorithm>
#include <cstdlib>
#include <string_view>

namespace zenith {
namespace {

Isa Supported() {
#if defined(ZENITH_X86)
  // These tests include the operating system's support for the registers (XGETBV).
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl")) {
    return Isa::kAvx512;
  }
  // F16C has no name in older compilers; every processor with AVX2 has it.
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Isa::kAvx2;
#endif
  return Isa::kPortable;
}

Isa Asked() {
  const char* value = std::getenv("ZENITH_CPU_ISA");
  for (Isa isa : {Isa::kPortable, Isa::kAvx2}) {
    if (value != nullptr && std::string_view(value) == Name(isa)) return isa;
  }
  return Isa::kAvx512;
}

}  // namespace

Isa ActiveIsa() {
  static const Isa isa = std::min(Supported(), Asked());
  return isa;
}

const char* Name(Isa isa) {
  switch (isa) {
    case Isa::kPortable: return "portable";
    case Isa::kAvx2: return "avx2";
    case Isa::kAvx512: return "avx512";
  }
  return "portable";
}

}  // namespace zenith

extern "C" __attribute__((visibility("default"))) const char* zenith_cpu_isa() {
  return zenith::Name(zenith::ActiveIsa());
}
