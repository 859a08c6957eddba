// RUN: zenith-opt %s --pass-pipeline=prepare,raise-cross-entropy --target=none --remarks=passed 2>&1 | filecheck %s

// Log-softmax at the columns of a one-hot matrix: logits and labels are all that the loss takes.

// CHECK: remark: [passed] raise-cross-entropy: zenith.cross_entropy
// CHECK-SAME: outside=zero
// CHECK-LABEL: func.func public @main
// CHECK-NEXT: stablehlo.composite "zenith.cross_entropy" %arg0, %arg1
// CHECK-SAME: residuals = false
// CHECK-NEXT: return
func.func public @main(%x: tensor<4x10xf32>, %labels: tensor<4xi32>) -> tensor<4xf32> {
  %zero = stablehlo.constant dense<0.0> : tensor<f32>
  %inf = stablehlo.constant dense<0xFF800000> : tensor<f32>
  %m = stablehlo.reduce(%x init: %inf) applies stablehlo.maximum across dimensions = [1] : (tensor<4x10xf32>, tensor<f32>) -> tensor<4xf32>
  %mb = stablehlo.broadcast_in_dim %m, dims = [0] : (tensor<4xf32>) -> tensor<4x10xf32>
  %d = stablehlo.subtract %x, %mb : tensor<4x10xf32>
  %e = stablehlo.exponential %d : tensor<4x10xf32>
  %s = stablehlo.reduce(%e init: %zero) applies stablehlo.add across dimensions = [1] : (tensor<4x10xf32>, tensor<f32>) -> tensor<4xf32>
  %l = stablehlo.log %s : tensor<4xf32>
  %lb = stablehlo.broadcast_in_dim %l, dims = [0] : (tensor<4xf32>) -> tensor<4x10xf32>
  %p = stablehlo.subtract %d, %lb : tensor<4x10xf32>
  %i = stablehlo.iota dim = 1 : tensor<4x10xi32>
  %y = stablehlo.broadcast_in_dim %labels, dims = [0] : (tensor<4xi32>) -> tensor<4x10xi32>
  %h = stablehlo.compare EQ, %y, %i, SIGNED : (tensor<4x10xi32>, tensor<4x10xi32>) -> tensor<4x10xi1>
  %f = stablehlo.convert %h : (tensor<4x10xi1>) -> tensor<4x10xf32>
  %t = stablehlo.multiply %f, %p : tensor<4x10xf32>
  %r = stablehlo.reduce(%t init: %zero) applies stablehlo.add across dimensions = [1] : (tensor<4x10xf32>, tensor<f32>) -> tensor<4xf32>
  %n = stablehlo.negate %r : tensor<4xf32>
  return %n : tensor<4xf32>
}
