// RUN: zenith-opt %s --emit-bytecode -o %t.mlirbc && zenith-opt %t.mlirbc | filecheck %s
// RUN: zenith-opt %s --emit-bytecode | zenith-opt - | filecheck %s
// RUN: zenith-opt %s -o %t2.mlirbc && zenith-opt %t2.mlirbc | filecheck %s
// RUN: zenith-translate %s --to=portable --version=minimum -o %t.stablehlo && zenith-opt %t.stablehlo | filecheck %s
// RUN: zenith-translate %s --to=bytecode | zenith-translate - --to=portable | zenith-translate | filecheck %s
// RUN: zenith-opt %s --print-debuginfo | filecheck %s --check-prefix=LOC

// CHECK-LABEL: func.func @main
// CHECK-NEXT: stablehlo.sine %arg0 : tensor<4xf32>
// CHECK-NOT: loc(

// LOC: loc("{{.*}}formats.mlir":14:8)
func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
  %0 = stablehlo.sine %x : tensor<4xf32>
  return %0 : tensor<4xf32>
}
