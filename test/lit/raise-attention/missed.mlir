// RUN: zenith-opt %s --pass-pipeline=prepare,raise-attention --split-input-file --verify-diagnostics -o /dev/null

// No row maximum is subtracted.
func.func public @no_maximum(%q: tensor<4x16x8xf32>, %k: tensor<4x16x8xf32>, %v: tensor<4x16x8xf32>) -> tensor<4x16x8xf32> {
  %zero = stablehlo.constant dense<0.0> : tensor<f32>
  %0 = stablehlo.dot_general %q, %k, batching_dims = [0] x [0], contracting_dims = [2] x [2] : (tensor<4x16x8xf32>, tensor<4x16x8xf32>) -> tensor<4x16x16xf32>
  // expected-remark@+1 {{the exponentials are normalised without subtracting the row maximum first}}
  %1 = stablehlo.exponential %0 : tensor<4x16x16xf32>
  %2 = stablehlo.reduce(%1 init: %zero) applies stablehlo.add across dimensions = [2] : (tensor<4x16x16xf32>, tensor<f32>) -> tensor<4x16xf32>
  %3 = stablehlo.broadcast_in_dim %2, dims = [0, 1] : (tensor<4x16xf32>) -> tensor<4x16x16xf32>
  %4 = stablehlo.divide %1, %3 : tensor<4x16x16xf32>
  %5 = stablehlo.dot_general %4, %v, batching_dims = [0] x [0], contracting_dims = [2] x [1] : (tensor<4x16x16xf32>, tensor<4x16x8xf32>) -> tensor<4x16x8xf32>
  return %5 : tensor<4x16x8xf32>
}

// -----

// The softmax runs over the queries.
func.func public @wrong_axis(%q: tensor<4x16x8xf32>, %k: tensor<4x16x8xf32>, %v: tensor<4x16x8xf32>) -> tensor<4x16x8xf32> {
  %zero = stablehlo.constant dense<0.0> : tensor<f32>
  %inf = stablehlo.constant dense<0xFF800000> : tensor<f32>
  %0 = stablehlo.dot_general %q, %k, batching_dims = [0] x [0], contracting_dims = [2] x [2] : (tensor<4x16x8xf32>, tensor<4x16x8xf32>) -> tensor<4x16x16xf32>
  %m = stablehlo.reduce(%0 init: %inf) applies stablehlo.maximum across dimensions = [1] : (tensor<4x16x16xf32>, tensor<f32>) -> tensor<4x16xf32>
  %b = stablehlo.broadcast_in_dim %m, dims = [0, 2] : (tensor<4x16xf32>) -> tensor<4x16x16xf32>
  %d = stablehlo.subtract %0, %b : tensor<4x16x16xf32>
  %1 = stablehlo.exponential %d : tensor<4x16x16xf32>
  %2 = stablehlo.reduce(%1 init: %zero) applies stablehlo.add across dimensions = [1] : (tensor<4x16x16xf32>, tensor<f32>) -> tensor<4x16xf32>
  %3 = stablehlo.broadcast_in_dim %2, dims = [0, 2] : (tensor<4x16xf32>) -> tensor<4x16x16xf32>
  %4 = stablehlo.divide %1, %3 : tensor<4x16x16xf32>
  // expected-remark@+1 {{the product after the softmax does not sum over the softmax's own axis}}
  %5 = stablehlo.dot_general %4, %v, batching_dims = [0] x [0], contracting_dims = [2] x [1] : (tensor<4x16x16xf32>, tensor<4x16x8xf32>) -> tensor<4x16x8xf32>
  return %5 : tensor<4x16x8xf32>
}
