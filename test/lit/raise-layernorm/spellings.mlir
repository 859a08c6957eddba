// RUN: zenith-opt %s --split-input-file --pass-pipeline=prepare,raise-layernorm --target=none --remarks=all 2>&1 | filecheck %s

// The variance as a difference of means, the affine part multiplied out.
// CHECK: remark: [passed] raise-layernorm: zenith.layer_norm
// CHECK: remark: [missed] raise-layernorm: epsilon is added to the root of the variance, not to the variance; write sqrt(variance + epsilon)

// CHECK-LABEL: func.func public @main
// CHECK-NEXT: stablehlo.composite "zenith.layer_norm" %arg0, %arg1, %arg2
// CHECK-SAME: axes = 1 : i64, bias = true
// CHECK-SAME: weight = true
// CHECK-NEXT: return
func.func public @main(%x: tensor<2x4xf32>, %w: tensor<4xf32>, %b: tensor<4xf32>) -> tensor<2x4xf32> {
  %zero = stablehlo.constant dense<0.0> : tensor<f32>
  %four = stablehlo.constant dense<4.0> : tensor<2xf32>
  %eps = stablehlo.constant dense<1.0e-5> : tensor<2xf32>
  %0 = stablehlo.reduce(%x init: %zero) applies stablehlo.add across dimensions = [1] : (tensor<2x4xf32>, tensor<f32>) -> tensor<2xf32>
  %mean = stablehlo.divide %0, %four : tensor<2xf32>
  %1 = stablehlo.multiply %x, %x : tensor<2x4xf32>
  %2 = stablehlo.reduce(%1 init: %zero) applies stablehlo.add across dimensions = [1] : (tensor<2x4xf32>, tensor<f32>) -> tensor<2xf32>
  %3 = stablehlo.divide %2, %four : tensor<2xf32>
  %4 = stablehlo.multiply %mean, %mean : tensor<2xf32>
  %5 = stablehlo.subtract %3, %4 : tensor<2xf32>
  %6 = stablehlo.add %5, %eps : tensor<2xf32>
  %7 = stablehlo.rsqrt %6 : tensor<2xf32>
  %8 = stablehlo.broadcast_in_dim %7, dims = [0] : (tensor<2xf32>) -> tensor<2x4xf32>
  %9 = stablehlo.broadcast_in_dim %w, dims = [1] : (tensor<4xf32>) -> tensor<2x4xf32>
  %10 = stablehlo.multiply %8, %9 : tensor<2x4xf32>
  %11 = stablehlo.multiply %x, %10 : tensor<2x4xf32>
  %12 = stablehlo.broadcast_in_dim %mean, dims = [0] : (tensor<2xf32>) -> tensor<2x4xf32>
  %13 = stablehlo.multiply %12, %10 : tensor<2x4xf32>
  %14 = stablehlo.broadcast_in_dim %b, dims = [1] : (tensor<4xf32>) -> tensor<2x4xf32>
  %15 = stablehlo.subtract %14, %13 : tensor<2x4xf32>
  %16 = stablehlo.add %11, %15 : tensor<2x4xf32>
  return %16 : tensor<2x4xf32>
}

// -----

// Epsilon beside the root is another function.
// CHECK-LABEL: func.func public @main
// CHECK-NOT: composite
func.func public @main(%x: tensor<2x4xf32>) -> tensor<2x4xf32> {
  %zero = stablehlo.constant dense<0.0> : tensor<f32>
  %four = stablehlo.constant dense<4.0> : tensor<2xf32>
  %eps = stablehlo.constant dense<1.0e-5> : tensor<2xf32>
  %0 = stablehlo.multiply %x, %x : tensor<2x4xf32>
  %1 = stablehlo.reduce(%0 init: %zero) applies stablehlo.add across dimensions = [1] : (tensor<2x4xf32>, tensor<f32>) -> tensor<2xf32>
  %2 = stablehlo.divide %1, %four : tensor<2xf32>
  %3 = stablehlo.sqrt %2 : tensor<2xf32>
  %4 = stablehlo.add %3, %eps : tensor<2xf32>
  %5 = stablehlo.broadcast_in_dim %4, dims = [0] : (tensor<2xf32>) -> tensor<2x4xf32>
  %6 = stablehlo.divide %x, %5 : tensor<2x4xf32>
  return %6 : tensor<2x4xf32>
}
