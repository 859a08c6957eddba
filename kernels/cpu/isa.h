// Which of the compiled instruction sets this process uses.
#pragma once

#include <initializer_list>

namespace zenith {

// Each has all that those before it have. kAvx512Bf16 adds products of bfloat16 pairs, kAmx tiles of them.
enum class Isa { kPortable, kAvx2, kAvx512, kAvx512Bf16, kAmx };

// The widest one the processor and the operating system support, decided once. The environment variable ZENITH_CPU_ISA
// (portable, avx2, avx512, avx512bf16 or amx) asks for a narrower one; a wider one than there is has no effect.
Isa ActiveIsa();

const char* Name(Isa isa);

// A kernel as compiled for one instruction set.
template <class Kernel>
struct Compiled {
  Isa isa;
  const Kernel* kernel;
};

// The last of `versions`, widest last, that this process may use. The first needs nothing.
template <class Kernel>
const Kernel& Best(std::initializer_list<Compiled<Kernel>> versions) {
  const Kernel* best = versions.begin()->kernel;
  for (const Compiled<Kernel>& version : versions) {
    if (version.isa <= ActiveIsa()) best = version.kernel;
  }
  return *best;
}

}  // namespace zenith

// ZENITH_DECLARE_KERNEL(Type, name) declares the versions of a kernel that is compiled for portable, avx2 and avx512;
// ZENITH_KERNEL(Type, name) is the one to run. The _BF16 macros are for sources compiled for the two others too
// (bf16_sources in CMakeLists.txt).
#define ZENITH_DECLARE_FOR(isa, Type, name) \
  namespace isa {                           \
  extern const Type name;                   \
  }
#define ZENITH_VERSION(Type, isa, space, name) zenith::Compiled<Type>{zenith::Isa::isa, &zenith::space::name}

#if defined(ZENITH_X86)
#define ZENITH_DECLARE_KERNEL(Type, name)    \
  ZENITH_DECLARE_FOR(portable, Type, name)   \
  ZENITH_DECLARE_FOR(avx2, Type, name)       \
  ZENITH_DECLARE_FOR(avx512, Type, name)
#define ZENITH_VERSIONS(Type, name)                                                                    \
  ZENITH_VERSION(Type, kPortable, portable, name), ZENITH_VERSION(Type, kAvx2, avx2, name),            \
      ZENITH_VERSION(Type, kAvx512, avx512, name)
#else
#define ZENITH_DECLARE_KERNEL(Type, name) ZENITH_DECLARE_FOR(portable, Type, name)
#define ZENITH_VERSIONS(Type, name) ZENITH_VERSION(Type, kPortable, portable, name)
#endif

#if defined(ZENITH_AMX)
#define ZENITH_DECLARE_KERNEL_BF16(Type, name)  \
  ZENITH_DECLARE_KERNEL(Type, name)             \
  ZENITH_DECLARE_FOR(avx512bf16, Type, name)    \
  ZENITH_DECLARE_FOR(amx, Type, name)
#define ZENITH_VERSIONS_BF16(Type, name)                                                            \
  ZENITH_VERSIONS(Type, name), ZENITH_VERSION(Type, kAvx512Bf16, avx512bf16, name),                 \
      ZENITH_VERSION(Type, kAmx, amx, name)
#else
#define ZENITH_DECLARE_KERNEL_BF16 ZENITH_DECLARE_KERNEL
#define ZENITH_VERSIONS_BF16 ZENITH_VERSIONS
#endif

#define ZENITH_KERNEL(Type, name) zenith::Best<Type>({ZENITH_VERSIONS(Type, name)})
#define ZENITH_KERNEL_BF16(Type, name) zenith::Best<Type>({ZENITH_VERSIONS_BF16(Type, name)})
