// RUN: zenith-opt %s --pass 'lower-kernels{min-seq=0}' --split-input-file --verify-diagnostics -o /dev/null
// RUN: zenith-opt %s --pass lower-kernels --target=none --split-input-file | filecheck %s --check-prefix=NONE

// With no target, composites stay.
// NONE: stablehlo.composite "zenith.unknown"
// NONE: stablehlo.composite "zenith.unknown"

func.func public @main(%x: tensor<4xf32>) -> tensor<4xf32> {
  // expected-remark@+1 {{this version knows no such op}}
  %0 = stablehlo.composite "zenith.unknown" %x {composite_attributes = {}, decomposition = @f} : (tensor<4xf32>) -> tensor<4xf32>
  return %0 : tensor<4xf32>
}

func.func private @f(%x: tensor<4xf32>) -> tensor<4xf32> {
  return %x : tensor<4xf32>
}

// -----

// On several devices a kernel call would gather its operands.
module attributes {mhlo.num_partitions = 4 : i32} {
  func.func public @main(%x: tensor<4xf32>) -> tensor<4xf32> {
    // expected-remark@+1 {{this version knows no such op}}
    %0 = stablehlo.composite "zenith.unknown" %x {composite_attributes = {}, decomposition = @f} : (tensor<4xf32>) -> tensor<4xf32>
    return %0 : tensor<4xf32>
  }

  func.func private @f(%x: tensor<4xf32>) -> tensor<4xf32> {
    return %x : tensor<4xf32>
  }
}
