// RUN: zenith-opt %s --pass simplify | filecheck %s

// CHECK-LABEL: func.func @redundant_maximum
// CHECK-NEXT: return %arg0
func.func @redundant_maximum(%x: tensor<4xf32>) -> tensor<4xf32> {
  %inf = stablehlo.constant dense<0xFF800000> : tensor<f32>
  %0 = stablehlo.broadcast_in_dim %inf, dims = [] : (tensor<f32>) -> tensor<4xf32>
  %1 = stablehlo.maximum %0, %x : tensor<4xf32>
  return %1 : tensor<4xf32>
}

// A finite bound is no redundancy.
// CHECK-LABEL: func.func @finite_maximum
// CHECK: stablehlo.maximum %arg0
func.func @finite_maximum(%x: tensor<4xf32>) -> tensor<4xf32> {
  %low = stablehlo.constant dense<-3.40282347E+38> : tensor<4xf32>
  %0 = stablehlo.maximum %low, %x : tensor<4xf32>
  return %0 : tensor<4xf32>
}

// x + 0.0 turns -0.0 into 0.0 and stays; x + -0.0 goes.
// CHECK-LABEL: func.func @zeros
// CHECK: %[[A:.*]] = stablehlo.add %arg0
// CHECK: return %[[A]], %arg0
func.func @zeros(%x: tensor<4xf32>) -> (tensor<4xf32>, tensor<4xf32>) {
  %zero = stablehlo.constant dense<0.0> : tensor<4xf32>
  %negative = stablehlo.constant dense<-0.0> : tensor<4xf32>
  %0 = stablehlo.add %x, %zero : tensor<4xf32>
  %1 = stablehlo.add %x, %negative : tensor<4xf32>
  return %0, %1 : tensor<4xf32>, tensor<4xf32>
}

// sqrt(64) is computed here; the scale is a splat of the full shape.
// CHECK-LABEL: func.func @scale
// CHECK: %[[C:.*]] = stablehlo.constant dense<8.000000e+00> : tensor<2x3xf32>
// CHECK: stablehlo.divide %arg0, %[[C]]
func.func @scale(%x: tensor<2x3xf32>) -> tensor<2x3xf32> {
  %c = stablehlo.constant dense<64.0> : tensor<f32>
  %0 = stablehlo.sqrt %c : tensor<f32>
  %1 = stablehlo.broadcast_in_dim %0, dims = [] : (tensor<f32>) -> tensor<2x3xf32>
  %2 = stablehlo.divide %x, %1 : tensor<2x3xf32>
  return %2 : tensor<2x3xf32>
}

// A dot_general that contracts nothing is a multiplication; by a splat of ones it is nothing at all.
// CHECK-LABEL: func.func @head_mask
// CHECK-NEXT: return %arg0
func.func @head_mask(%p: tensor<4x5xf32>) -> tensor<4x5xf32> {
  %ones = stablehlo.constant dense<1.0> : tensor<4xf32>
  %0 = stablehlo.dot_general %ones, %p, batching_dims = [0] x [0], contracting_dims = [] x [] : (tensor<4xf32>, tensor<4x5xf32>) -> tensor<4x5xf32>
  return %0 : tensor<4x5xf32>
}

// CHECK-LABEL: func.func @square
// CHECK-NEXT: stablehlo.multiply %arg0, %arg0
func.func @square(%x: tensor<4xf32>) -> tensor<4xf32> {
  %0 = chlo.square %x : tensor<4xf32> -> tensor<4xf32>
  return %0 : tensor<4xf32>
}
