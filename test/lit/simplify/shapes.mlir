// RUN: zenith-opt %s --pass simplify | filecheck %s

// CHECK-LABEL: func.func @broadcast_chain
// CHECK-NEXT: stablehlo.broadcast_in_dim %arg0, dims = [2] : (tensor<8xf32>) -> tensor<2x4x8xf32>
// CHECK-NEXT: return
func.func @broadcast_chain(%x: tensor<8xf32>) -> tensor<2x4x8xf32> {
  %0 = stablehlo.reshape %x : (tensor<8xf32>) -> tensor<1x1x8xf32>
  %1 = stablehlo.broadcast_in_dim %0, dims = [0, 1, 2] : (tensor<1x1x8xf32>) -> tensor<2x4x8xf32>
  return %1 : tensor<2x4x8xf32>
}

// CHECK-LABEL: func.func @transposes
// CHECK-NEXT: return %arg0
func.func @transposes(%x: tensor<2x3x4xf32>) -> tensor<2x3x4xf32> {
  %0 = stablehlo.transpose %x, dims = [2, 0, 1] : (tensor<2x3x4xf32>) -> tensor<4x2x3xf32>
  %1 = stablehlo.transpose %0, dims = [1, 2, 0] : (tensor<4x2x3xf32>) -> tensor<2x3x4xf32>
  return %1 : tensor<2x3x4xf32>
}

// CHECK-LABEL: func.func @reshapes
// CHECK-NEXT: stablehlo.reshape %arg0 : (tensor<6x4xf32>) -> tensor<3x8xf32>
// CHECK-NEXT: return
func.func @reshapes(%x: tensor<6x4xf32>) -> tensor<3x8xf32> {
  %0 = stablehlo.reshape %x : (tensor<6x4xf32>) -> tensor<24xf32>
  %1 = stablehlo.reshape %0 : (tensor<24xf32>) -> tensor<3x8xf32>
  return %1 : tensor<3x8xf32>
}

// A narrowing in the middle rounds: bf16 -> f32 -> bf16 goes, f32 -> bf16 -> f32 stays.
// CHECK-LABEL: func.func @converts
// CHECK: %[[N:.*]] = stablehlo.convert %arg1 : (tensor<4xf32>) -> tensor<4xbf16>
// CHECK: %[[W:.*]] = stablehlo.convert %[[N]] : (tensor<4xbf16>) -> tensor<4xf32>
// CHECK: return %arg0, %[[W]]
func.func @converts(%x: tensor<4xbf16>, %y: tensor<4xf32>) -> (tensor<4xbf16>, tensor<4xf32>) {
  %0 = stablehlo.convert %x : (tensor<4xbf16>) -> tensor<4xf32>
  %1 = stablehlo.convert %0 : (tensor<4xf32>) -> tensor<4xbf16>
  %2 = stablehlo.convert %y : (tensor<4xf32>) -> tensor<4xbf16>
  %3 = stablehlo.convert %2 : (tensor<4xbf16>) -> tensor<4xf32>
  return %1, %3 : tensor<4xbf16>, tensor<4xf32>
}

// CHECK-LABEL: func.func @iota
// CHECK-NEXT: stablehlo.iota dim = 0 : tensor<4x5xi32>
// CHECK-NEXT: return
func.func @iota() -> tensor<4x5xi32> {
  %0 = stablehlo.iota dim = 0 : tensor<4xi32>
  %1 = stablehlo.reshape %0 : (tensor<4xi32>) -> tensor<4x1xi32>
  %2 = stablehlo.broadcast_in_dim %1, dims = [0, 1] : (tensor<4x1xi32>) -> tensor<4x5xi32>
  return %2 : tensor<4x5xi32>
}

// Dynamic shapes are left alone.
// CHECK-LABEL: func.func @dynamic
// CHECK-NEXT: stablehlo.reshape
// CHECK-NEXT: return
func.func @dynamic(%x: tensor<?xf32>) -> tensor<4x2xf32> {
  %0 = stablehlo.reshape %x : (tensor<?xf32>) -> tensor<4x2xf32>
  return %0 : tensor<4x2xf32>
}
