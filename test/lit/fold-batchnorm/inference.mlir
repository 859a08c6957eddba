// RUN: zenith-opt %s --pass-pipeline=prepare,fold-batchnorm --remarks=passed 2>&1 | filecheck %s

// The scale goes into the weights, mean and offset into one vector.
// CHECK: remark: [passed] fold-batchnorm: stablehlo.convolution (channels=6, operations=4)
// CHECK-LABEL: func.func public @main
// CHECK: %[[SCALE:.*]] = stablehlo.broadcast_in_dim {{.*}}, dims = [3] : (tensor<6xf32>) -> tensor<3x3x4x6xf32>
// CHECK: %[[WEIGHTS:.*]] = stablehlo.multiply %arg1, %[[SCALE]]
// CHECK: %[[PRODUCT:.*]] = stablehlo.convolution(%arg0, %[[WEIGHTS]])
// CHECK: %[[SHIFT:.*]] = stablehlo.broadcast_in_dim {{.*}}, dims = [3] : (tensor<6xf32>) -> tensor<2x5x5x6xf32>
// CHECK: %[[SUM:.*]] = stablehlo.add %[[PRODUCT]], %[[SHIFT]]
// CHECK: return %[[SUM]]
func.func public @main(%x: tensor<2x5x5x4xf32>, %w: tensor<3x3x4x6xf32>, %mean: tensor<6xf32>, %inv: tensor<6xf32>, %gamma: tensor<6xf32>, %beta: tensor<6xf32>) -> tensor<2x5x5x6xf32> {
  %0 = stablehlo.convolution(%x, %w) dim_numbers = [b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f], window = {pad = [[1, 1], [1, 1]]} {batch_group_count = 1 : i64, feature_group_count = 1 : i64} : (tensor<2x5x5x4xf32>, tensor<3x3x4x6xf32>) -> tensor<2x5x5x6xf32>
  %1 = stablehlo.broadcast_in_dim %mean, dims = [3] : (tensor<6xf32>) -> tensor<2x5x5x6xf32>
  %2 = stablehlo.subtract %0, %1 : tensor<2x5x5x6xf32>
  %3 = stablehlo.broadcast_in_dim %inv, dims = [3] : (tensor<6xf32>) -> tensor<2x5x5x6xf32>
  %4 = stablehlo.multiply %2, %3 : tensor<2x5x5x6xf32>
  %5 = stablehlo.broadcast_in_dim %gamma, dims = [3] : (tensor<6xf32>) -> tensor<2x5x5x6xf32>
  %6 = stablehlo.multiply %4, %5 : tensor<2x5x5x6xf32>
  %7 = stablehlo.broadcast_in_dim %beta, dims = [3] : (tensor<6xf32>) -> tensor<2x5x5x6xf32>
  %8 = stablehlo.add %6, %7 : tensor<2x5x5x6xf32>
  return %8 : tensor<2x5x5x6xf32>
}
