// The element types of operands.
#pragma once

#include <cstdint>

namespace zenith {

enum class Dtype : uint8_t { kF32, kBf16, kF16, kPred };

constexpr int64_t ElementBytes(Dtype dtype) { return dtype == Dtype::kF32 ? 4 : dtype == Dtype::kPred ? 1 : 2; }

}  // namespace zenith
