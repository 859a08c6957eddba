// One vector of float32 and the few operations the kernels need, for each instruction set: the type Vec of kWidth floats,
// loads and stores of each element type, arithmetic, comparisons, a transpose. Every intrinsic of the project is in the
// files of vec/; the names and their meaning are the same in each.
//
// A source that includes it is compiled once per instruction set, with that set's compiler flags and with ZENITH_ISA
// naming the namespace its symbols live in. The flags choose the file below. Such sources use no standard-library
// templates: the linker keeps one copy of those, and it could be the one that needs AVX-512.
//
// GCC and Clang give +, -, * and / on the register types themselves.
#pragma once

#ifndef ZENITH_ISA
#error "compile with -DZENITH_ISA=portable, avx2, avx512, avx512bf16 or amx"
#endif

#if defined(__AVX512F__)
#include "vec/avx512.h"  // IWYU pragma: export
#elif defined(__AVX2__)
#include "vec/avx2.h"  // IWYU pragma: export
#else
#include "vec/portable.h"  // IWYU pragma: export
#endif
#include "vec/bf16.h"   // IWYU pragma: export
#include "vec/tiles.h"  // IWYU pragma: export
