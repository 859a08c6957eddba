// RUN: zenith-opt %s --pass cse --print-ir-before-all -o /dev/null 2>&1 | filecheck %s --check-prefix=BEFORE
// RUN: zenith-opt --pass canonicalize --pass cse --print-ir-after=cse %s -o /dev/null 2>&1 | filecheck %s --check-prefix=AFTER
// RUN: zenith-opt --pass canonicalize --pass cse --print-ir-after %s -o /dev/null 2>&1 | filecheck %s --check-prefix=BOTH
// RUN: zenith-opt --pass canonicalize --pass cse --print-ir-after-change %s -o /dev/null 2>&1 | filecheck %s --check-prefix=AFTER
// RUN: zenith-opt --pass canonicalize --pass cse --print-ir-diff %s -o /dev/null 2>&1 | filecheck %s --check-prefix=DIFF
// RUN: not zenith-opt --pass cse --print-ir-after=csee %s -o /dev/null 2>&1 | filecheck %s --check-prefix=UNKNOWN

// BEFORE: IR Dump Before cse
// BEFORE-COUNT-2: stablehlo.sine

// AFTER-NOT: IR Dump After canonicalize
// AFTER: IR Dump After cse
// AFTER-COUNT-1: stablehlo.sine
// AFTER-NOT: stablehlo.sine

// BOTH: IR Dump After canonicalize
// BOTH: IR Dump After cse

// DIFF-NOT: canonicalize
// DIFF: --- before cse
// DIFF-NEXT: +++ after cse
// DIFF: -    %1 = stablehlo.sine %arg0

// UNKNOWN: zenith-opt: error: no pass csee runs in 'cse' to print the IR of (did you mean cse?)
func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
  %0 = stablehlo.sine %x : tensor<4xf32>
  %1 = stablehlo.sine %x : tensor<4xf32>
  %2 = stablehlo.add %0, %1 : tensor<4xf32>
  return %2 : tensor<4xf32>
}
