// RUN: zenith-opt %s --pass-pipeline=prepare,raise-activation --target=none --remarks=passed 2>&1 | filecheck %s

// The halves of one tensor, the gate last: they are read where they lie.

// CHECK: remark: [passed] raise-activation: zenith.swiglu (activation=silu, slope=1.0, halves=gate_last
// CHECK-LABEL: func.func public @main
// CHECK-NEXT: %[[Y:.*]] = stablehlo.composite "zenith.swiglu" %arg0 {{.*}}halves = "gate_last"
// CHECK-NEXT: return %[[Y]]
func.func public @main(%x: tensor<8x16xf32>) -> tensor<8x8xf32> {
  %one = stablehlo.constant dense<1.0> : tensor<8x8xf32>
  %up = stablehlo.slice %x [0:8, 0:8] : (tensor<8x16xf32>) -> tensor<8x8xf32>
  %gate = stablehlo.slice %x [0:8, 8:16] : (tensor<8x16xf32>) -> tensor<8x8xf32>
  %0 = stablehlo.negate %gate : tensor<8x8xf32>
  %1 = stablehlo.exponential %0 : tensor<8x8xf32>
  %2 = stablehlo.add %one, %1 : tensor<8x8xf32>
  %3 = stablehlo.divide %gate, %2 : tensor<8x8xf32>
  %4 = stablehlo.multiply %3, %up : tensor<8x8xf32>
  return %4 : tensor<8x8xf32>
}
