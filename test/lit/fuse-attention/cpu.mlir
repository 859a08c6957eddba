// RUN: zenith-opt %s --pass fuse-attention --target=cpu --remarks=passed 2>&1 | filecheck %s
// RUN: zenith-opt %s --pass 'fuse-attention{min-seq=512}' --target=cpu --remarks=missed 2>&1 | filecheck %s --check-prefix=SHORT

// CHECK: remark: [passed] raise-attention: zenith.attention
// CHECK: remark: [passed] lower-kernels: zenith.attention
// CHECK-LABEL: func.func public @main
// CHECK-NOT: stablehlo.dot_general
// CHECK: stablehlo.custom_call @zenith_attention(%arg0, %arg1, %arg2)
// CHECK-NOT: zenith.attention

// SHORT: remark: [missed] lower-kernels: sequence 256 x 256 is below min-seq=512; lower min-seq to fuse it
// SHORT: stablehlo.dot_general
// SHORT: stablehlo.exponential
// SHORT: stablehlo.dot_general
// SHORT-NOT: custom_call
func.func public @main(%q: tensor<4x256x64xf32>, %k: tensor<4x256x64xf32>, %v: tensor<4x256x64xf32>) -> tensor<4x256x64xf32> {
  %inf = stablehlo.constant dense<0xFF800000> : tensor<f32>
  %zero = stablehlo.constant dense<0.0> : tensor<f32>
  %0 = stablehlo.dot_general %q, %k, batching_dims = [0] x [0], contracting_dims = [2] x [2] : (tensor<4x256x64xf32>, tensor<4x256x64xf32>) -> tensor<4x256x256xf32>
  %1 = stablehlo.reduce(%0 init: %inf) applies stablehlo.maximum across dimensions = [2] : (tensor<4x256x256xf32>, tensor<f32>) -> tensor<4x256xf32>
  %2 = stablehlo.broadcast_in_dim %1, dims = [0, 1] : (tensor<4x256xf32>) -> tensor<4x256x256xf32>
  %3 = stablehlo.subtract %0, %2 : tensor<4x256x256xf32>
  %4 = stablehlo.exponential %3 : tensor<4x256x256xf32>
  %5 = stablehlo.reduce(%4 init: %zero) applies stablehlo.add across dimensions = [2] : (tensor<4x256x256xf32>, tensor<f32>) -> tensor<4x256xf32>
  %6 = stablehlo.broadcast_in_dim %5, dims = [0, 1] : (tensor<4x256xf32>) -> tensor<4x256x256xf32>
  %7 = stablehlo.divide %4, %6 : tensor<4x256x256xf32>
  %8 = stablehlo.dot_general %7, %v, batching_dims = [0] x [0], contracting_dims = [2] x [1] : (tensor<4x256x256xf32>, tensor<4x256x64xf32>) -> tensor<4x256x64xf32>
  return %8 : tensor<4x256x64xf32>
}
