// What a failing pass was given can be run again; a pass that does not fail leaves nothing behind.
// RUN: rm -f %t.mlir && not zenith-opt %s --pass cse --pass stablehlo-legalize-to-vhlo --pass canonicalize --crash-reproducer=%t.mlir -o %t.never 2>&1 | filecheck %s
// RUN: not ls %t.never
// RUN: filecheck %s --check-prefix=FILE < %t.mlir
// RUN: not zenith-opt %t.mlir --run-reproducer 2>&1 | filecheck %s
// RUN: not ls %t.mlir.running
// RUN: zenith-opt %s --pass cse --crash-reproducer=%t.none -o /dev/null && not ls %t.none
// RUN: not zenith-opt %s --run-reproducer 2>&1 | filecheck %s --check-prefix=NONE

// CHECK: zenith-opt: error: pass stablehlo-legalize-to-vhlo failed: {{.*}}reproducer.mlir:

// FILE: // zenith-opt --run-reproducer: {"pipeline": "stablehlo-legalize-to-vhlo", "target": "cpu", "numerics": "sound"}
// FILE: chlo.erf

// NONE: reproducer.mlir:1:1: no reproducer:
func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
  %0 = chlo.erf %x : tensor<4xf32> -> tensor<4xf32>
  return %0 : tensor<4xf32>
}
