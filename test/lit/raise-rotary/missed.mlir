// RUN: zenith-opt %s --pass-pipeline=prepare,raise-rotary --split-input-file --verify-diagnostics -o /dev/null

// Both halves add.
func.func public @added(%x: tensor<6x8xf32>, %cos: tensor<6x4xf32>, %sin: tensor<6x4xf32>) -> tensor<6x8xf32> {
  %a = stablehlo.slice %x [0:6, 0:4] : (tensor<6x8xf32>) -> tensor<6x4xf32>
  %b = stablehlo.slice %x [0:6, 4:8] : (tensor<6x8xf32>) -> tensor<6x4xf32>
  %0 = stablehlo.multiply %a, %cos : tensor<6x4xf32>
  %1 = stablehlo.multiply %b, %sin : tensor<6x4xf32>
  %2 = stablehlo.add %0, %1 : tensor<6x4xf32>
  %3 = stablehlo.multiply %b, %cos : tensor<6x4xf32>
  %4 = stablehlo.multiply %a, %sin : tensor<6x4xf32>
  %5 = stablehlo.add %3, %4 : tensor<6x4xf32>
  // expected-remark@+1 {{both features of a pair have the partner's product with the same sign; a rotation subtracts one}}
  %6 = stablehlo.concatenate %2, %5, dim = 1 : (tensor<6x4xf32>, tensor<6x4xf32>) -> tensor<6x8xf32>
  return %6 : tensor<6x8xf32>
}

// -----

// A rotation backwards that is the gradient of none.
func.func public @backwards(%x: tensor<6x8xf32>, %cos: tensor<6x4xf32>, %sin: tensor<6x4xf32>) -> tensor<6x8xf32> {
  %a = stablehlo.slice %x [0:6, 0:4] : (tensor<6x8xf32>) -> tensor<6x4xf32>
  %b = stablehlo.slice %x [0:6, 4:8] : (tensor<6x8xf32>) -> tensor<6x4xf32>
  %0 = stablehlo.multiply %a, %cos : tensor<6x4xf32>
  %1 = stablehlo.multiply %b, %sin : tensor<6x4xf32>
  %2 = stablehlo.add %0, %1 : tensor<6x4xf32>
  %3 = stablehlo.multiply %b, %cos : tensor<6x4xf32>
  %4 = stablehlo.multiply %a, %sin : tensor<6x4xf32>
  %5 = stablehlo.subtract %3, %4 : tensor<6x4xf32>
  // expected-remark@+1 {{it turns backwards, and no value of the program holds the negated sines}}
  %6 = stablehlo.concatenate %2, %5, dim = 1 : (tensor<6x4xf32>, tensor<6x4xf32>) -> tensor<6x8xf32>
  return %6 : tensor<6x8xf32>
}
