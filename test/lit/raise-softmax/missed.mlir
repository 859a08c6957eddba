// RUN: zenith-opt %s --pass-pipeline=prepare,raise-softmax --target=none --verify-diagnostics -o /dev/null

func.func public @first(%x: tensor<4x10xf32>) -> tensor<4x10xf32> {
  %zero = stablehlo.constant dense<0.0> : tensor<f32>
  %inf = stablehlo.constant dense<0xFF800000> : tensor<f32>
  %m = stablehlo.reduce(%x init: %inf) applies stablehlo.maximum across dimensions = [0] : (tensor<4x10xf32>, tensor<f32>) -> tensor<10xf32>
  %mb = stablehlo.broadcast_in_dim %m, dims = [1] : (tensor<10xf32>) -> tensor<4x10xf32>
  %d = stablehlo.subtract %x, %mb : tensor<4x10xf32>
  // expected-remark@+1 {{the softmax runs over dimension 0 of 2, and kernels over the last}}
  %e = stablehlo.exponential %d : tensor<4x10xf32>
  %s = stablehlo.reduce(%e init: %zero) applies stablehlo.add across dimensions = [0] : (tensor<4x10xf32>, tensor<f32>) -> tensor<10xf32>
  %sb = stablehlo.broadcast_in_dim %s, dims = [1] : (tensor<10xf32>) -> tensor<4x10xf32>
  %p = stablehlo.divide %e, %sb : tensor<4x10xf32>
  return %p : tensor<4x10xf32>
}
