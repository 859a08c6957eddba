// The functions of vec_math.h over arrays, for tests: they are reachable from Python through ctypes.
#include "vec_math_arrays.h"

#include <string_view>

#include "isa.h"

// y[i] = function(x[i]) for i < n. Returns 0, or 1 where there is no function of that name.
extern "C" __attribute__((visibility("default"))) int zenith_vec_math(const char* name, const float* x, float* y,
                                                                      int64_t n) {
  const zenith::VecMath& table = ZENITH_KERNEL(zenith::VecMath, kVecMath);
  for (const zenith::VecFunction& function : table.functions) {
    if (std::string_view(function.name) != name) continue;
    function.run(x, y, n);
    return 0;
  }
  return 1;
}
