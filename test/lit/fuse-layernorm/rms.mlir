// RUN: zenith-opt %s --pass 'fuse-layernorm{cost-model=false}' --target=cpu --remarks=passed 2>&1 | filecheck %s

// CHECK: remark: [passed] raise-layernorm: zenith.rms_norm
// CHECK: remark: [passed] lower-kernels: zenith.rms_norm
// CHECK-LABEL: func.func public @main
// CHECK-NEXT: stablehlo.custom_call @zenith_norm(%arg0, %arg1)
func.func public @main(%x: tensor<2x4xf32>, %w: tensor<4xf32>) -> tensor<2x4xf32> {
  %zero = stablehlo.constant dense<0.0> : tensor<f32>
  %four = stablehlo.constant dense<4.0> : tensor<2xf32>
  %eps = stablehlo.constant dense<1.0e-5> : tensor<2xf32>
  %0 = stablehlo.multiply %x, %x : tensor<2x4xf32>
  %1 = stablehlo.reduce(%0 init: %zero) applies stablehlo.add across dimensions = [1] : (tensor<2x4xf32>, tensor<f32>) -> tensor<2xf32>
  %2 = stablehlo.divide %1, %four : tensor<2xf32>
  %3 = stablehlo.add %2, %eps : tensor<2xf32>
  %4 = stablehlo.rsqrt %3 : tensor<2xf32>
  %5 = stablehlo.broadcast_in_dim %4, dims = [0] : (tensor<2xf32>) -> tensor<2x4xf32>
  %6 = stablehlo.multiply %x, %5 : tensor<2x4xf32>
  %7 = stablehlo.broadcast_in_dim %w, dims = [1] : (tensor<4xf32>) -> tensor<2x4xf32>
  %8 = stablehlo.multiply %6, %7 : tensor<2x4xf32>
  return %8 : tensor<2x4xf32>
}
