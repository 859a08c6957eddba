// RUN: zenith-opt %s --pass-pipeline=prepare,raise-cross-entropy --target=none --verify-diagnostics -o /dev/null

// The targets are an argument: probabilities, no labels.
func.func public @main(%x: tensor<4x10xf32>, %targets: tensor<4x10xf32>) -> tensor<4xf32> {
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
  %t = stablehlo.multiply %targets, %p : tensor<4x10xf32>
  // expected-remark@+1 {{the targets of the cross-entropy are a matrix of probabilities, not labels}}
  %r = stablehlo.reduce(%t init: %zero) applies stablehlo.add across dimensions = [1] : (tensor<4x10xf32>, tensor<f32>) -> tensor<4xf32>
  return %r : tensor<4xf32>
}
