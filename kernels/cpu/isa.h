// Which of the compiled instruction sets this process uses.
#pragma once

namespace zenith {

enum class Isa { kPortable, kAvx2, kAvx512 };

// The widest one the processor and the operating system support, decided once. The environment variable ZENITH_CPU_ISA
// (portable, avx2 or avx512) asks for a narrower one; a wider one than there is has no effect.
Isa ActiveIsa();

const char* Name(Isa isa);

}  // namespace zenith
