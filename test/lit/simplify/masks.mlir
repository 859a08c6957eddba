// RUN: zenith-opt %s --pass simplify | filecheck %s

// tril of ones: the comparison itself.
// CHECK-LABEL: func.func @tril
// CHECK-DAG: %[[R:.*]] = stablehlo.iota dim = 0 : tensor<4x4xi32>
// CHECK-DAG: %[[C:.*]] = stablehlo.iota dim = 1 : tensor<4x4xi32>
// CHECK: %[[M:.*]] = stablehlo.compare GE, %[[R]], %[[C]]
// CHECK-NEXT: return %[[M]]
func.func @tril() -> tensor<4x4xi1> {
  %true = stablehlo.constant dense<true> : tensor<4x4xi1>
  %false = stablehlo.constant dense<false> : tensor<4x4xi1>
  %zero = stablehlo.constant dense<0> : tensor<4x4xi32>
  %rows = stablehlo.iota dim = 0 : tensor<4x4xi32>
  %shifted = stablehlo.add %rows, %zero : tensor<4x4xi32>
  %columns = stablehlo.iota dim = 1 : tensor<4x4xi32>
  %0 = stablehlo.compare GE, %shifted, %columns, SIGNED : (tensor<4x4xi32>, tensor<4x4xi32>) -> tensor<4x4xi1>
  %1 = stablehlo.select %0, %true, %false : tensor<4x4xi1>, tensor<4x4xi1>
  return %1 : tensor<4x4xi1>
}

// A predicate that went through integers comes back.
// CHECK-LABEL: func.func @round_trip
// CHECK-NEXT: stablehlo.and %arg0, %arg1
// CHECK-NEXT: return
func.func @round_trip(%p: tensor<4xi1>, %q: tensor<4xi1>) -> tensor<4xi1> {
  %zero = stablehlo.constant dense<0> : tensor<4xi32>
  %a = stablehlo.convert %p : (tensor<4xi1>) -> tensor<4xi32>
  %b = stablehlo.convert %q : (tensor<4xi1>) -> tensor<4xi32>
  %0 = stablehlo.multiply %a, %b : tensor<4xi32>
  %1 = stablehlo.compare NE, %0, %zero, SIGNED : (tensor<4xi32>, tensor<4xi32>) -> tensor<4xi1>
  return %1 : tensor<4xi1>
}

// Of floats, only equality may be negated: NaN is neither smaller nor greater or equal.
// CHECK-LABEL: func.func @negated
// CHECK: stablehlo.compare LT
// CHECK: stablehlo.not
// CHECK: stablehlo.compare GE
func.func @negated(%x: tensor<4xf32>, %y: tensor<4xf32>, %i: tensor<4xi32>, %j: tensor<4xi32>) -> (tensor<4xi1>, tensor<4xi1>) {
  %0 = stablehlo.compare LT, %x, %y, FLOAT : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xi1>
  %1 = stablehlo.not %0 : tensor<4xi1>
  %2 = stablehlo.compare LT, %i, %j, SIGNED : (tensor<4xi32>, tensor<4xi32>) -> tensor<4xi1>
  %3 = stablehlo.not %2 : tensor<4xi1>
  return %1, %3 : tensor<4xi1>, tensor<4xi1>
}

// CHECK-LABEL: func.func @select_of_not
// CHECK-NEXT: stablehlo.select %arg0, %arg2, %arg1
func.func @select_of_not(%p: tensor<4xi1>, %a: tensor<4xf32>, %b: tensor<4xf32>) -> tensor<4xf32> {
  %0 = stablehlo.not %p : tensor<4xi1>
  %1 = stablehlo.select %0, %a, %b : tensor<4xi1>, tensor<4xf32>
  return %1 : tensor<4xf32>
}
