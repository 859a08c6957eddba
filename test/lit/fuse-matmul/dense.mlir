// RUN: zenith-opt %s --pass 'fuse-matmul{cost-model=false}' --target=cpu --remarks=passed 2>&1 | filecheck %s

// A dense layer in bfloat16 is one call; a product of float32 is left to XLA.

// CHECK: remark: [passed] raise-matmul: zenith.matmul
// CHECK: remark: [passed] lower-kernels: zenith.matmul
// CHECK-LABEL: func.func public @main
// CHECK: stablehlo.custom_call @zenith_matmul(%arg0, %arg1, %arg2)
// CHECK-NOT: stablehlo.add
// CHECK: stablehlo.dot_general {{.*}} tensor<8x4xf32>
func.func public @main(%x: tensor<8x16xbf16>, %w: tensor<16x4xbf16>, %b: tensor<4xbf16>, %y: tensor<8x16xf32>, %u: tensor<16x4xf32>) -> (tensor<8x4xbf16>, tensor<8x4xf32>) {
  %0 = stablehlo.dot_general %x, %w, contracting_dims = [1] x [0] : (tensor<8x16xbf16>, tensor<16x4xbf16>) -> tensor<8x4xbf16>
  %1 = stablehlo.broadcast_in_dim %b, dims = [1] : (tensor<4xbf16>) -> tensor<8x4xbf16>
  %2 = stablehlo.add %0, %1 : tensor<8x4xbf16>
  %3 = stablehlo.dot_general %y, %u, contracting_dims = [1] x [0] : (tensor<8x16xf32>, tensor<16x4xf32>) -> tensor<8x4xf32>
  return %2, %3 : tensor<8x4xbf16>, tensor<8x4xf32>
}
