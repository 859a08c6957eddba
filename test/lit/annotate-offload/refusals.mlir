// RUN: zenith-opt %s --split-input-file --pass "annotate-offload{values=\"named|model.py:7\" min-bytes=1KiB host-bandwidth=10TB/s}" --target=cuda:sm_90 --remarks=all 2>&1 | filecheck %s
// RUN: zenith-opt %s --split-input-file --pass annotate-offload --target=cpu --remarks=all 2>&1 | filecheck %s --check-prefix=CPU
// RUN: zenith-opt %s --split-input-file --pass annotate-offload --target=none --remarks=all 2>&1 | filecheck %s --check-prefix=NONE
// RUN: not zenith-opt %s --pass "annotate-offload{values=[}" 2>&1 | filecheck %s --check-prefix=PATTERN
// RUN: not zenith-opt %s --pass "annotate-offload{min-bytes=many}" 2>&1 | filecheck %s --check-prefix=BYTES

// CPU: [analysis] annotate-offload: XLA drops placements on a CPU, whose memory is the host's: the program stays as it is
// CPU-NOT: annotate_device_placement
// NONE: [analysis] annotate-offload: the target none has no memory of its own: the program stays as it is
// PATTERN: annotate-offload: values='[' is no regular expression: unterminated character set
// BYTES: annotate-offload: expected a number of bytes such as 2GiB, 512MB or 4096, got 'many'

// CHECK: model.py:6:1: remark: [missed] annotate-offload: it takes 512 B, and min-bytes is 1KiB
// CHECK: model.py:7:1: remark: [missed] annotate-offload: the backward uses it before anything else takes time: nothing would be freed
// CHECK: [missed] annotate-offload: params['named'] is an argument, whose memory the caller chooses; jax.device_put
module {
  func.func public @main(%x: tensor<16x8xf32>, %w: tensor<8x8xf32> loc("params['named']"), %v: tensor<8x64xf32>) -> (tensor<f32>, tensor<8x8xf32>, tensor<8x64xf32>) {
    %zero = stablehlo.constant dense<0.0> : tensor<f32>
    %h = stablehlo.dot_general %x, %w, contracting_dims = [1] x [0] : (tensor<16x8xf32>, tensor<8x8xf32>) -> tensor<16x8xf32> loc("jvp(named)/dot_general"("model.py":6:1))
    %y = stablehlo.dot_general %h, %v, contracting_dims = [1] x [0] : (tensor<16x8xf32>, tensor<8x64xf32>) -> tensor<16x64xf32> loc("jvp()/dot_general"("model.py":7:1))
    %squares = stablehlo.multiply %y, %y : tensor<16x64xf32>
    %loss = stablehlo.reduce(%squares init: %zero) applies stablehlo.add across dimensions = [0, 1] : (tensor<16x64xf32>, tensor<f32>) -> tensor<f32>
    %dy = stablehlo.add %y, %y : tensor<16x64xf32>
    %dv = stablehlo.dot_general %h, %dy, contracting_dims = [0] x [0] : (tensor<16x8xf32>, tensor<16x64xf32>) -> tensor<8x64xf32>
    %dh = stablehlo.dot_general %dy, %v, contracting_dims = [1] x [1] : (tensor<16x64xf32>, tensor<8x64xf32>) -> tensor<16x8xf32>
    %dx = stablehlo.dot_general %dh, %w, contracting_dims = [1] x [1] : (tensor<16x8xf32>, tensor<8x8xf32>) -> tensor<16x8xf32>
    %dw = stablehlo.dot_general %x, %dx, contracting_dims = [0] x [0] : (tensor<16x8xf32>, tensor<16x8xf32>) -> tensor<8x8xf32>
    return %loss, %dw, %dv : tensor<f32>, tensor<8x8xf32>, tensor<8x64xf32>
  }
}

// -----

// What cheap operations make of arguments waits for nobody, and the program says so of no name.
// CHECK: [missed] annotate-offload: no residual has a name in which 'named|model.py:7' is found; jax.named_scope gives names
module {
  func.func public @main(%x: tensor<16x64xf32>, %w: tensor<16x64xf32>) -> (tensor<f32>, tensor<16x64xf32>) {
    %zero = stablehlo.constant dense<0.0> : tensor<f32>
    %y = stablehlo.multiply %x, %w : tensor<16x64xf32> loc("jvp(named)/mul")
    %squares = stablehlo.multiply %y, %y : tensor<16x64xf32>
    %loss = stablehlo.reduce(%squares init: %zero) applies stablehlo.add across dimensions = [0, 1] : (tensor<16x64xf32>, tensor<f32>) -> tensor<f32>
    %dy = stablehlo.add %y, %y : tensor<16x64xf32>
    %dw = stablehlo.multiply %dy, %x : tensor<16x64xf32>
    return %loss, %dw : tensor<f32>, tensor<16x64xf32>
  }
}

// -----

// CHECK: [missed] annotate-offload: the program runs on 4 devices, and placements are written for one
// CHECK-NOT: [passed]
// CHECK-NOT: annotate_device_placement
module attributes {mhlo.num_partitions = 4 : i32} {
  func.func public @main(%x: tensor<4xf32>) -> tensor<4xf32> {
    return %x : tensor<4xf32>
  }
}
