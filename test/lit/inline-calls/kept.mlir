// RUN: zenith-opt %s --pass inline-calls | filecheck %s

// Somebody asked for these to be functions: public ones, marked ones, calls with attributes, recursion.
// CHECK-LABEL: func.func public @main
// CHECK-DAG: call @public
// CHECK-DAG: call @marked
// CHECK-DAG: call @frontend
// CHECK-DAG: call @recursive
func.func public @main(%x: tensor<4xf32>) -> tensor<4xf32> {
  %0 = func.call @public(%x) : (tensor<4xf32>) -> tensor<4xf32>
  %1 = func.call @marked(%0) : (tensor<4xf32>) -> tensor<4xf32>
  %2 = func.call @frontend(%1) {mhlo.frontend_attributes = {inlineable = "false"}} : (tensor<4xf32>) -> tensor<4xf32>
  %3 = func.call @recursive(%2) : (tensor<4xf32>) -> tensor<4xf32>
  return %3 : tensor<4xf32>
}

func.func public @public(%x: tensor<4xf32>) -> tensor<4xf32> {
  return %x : tensor<4xf32>
}

func.func private @marked(%x: tensor<4xf32>) -> tensor<4xf32> attributes {no_inline} {
  return %x : tensor<4xf32>
}

func.func private @frontend(%x: tensor<4xf32>) -> tensor<4xf32> {
  return %x : tensor<4xf32>
}

func.func private @recursive(%x: tensor<4xf32>) -> tensor<4xf32> {
  %0 = func.call @recursive(%x) : (tensor<4xf32>) -> tensor<4xf32>
  return %0 : tensor<4xf32>
}
