#include "isa.h"

#include <algorithm>
#include <cstdlib>
#include <string_view>

#if defined(ZENITH_AMX)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace zenith {
namespace {

#if defined(ZENITH_AMX)
struct Cpuid {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};
Cpuid Leaf7(unsigned subleaf) {
  Cpuid id;
  __get_cpuid_count(7, subleaf, &id.eax, &id.ebx, &id.ecx, &id.edx);
  return id;
}

bool HasPairs() { return (Leaf7(1).eax >> 5 & 1) != 0; }  // AVX512_BF16

// A process has to ask Linux for the tile registers, once for all its threads; no other system hands them out so far.
bool HasTiles() {
  const unsigned features = Leaf7(0).edx;
  const bool bf16 = (features >> 22 & 1) != 0, tile = (features >> 24 & 1) != 0;
#if defined(__linux__) && defined(SYS_arch_prctl)
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return bf16 && tile && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}
#endif

Isa Supported() {
#if defined(ZENITH_X86)
  // These tests include the operating system's support for the registers (XGETBV).
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl")) {
#if defined(ZENITH_AMX)
    if (HasPairs()) return HasTiles() ? Isa::kAmx : Isa::kAvx512Bf16;
#endif
    return Isa::kAvx512;
  }
  // F16C has no name in older compilers; every processor with AVX2 has it.
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Isa::kAvx2;
#endif
  return Isa::kPortable;
}

Isa Asked() {
  const char* value = std::getenv("ZENITH_CPU_ISA");
  for (Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16}) {
    if (value != nullptr && std::string_view(value) == Name(isa)) return isa;
  }
  return Isa::kAmx;
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
    case Isa::kAvx512Bf16: return "avx512bf16";
    case Isa::kAmx: return "amx";
  }
  return "portable";
}

}  // namespace zenith

extern "C" __attribute__((visibility("default"))) const char* zenith_cpu_isa() {
  return zenith::Name(zenith::ActiveIsa());
}
