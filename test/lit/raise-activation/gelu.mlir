// RUN: zenith-opt %s --pass-pipeline=prepare,raise-activation --target=none --remarks=passed 2>&1 | filecheck %s

// A dense layer's bias and the GELU behind it are one composite. Its gradient, multiplied out as differentiation leaves
// it, is another, and nothing of the forward's inside is kept for it.

// CHECK: remark: [passed] raise-activation: zenith.gelu_vjp
// CHECK: remark: [passed] raise-activation: zenith.gelu (activation=gelu, gated=false, bias=true, escapes=false)
// CHECK-LABEL: func.func public @main
// CHECK-NEXT: %[[X:.*]] = stablehlo.dot_general
// CHECK-NEXT: %[[Y:.*]] = stablehlo.composite "zenith.gelu" %[[X]], %arg2 {{.*}}approximate = "none"{{.*}}bias = true
// CHECK-NEXT: %[[G:.*]] = stablehlo.composite "zenith.gelu_vjp" %[[X]], %arg2, %arg3
// CHECK-NEXT: return %[[Y]], %[[G]]
// CHECK: func.func private @zenith_gelu_vjp(
// CHECK: chlo.erf
func.func public @main(%x: tensor<8x16xf32>, %w: tensor<16x4xf32>, %b: tensor<4xf32>, %g: tensor<8x4xf32>) -> (tensor<8x4xf32>, tensor<8x4xf32>) {
  %half = stablehlo.constant dense<0.5> : tensor<8x4xf32>
  %one = stablehlo.constant dense<1.0> : tensor<8x4xf32>
  %root = stablehlo.constant dense<0.707106769> : tensor<8x4xf32>
  %density = stablehlo.constant dense<0.797884583> : tensor<8x4xf32>
  %0 = stablehlo.dot_general %x, %w, contracting_dims = [1] x [0] : (tensor<8x16xf32>, tensor<16x4xf32>) -> tensor<8x4xf32>
  %1 = stablehlo.broadcast_in_dim %b, dims = [1] : (tensor<4xf32>) -> tensor<8x4xf32>
  %2 = stablehlo.add %0, %1 : tensor<8x4xf32>
  %3 = stablehlo.multiply %2, %root : tensor<8x4xf32>
  %4 = chlo.erf %3 : tensor<8x4xf32> -> tensor<8x4xf32>
  %5 = stablehlo.add %one, %4 : tensor<8x4xf32>
  %6 = stablehlo.multiply %2, %half : tensor<8x4xf32>
  %7 = stablehlo.multiply %5, %6 : tensor<8x4xf32>
  %8 = stablehlo.multiply %3, %3 : tensor<8x4xf32>
  %9 = stablehlo.negate %8 : tensor<8x4xf32>
  %10 = stablehlo.exponential %9 : tensor<8x4xf32>
  %11 = stablehlo.multiply %6, %g : tensor<8x4xf32>
  %12 = stablehlo.multiply %11, %10 : tensor<8x4xf32>
  %13 = stablehlo.multiply %12, %density : tensor<8x4xf32>
  %14 = stablehlo.multiply %g, %5 : tensor<8x4xf32>
  %15 = stablehlo.multiply %14, %half : tensor<8x4xf32>
  %16 = stablehlo.add %13, %15 : tensor<8x4xf32>
  return %7, %16 : tensor<8x4xf32>, tensor<8x4xf32>
}
