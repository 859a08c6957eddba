// RUN: zenith-opt %s --pass "annotate-offload{min-bytes=512}" --target=cuda:sm_90 --remarks=missed 2>&1 | filecheck %s --check-prefix=OFF
// RUN: zenith-opt %s --pass "annotate-offload{values=tanh min-bytes=512}" --target=cuda:sm_90 --remarks=missed 2>&1 | filecheck %s --check-prefix=NAMED
// RUN: zenith-opt %s --pass "annotate-offload{scan=true min-bytes=512}" --target=cuda:sm_90 --remarks=all 2>&1 | filecheck %s

// The loop of the forward stacks tanh(h) and x; that of the backward reads them in reverse order.
// OFF: [missed] annotate-offload: a scan stacks 1.5 KiB of residuals, and on GPUs XLA has got gradients wrong for that; scan=true sends them
// OFF-NOT: annotate_device_placement
// NAMED: model.py:5:1: remark: [missed] annotate-offload: a scan stacks 768 B of residuals, and on GPUs
// NAMED-NOT: [missed]
// NAMED-NOT: annotate_device_placement

// CHECK-COUNT-2: [passed] annotate-offload: {{.*}}bytes=768, choice=offload)
// CHECK-LABEL: func.func public @main
// CHECK: stablehlo.while
// CHECK: %[[T:.*]] = stablehlo.tanh
// CHECK: %[[HOST:.*]] = stablehlo.custom_call @annotate_device_placement(%[[T]]) {{.*}}"pinned_host"
// CHECK-NEXT: %[[ROW:.*]] = stablehlo.reshape %[[HOST]]
// CHECK-NEXT: stablehlo.dynamic_update_slice %{{.*}}, %[[ROW]]
// CHECK: "pinned_host"
// CHECK: stablehlo.dynamic_update_slice
// CHECK: %[[READ:.*]] = stablehlo.dynamic_slice
// CHECK-NEXT: %[[TIED:.*]]:2 = stablehlo.optimization_barrier %[[READ]], %iterArg_5
// CHECK-NEXT: %[[BACK:.*]] = stablehlo.custom_call @annotate_device_placement(%[[TIED]]#0) {{.*}}"device"
// CHECK-NEXT: stablehlo.reshape %[[BACK]]
// CHECK: %[[NEXT:.*]] = stablehlo.dynamic_slice
// CHECK-NEXT: %{{.*}}:2 = stablehlo.optimization_barrier %[[NEXT]], %[[TIED]]#1
module {
  func.func public @main(%w: tensor<8x8xf32>, %x0: tensor<8x8xf32>) -> (tensor<f32>, tensor<8x8xf32>) {
    %zero = stablehlo.constant dense<0.0> : tensor<f32>
    %first = stablehlo.constant dense<0> : tensor<i32>
    %three = stablehlo.constant dense<3> : tensor<i32>
    %one = stablehlo.constant dense<1> : tensor<i32>
    %ones = stablehlo.constant dense<1.0> : tensor<8x8xf32>
    %stack = stablehlo.broadcast_in_dim %zero, dims = [] : (tensor<f32>) -> tensor<3x8x8xf32>
    %f:4 = stablehlo.while(%i = %first, %x = %x0, %ts = %stack, %xs = %stack) : tensor<i32>, tensor<8x8xf32>, tensor<3x8x8xf32>, tensor<3x8x8xf32>
    cond {
      %more = stablehlo.compare LT, %i, %three, SIGNED : (tensor<i32>, tensor<i32>) -> tensor<i1>
      stablehlo.return %more : tensor<i1>
    } do {
      %h = stablehlo.dot_general %x, %w, contracting_dims = [1] x [0] : (tensor<8x8xf32>, tensor<8x8xf32>) -> tensor<8x8xf32>
      %t = stablehlo.tanh %h : tensor<8x8xf32> loc("jvp()/tanh"("model.py":5:1))
      %row = stablehlo.reshape %t : (tensor<8x8xf32>) -> tensor<1x8x8xf32>
      %ts1 = stablehlo.dynamic_update_slice %ts, %row, %i, %first, %first : (tensor<3x8x8xf32>, tensor<1x8x8xf32>, tensor<i32>, tensor<i32>, tensor<i32>) -> tensor<3x8x8xf32>
      %row2 = stablehlo.reshape %x : (tensor<8x8xf32>) -> tensor<1x8x8xf32>
      %xs1 = stablehlo.dynamic_update_slice %xs, %row2, %i, %first, %first : (tensor<3x8x8xf32>, tensor<1x8x8xf32>, tensor<i32>, tensor<i32>, tensor<i32>) -> tensor<3x8x8xf32>
      %i1 = stablehlo.add %i, %one : tensor<i32>
      stablehlo.return %i1, %t, %ts1, %xs1 : tensor<i32>, tensor<8x8xf32>, tensor<3x8x8xf32>, tensor<3x8x8xf32>
    }
    %squares = stablehlo.multiply %f#1, %f#1 : tensor<8x8xf32>
    %loss = stablehlo.reduce(%squares init: %zero) applies stablehlo.add across dimensions = [0, 1] : (tensor<8x8xf32>, tensor<f32>) -> tensor<f32>
    %d0 = stablehlo.add %f#1, %f#1 : tensor<8x8xf32>
    %sum = stablehlo.broadcast_in_dim %zero, dims = [] : (tensor<f32>) -> tensor<8x8xf32>
    %b:5 = stablehlo.while(%i = %first, %ts = %f#2, %xs = %f#3, %d = %d0, %dw = %sum) : tensor<i32>, tensor<3x8x8xf32>, tensor<3x8x8xf32>, tensor<8x8xf32>, tensor<8x8xf32>
    cond {
      %more = stablehlo.compare LT, %i, %three, SIGNED : (tensor<i32>, tensor<i32>) -> tensor<i1>
      stablehlo.return %more : tensor<i1>
    } do {
      %left = stablehlo.subtract %three, %i : tensor<i32>
      %j = stablehlo.subtract %left, %one : tensor<i32>
      %row = stablehlo.dynamic_slice %ts, %j, %first, %first, sizes = [1, 8, 8] : (tensor<3x8x8xf32>, tensor<i32>, tensor<i32>, tensor<i32>) -> tensor<1x8x8xf32>
      %t = stablehlo.reshape %row : (tensor<1x8x8xf32>) -> tensor<8x8xf32>
      %row2 = stablehlo.dynamic_slice %xs, %j, %first, %first, sizes = [1, 8, 8] : (tensor<3x8x8xf32>, tensor<i32>, tensor<i32>, tensor<i32>) -> tensor<1x8x8xf32>
      %x = stablehlo.reshape %row2 : (tensor<1x8x8xf32>) -> tensor<8x8xf32>
      %tt = stablehlo.multiply %t, %t : tensor<8x8xf32>
      %slope = stablehlo.subtract %ones, %tt : tensor<8x8xf32>
      %dh = stablehlo.multiply %d, %slope : tensor<8x8xf32>
      %dwi = stablehlo.dot_general %x, %dh, contracting_dims = [0] x [0] : (tensor<8x8xf32>, tensor<8x8xf32>) -> tensor<8x8xf32>
      %dw1 = stablehlo.add %dw, %dwi : tensor<8x8xf32>
      %dx = stablehlo.dot_general %dh, %w, contracting_dims = [1] x [1] : (tensor<8x8xf32>, tensor<8x8xf32>) -> tensor<8x8xf32>
      %i1 = stablehlo.add %i, %one : tensor<i32>
      stablehlo.return %i1, %ts, %xs, %dx, %dw1 : tensor<i32>, tensor<3x8x8xf32>, tensor<3x8x8xf32>, tensor<8x8xf32>, tensor<8x8xf32>
    }
    return %loss, %b#4 : tensor<f32>, tensor<8x8xf32>
  }
}
