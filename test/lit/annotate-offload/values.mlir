// RUN: zenith-opt %s --pass "annotate-offload{values=hidden min-bytes=1KiB host-bandwidth=10TB/s}" --target=cuda:sm_90 --remarks=all 2>&1 | filecheck %s
// RUN: zenith-opt %s --pass "annotate-offload{min-bytes=1KiB host-bandwidth=10TB/s}" --target=cuda:sm_90 --remarks=all 2>&1 | filecheck %s --check-prefix=HIDES
// RUN: zenith-opt %s --pass "annotate-offload{min-bytes=1KiB}" --target=cuda:sm_90 --remarks=all 2>&1 | filecheck %s --check-prefix=SLOW
// RUN: zenith-opt %s --pass "annotate-offload{budget=80% min-bytes=1KiB self-check=false}" --target=cuda:sm_90 --remarks=all 2>&1 | filecheck %s --check-prefix=BUDGET

// By name. The tanh of what comes back is computed again.
// CHECK: [analysis] annotate-offload: the self-check did not run: cuda:sm_90 is described, not present
// CHECK: model.py:3:7: remark: [passed] annotate-offload: stablehlo.dot_general (value=jit(step)/jvp(hidden)/dot_general, bytes=32768, choice=offload, hidden=true)
// CHECK-NOT: [passed]
// CHECK-LABEL: func.func public @main
// CHECK-SAME: -> (tensor<f32> {mhlo.memory_kind = "device"}, tensor<32x64xbf16> {jax.result_info = "w", mhlo.memory_kind = "device"}
// CHECK: %[[H:.*]] = stablehlo.dot_general %arg0, %arg1
// CHECK-NEXT: %[[HOST:.*]] = stablehlo.custom_call @annotate_device_placement(%[[H]]) {backend_config = "", has_side_effect = true, mhlo.frontend_attributes = {_xla_buffer_placement = "pinned_host"}} : (tensor<256x64xbf16>) -> tensor<256x64xbf16>
// The device's copy is free before the forward goes on.
// CHECK: %[[Y:.*]] = stablehlo.dot_general
// CHECK-NEXT: %[[AWAY:.*]]:2 = stablehlo.optimization_barrier %[[HOST]], %[[Y]]
// CHECK-NEXT: %[[Z:.*]] = stablehlo.dot_general %[[AWAY]]#1, %arg2
// The way back waits for a cotangent, and so does a gradient of weights.
// CHECK: %[[DV:.*]] = stablehlo.dot_general %{{.*}}, %{{.*}}, contracting_dims = [0] x [0]
// CHECK: %[[G:.*]] = stablehlo.dot_general %{{.*}}, %arg2, contracting_dims = [1] x [1]
// CHECK-NEXT: %[[TIED:.*]]:3 = stablehlo.optimization_barrier %[[AWAY]]#0, %[[DV]], %[[G]]
// CHECK-NEXT: %[[BACK:.*]] = stablehlo.custom_call @annotate_device_placement(%[[TIED]]#0) {backend_config = "", has_side_effect = true, mhlo.frontend_attributes = {_xla_buffer_placement = "device"}}
// CHECK: %[[WIDE:.*]] = stablehlo.convert %[[BACK]]
// CHECK: %[[AGAIN:.*]] = stablehlo.tanh %[[WIDE]]
// CHECK: stablehlo.dot_general %[[TIED]]#2, %[[AGAIN]]

// Without names what hides behind the program goes, which hangs on the link.
// HIDES: model.py:3:7: remark: [passed] annotate-offload: {{.*}} hidden=true)
// HIDES: [passed] annotate-offload: {{.*}}bytes=65536, choice=offload, hidden=true)
// HIDES-NOT: [passed]

// SLOW: [analysis] annotate-offload: of 3 residuals (160.0 KiB) none is large and waits so long that its transfers hide
// SLOW-NOT: annotate_device_placement

// Of 160 KiB that wait 32 have to go.
// BUDGET-COUNT-1: [passed]
// BUDGET-NOT: [passed]
module {
  func.func public @main(%x: tensor<256x32xbf16>, %w: tensor<32x64xbf16>, %v: tensor<64x64xf32>) -> (tensor<f32>, tensor<32x64xbf16> {jax.result_info = "w"}, tensor<64x64xf32>) {
    %zero = stablehlo.constant dense<0.0> : tensor<f32>
    %one = stablehlo.constant dense<1.0> : tensor<256x64xf32>
    %h = stablehlo.dot_general %x, %w, contracting_dims = [1] x [0] : (tensor<256x32xbf16>, tensor<32x64xbf16>) -> tensor<256x64xbf16> loc("jit(step)/jvp(hidden)/dot_general"("model.py":3:7))
    %wide = stablehlo.convert %h : (tensor<256x64xbf16>) -> tensor<256x64xf32>
    %t = stablehlo.tanh %wide : tensor<256x64xf32> loc("jit(step)/jvp(hidden)/tanh"("model.py":4:7))
    %y = stablehlo.dot_general %t, %v, contracting_dims = [1] x [0] : (tensor<256x64xf32>, tensor<64x64xf32>) -> tensor<256x64xf32>
    %z = stablehlo.dot_general %y, %v, contracting_dims = [1] x [0] : (tensor<256x64xf32>, tensor<64x64xf32>) -> tensor<256x64xf32>
    %squares = stablehlo.multiply %z, %z : tensor<256x64xf32>
    %loss = stablehlo.reduce(%squares init: %zero) applies stablehlo.add across dimensions = [0, 1] : (tensor<256x64xf32>, tensor<f32>) -> tensor<f32>
    %dz = stablehlo.add %z, %z : tensor<256x64xf32>
    %dv1 = stablehlo.dot_general %y, %dz, contracting_dims = [0] x [0] : (tensor<256x64xf32>, tensor<256x64xf32>) -> tensor<64x64xf32>
    %dy = stablehlo.dot_general %dz, %v, contracting_dims = [1] x [1] : (tensor<256x64xf32>, tensor<64x64xf32>) -> tensor<256x64xf32>
    %dv2 = stablehlo.dot_general %dy, %t, contracting_dims = [0] x [0] : (tensor<256x64xf32>, tensor<256x64xf32>) -> tensor<64x64xf32>
    %dv = stablehlo.add %dv1, %dv2 : tensor<64x64xf32>
    %dt = stablehlo.dot_general %dy, %v, contracting_dims = [1] x [1] : (tensor<256x64xf32>, tensor<64x64xf32>) -> tensor<256x64xf32>
    %tt = stablehlo.multiply %t, %t : tensor<256x64xf32>
    %slope = stablehlo.subtract %one, %tt : tensor<256x64xf32>
    %dwide = stablehlo.multiply %dt, %slope : tensor<256x64xf32>
    %dh = stablehlo.convert %dwide : (tensor<256x64xf32>) -> tensor<256x64xbf16>
    %dw = stablehlo.dot_general %x, %dh, contracting_dims = [0] x [0] : (tensor<256x32xbf16>, tensor<256x64xbf16>) -> tensor<32x64xbf16>
    return %loss, %dw, %dv : tensor<f32>, tensor<32x64xbf16>, tensor<64x64xf32>
  }
}
