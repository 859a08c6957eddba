// RUN: zenith-opt %s --pass-pipeline=prepare,raise-rotary --split-input-file --remarks=passed 2>&1 | filecheck %s

// CHECK: remark: [passed] raise-rotary: zenith.rotary (layout=b t h d, table=t r, rotated=8, pairing=half)
// CHECK: remark: [passed] raise-rotary: zenith.rotary (layout=b t h d, table=t r, rotated=4, pairing=interleaved)

// Halves of the features are rotated.
// CHECK-LABEL: func.func public @halves
// CHECK: stablehlo.composite "zenith.rotary" %arg0, %arg1, %arg2 {{.*}}pairing = "half", rotated = 8 : i64, table = "t r", x = "b t h d"
// CHECK-NOT: stablehlo.multiply
// CHECK: return
func.func public @halves(%x: tensor<2x6x3x8xf32>, %c: tensor<6x4xf32>, %s: tensor<6x4xf32>) -> tensor<2x6x3x8xf32> {
  %a = stablehlo.slice %x [0:2, 0:6, 0:3, 0:4] : (tensor<2x6x3x8xf32>) -> tensor<2x6x3x4xf32>
  %b = stablehlo.slice %x [0:2, 0:6, 0:3, 4:8] : (tensor<2x6x3x8xf32>) -> tensor<2x6x3x4xf32>
  %cos = stablehlo.broadcast_in_dim %c, dims = [1, 3] : (tensor<6x4xf32>) -> tensor<2x6x3x4xf32>
  %sin = stablehlo.broadcast_in_dim %s, dims = [1, 3] : (tensor<6x4xf32>) -> tensor<2x6x3x4xf32>
  %0 = stablehlo.multiply %a, %cos : tensor<2x6x3x4xf32>
  %1 = stablehlo.multiply %b, %sin : tensor<2x6x3x4xf32>
  %2 = stablehlo.subtract %0, %1 : tensor<2x6x3x4xf32>
  %3 = stablehlo.multiply %b, %cos : tensor<2x6x3x4xf32>
  %4 = stablehlo.multiply %a, %sin : tensor<2x6x3x4xf32>
  %5 = stablehlo.add %3, %4 : tensor<2x6x3x4xf32>
  %6 = stablehlo.concatenate %2, %5, dim = 3 : (tensor<2x6x3x4xf32>, tensor<2x6x3x4xf32>) -> tensor<2x6x3x8xf32>
  return %6 : tensor<2x6x3x8xf32>
}

// -----

// Neighbours as complex numbers, and the features behind them as they are.
// CHECK-LABEL: func.func public @complex
// CHECK: stablehlo.composite "zenith.rotary" %arg0, %arg1, %arg2 {{.*}}rotated = 4 : i64
func.func public @complex(%x: tensor<2x6x3x8xf32>, %c: tensor<6x2xf32>, %s: tensor<6x2xf32>) -> tensor<2x6x3x8xf32> {
  %a = stablehlo.slice %x [0:2, 0:6, 0:3, 0:4:2] : (tensor<2x6x3x8xf32>) -> tensor<2x6x3x2xf32>
  %b = stablehlo.slice %x [0:2, 0:6, 0:3, 1:4:2] : (tensor<2x6x3x8xf32>) -> tensor<2x6x3x2xf32>
  %rest = stablehlo.slice %x [0:2, 0:6, 0:3, 4:8] : (tensor<2x6x3x8xf32>) -> tensor<2x6x3x4xf32>
  %0 = stablehlo.complex %a, %b : tensor<2x6x3x2xcomplex<f32>>
  %1 = stablehlo.complex %c, %s : tensor<6x2xcomplex<f32>>
  %2 = stablehlo.broadcast_in_dim %1, dims = [1, 3] : (tensor<6x2xcomplex<f32>>) -> tensor<2x6x3x2xcomplex<f32>>
  %3 = stablehlo.multiply %0, %2 : tensor<2x6x3x2xcomplex<f32>>
  %4 = stablehlo.real %3 : (tensor<2x6x3x2xcomplex<f32>>) -> tensor<2x6x3x2xf32>
  %5 = stablehlo.imag %3 : (tensor<2x6x3x2xcomplex<f32>>) -> tensor<2x6x3x2xf32>
  %6 = stablehlo.reshape %4 : (tensor<2x6x3x2xf32>) -> tensor<2x6x3x2x1xf32>
  %7 = stablehlo.reshape %5 : (tensor<2x6x3x2xf32>) -> tensor<2x6x3x2x1xf32>
  %8 = stablehlo.concatenate %6, %7, dim = 4 : (tensor<2x6x3x2x1xf32>, tensor<2x6x3x2x1xf32>) -> tensor<2x6x3x2x2xf32>
  %9 = stablehlo.reshape %8 : (tensor<2x6x3x2x2xf32>) -> tensor<2x6x3x4xf32>
  %10 = stablehlo.concatenate %9, %rest, dim = 3 : (tensor<2x6x3x4xf32>, tensor<2x6x3x4xf32>) -> tensor<2x6x3x8xf32>
  return %10 : tensor<2x6x3x8xf32>
}
