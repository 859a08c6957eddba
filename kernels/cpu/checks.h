// What every handler needs to check its operands and attributes and to say what is wrong with them.
#pragma once

#include <cstdint>
#include <optional>
#include <sstream>
#include <string>

#include "dtype.h"
#include "xla/ffi/api/ffi.h"

namespace zenith {

namespace ffi = xla::ffi;
using Ints = ffi::Span<const int64_t>;
using Floats = ffi::Span<const float>;

constexpr int64_t kMaxExtent = int64_t{1} << 31;

template <class... Parts>
ffi::Error Invalid(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  return ffi::Error::InvalidArgument(message.str());
}

// The error, if it is one, with the name of the call before its message.
inline ffi::Error Named(const char* call, ffi::Error error) {
  if (error.success()) return error;
  return ffi::Error(*error.errc(), std::string(call) + ": " + error.message());
}

#define ZENITH_RETURN_IF_ERROR(expression)              \
  if (ffi::Error error = (expression); error.failure()) \
  return error

inline std::optional<Dtype> ToDtype(ffi::DataType type) {
  switch (type) {
    case ffi::DataType::F32: return Dtype::kF32;
    case ffi::DataType::BF16: return Dtype::kBf16;
    case ffi::DataType::F16: return Dtype::kF16;
    case ffi::DataType::PRED: return Dtype::kPred;
    default: return std::nullopt;
  }
}

inline ffi::Error CheckSize(const char* name, size_t got, size_t expected, const char* meaning) {
  if (got == expected) return ffi::Error::Success();
  return Invalid("attribute ", name, " has ", got, " elements, expected ", expected, " (", meaning, ")");
}

}  // namespace zenith
