// RUN: zenith-opt %s --pass-pipeline='insert-remat{budget=80% measure=false}' --remarks=passed 2>&1 | filecheck %s
// RUN: not zenith-opt %s --pass-pipeline='insert-remat{budget=1kB measure=false}' 2>&1 | filecheck %s --check-prefix=LEAST
// RUN: not zenith-opt %s --pass-pipeline='insert-remat{budget=lots}' 2>&1 | filecheck %s --check-prefix=SPELLED

// LEAST: infeasible: the budget 1000 leaves 1000 bytes (1000 B) for temporaries, minimum is
// SPELLED: insert-remat: option budget=<Budget>, default 50% cannot be 'lots': expected a number of bytes

// Some of the tanh are computed again behind a barrier with the cotangent.
// CHECK: remark: [passed] insert-remat: (budget=80%
// CHECK: module {{.*}}zenith.cpu_compiler_options = {xla_disable_hlo_passes = "cse_barrier_expander,small-while-loop-hoisting"}
// CHECK: %[[FIRST:.*]] = stablehlo.tanh
// CHECK: stablehlo.optimization_barrier
// CHECK: stablehlo.tanh
module @step {
  func.func public @main(%x: tensor<256x64xf32>, %w: tensor<64x64xf32>) -> (tensor<f32>, tensor<64x64xf32>) {
    %zero = stablehlo.constant dense<0.0> : tensor<f32>
    %one = stablehlo.constant dense<1.0> : tensor<256x64xf32>
    %p0 = stablehlo.dot_general %x, %w, contracting_dims = [1] x [0] : (tensor<256x64xf32>, tensor<64x64xf32>) -> tensor<256x64xf32>
    %y0 = stablehlo.tanh %p0 : tensor<256x64xf32>
    %p1 = stablehlo.dot_general %y0, %w, contracting_dims = [1] x [0] : (tensor<256x64xf32>, tensor<64x64xf32>) -> tensor<256x64xf32>
    %y1 = stablehlo.tanh %p1 : tensor<256x64xf32>
    %p2 = stablehlo.dot_general %y1, %w, contracting_dims = [1] x [0] : (tensor<256x64xf32>, tensor<64x64xf32>) -> tensor<256x64xf32>
    %y2 = stablehlo.tanh %p2 : tensor<256x64xf32>
    %p3 = stablehlo.dot_general %y2, %w, contracting_dims = [1] x [0] : (tensor<256x64xf32>, tensor<64x64xf32>) -> tensor<256x64xf32>
    %y3 = stablehlo.tanh %p3 : tensor<256x64xf32>
    %p4 = stablehlo.dot_general %y3, %w, contracting_dims = [1] x [0] : (tensor<256x64xf32>, tensor<64x64xf32>) -> tensor<256x64xf32>
    %y4 = stablehlo.tanh %p4 : tensor<256x64xf32>
    %loss = stablehlo.reduce(%y4 init: %zero) applies stablehlo.add across dimensions = [0, 1] : (tensor<256x64xf32>, tensor<f32>) -> tensor<f32>
    %s4 = stablehlo.multiply %y4, %y4 : tensor<256x64xf32>
    %g4 = stablehlo.subtract %one, %s4 : tensor<256x64xf32>
    %c3 = stablehlo.dot_general %g4, %w, contracting_dims = [1] x [1] : (tensor<256x64xf32>, tensor<64x64xf32>) -> tensor<256x64xf32>
    %s3 = stablehlo.multiply %y3, %y3 : tensor<256x64xf32>
    %d3 = stablehlo.subtract %one, %s3 : tensor<256x64xf32>
    %g3 = stablehlo.multiply %c3, %d3 : tensor<256x64xf32>
    %c2 = stablehlo.dot_general %g3, %w, contracting_dims = [1] x [1] : (tensor<256x64xf32>, tensor<64x64xf32>) -> tensor<256x64xf32>
    %s2 = stablehlo.multiply %y2, %y2 : tensor<256x64xf32>
    %d2 = stablehlo.subtract %one, %s2 : tensor<256x64xf32>
    %g2 = stablehlo.multiply %c2, %d2 : tensor<256x64xf32>
    %c1 = stablehlo.dot_general %g2, %w, contracting_dims = [1] x [1] : (tensor<256x64xf32>, tensor<64x64xf32>) -> tensor<256x64xf32>
    %s1 = stablehlo.multiply %y1, %y1 : tensor<256x64xf32>
    %d1 = stablehlo.subtract %one, %s1 : tensor<256x64xf32>
    %g1 = stablehlo.multiply %c1, %d1 : tensor<256x64xf32>
    %c0 = stablehlo.dot_general %g1, %w, contracting_dims = [1] x [1] : (tensor<256x64xf32>, tensor<64x64xf32>) -> tensor<256x64xf32>
    %s0 = stablehlo.multiply %y0, %y0 : tensor<256x64xf32>
    %d0 = stablehlo.subtract %one, %s0 : tensor<256x64xf32>
    %g0 = stablehlo.multiply %c0, %d0 : tensor<256x64xf32>
    %dw = stablehlo.dot_general %x, %g0, contracting_dims = [0] x [0] : (tensor<256x64xf32>, tensor<256x64xf32>) -> tensor<64x64xf32>
    return %loss, %dw : tensor<f32>, tensor<64x64xf32>
  }
}
