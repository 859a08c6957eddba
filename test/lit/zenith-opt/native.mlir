// Native passes, nested or not, and the wrapped form.
// RUN: zenith-opt %s --pass cse | filecheck %s
// RUN: zenith-opt %s --pass-pipeline='builtin.module(func.func(cse), canonicalize{max-iterations=2})' | filecheck %s
// RUN: zenith-opt - --pass cse < %s | filecheck %s
// RUN: zenith-opt %s | filecheck %s --check-prefix=SAME

// CHECK-LABEL: func.func @main
// CHECK-COUNT-1: stablehlo.sine
// CHECK-NOT: stablehlo.sine
// CHECK: stablehlo.add %0, %0

// SAME-COUNT-2: stablehlo.sine
func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
  %0 = stablehlo.sine %x : tensor<4xf32>
  %1 = stablehlo.sine %x : tensor<4xf32>
  %2 = stablehlo.add %0, %1 : tensor<4xf32>
  return %2 : tensor<4xf32>
}
