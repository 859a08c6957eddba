#include "elements.h"
#include "vec_math.h"
#include "vec_math_arrays.h"

namespace zenith::ZENITH_ISA {
namespace {

template <Vec (*Function)(Vec)>
void Map(const float* x, float* y, int64_t n) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) Store(y + i, Function(Load(x + i)));
  if (i < n) StoreFirst(y + i, n - i, Function(LoadFirst(x + i, n - i)));
}

}  // namespace

const VecMath kVecMath = {{{"exp", Map<Exp>},
                           {"exp_non_positive", Map<ExpNonPositive>},
                           {"log", Map<Log>},
                           {"tanh", Map<Tanh>},
                           {"sigmoid", Map<Sigmoid>},
                           {"erf", Map<Erf>},
                           {"normal_cdf", Map<NormalCdf>}}};

}  // namespace zenith::ZENITH_ISA
