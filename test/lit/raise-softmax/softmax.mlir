// RUN: zenith-opt %s --pass-pipeline=prepare,raise-softmax --target=none --remarks=passed 2>&1 | filecheck %s

// CHECK: remark: [passed] raise-softmax: zenith.softmax
// CHECK-SAME: scale=0.5
// CHECK-LABEL: func.func public @last
// CHECK-NEXT: stablehlo.composite "zenith.softmax" %arg0
func.func public @last(%q: tensor<4x10xf32>) -> tensor<4x10xf32> {
  %zero = stablehlo.constant dense<0.0> : tensor<f32>
  %inf = stablehlo.constant dense<0xFF800000> : tensor<f32>
  %half = stablehlo.constant dense<0.5> : tensor<4x10xf32>
  %x = stablehlo.multiply %q, %half : tensor<4x10xf32>
  %m = stablehlo.reduce(%x init: %inf) applies stablehlo.maximum across dimensions = [1] : (tensor<4x10xf32>, tensor<f32>) -> tensor<4xf32>
  %mb = stablehlo.broadcast_in_dim %m, dims = [0] : (tensor<4xf32>) -> tensor<4x10xf32>
  %d = stablehlo.subtract %x, %mb : tensor<4x10xf32>
  %e = stablehlo.exponential %d : tensor<4x10xf32>
  %s = stablehlo.reduce(%e init: %zero) applies stablehlo.add across dimensions = [1] : (tensor<4x10xf32>, tensor<f32>) -> tensor<4xf32>
  %sb = stablehlo.broadcast_in_dim %s, dims = [0] : (tensor<4xf32>) -> tensor<4x10xf32>
  %p = stablehlo.divide %e, %sb : tensor<4x10xf32>
  return %p : tensor<4x10xf32>
}
