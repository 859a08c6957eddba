// RUN: zenith-opt %s --pass cast-precision --remarks=all 2>&1 | filecheck %s
// RUN: zenith-opt %s --pass 'cast-precision{compute=f16 policy=conservative}' | filecheck %s --check-prefix=F16
// RUN: zenith-opt %s --pass 'cast-precision{deny=dot_general}' --remarks=missed 2>&1 | filecheck %s --check-prefix=DENIED
// RUN: not zenith-opt %s --pass 'cast-precision{compute=int8}' 2>&1 | filecheck %s --check-prefix=SPELLED
// RUN: zenith-opt %s --pass cast-precision --pass cast-precision > %t.twice
// RUN: zenith-opt %s --pass cast-precision > %t.once
// RUN: diff %t.once %t.twice

// SPELLED: cast-precision: option compute=<Dtype>, default bf16 cannot be 'int8': expected bf16 (bfloat16) or f16 (float16)

// The hidden layer lives in 16 bits; the softmax and what is behind the last product do not.
// CHECK: remark: [passed] cast-precision: stablehlo.dot_general (compute=bf16)
// CHECK: remark: [passed] cast-precision: stablehlo.dot_general (compute=bf16)
// CHECK: remark: [analysis] cast-precision: allow: 2 of 2 operations in 16 bits
// CHECK: func.func public @main(%[[X:.*]]: tensor<4x8xf32>, %[[W:.*]]: tensor<8x8xf32>) -> tensor<4x8xf32>
// CHECK-DAG: %[[X16:.*]] = stablehlo.convert %[[X]] : (tensor<4x8xf32>) -> tensor<4x8xbf16>
// CHECK-DAG: %[[W16:.*]] = stablehlo.convert %[[W]] : (tensor<8x8xf32>) -> tensor<8x8xbf16>
// CHECK: %[[FIRST:.*]] = stablehlo.dot_general %[[X16]], %[[W16]], {{.*}} : (tensor<4x8xbf16>, tensor<8x8xbf16>) -> tensor<4x8xf32>
// CHECK: %[[NARROW:.*]] = stablehlo.convert %[[FIRST]]
// CHECK: %[[HIDDEN:.*]] = stablehlo.tanh %[[NARROW]] : tensor<4x8xbf16>
// CHECK: %[[LOGITS:.*]] = stablehlo.dot_general %[[HIDDEN]], %[[W16]], {{.*}} -> tensor<4x8xf32>
// CHECK: stablehlo.exponential %[[LOGITS]] : tensor<4x8xf32>

// F16: stablehlo.dot_general {{.*}} (tensor<4x8xf16>, tensor<8x8xf16>) -> tensor<4x8xf32>
// F16: stablehlo.tanh {{.*}} : tensor<4x8xf32>

// DENIED: remark: [missed] cast-precision: dot_general stays float32: the policy denies it: deny:dot_general
// DENIED-NOT: bf16
module @mlp {
  func.func public @main(%x: tensor<4x8xf32>, %w: tensor<8x8xf32>) -> tensor<4x8xf32> {
    %0 = stablehlo.dot_general %x, %w, contracting_dims = [1] x [0] : (tensor<4x8xf32>, tensor<8x8xf32>) -> tensor<4x8xf32>
    %1 = stablehlo.tanh %0 : tensor<4x8xf32>
    %2 = stablehlo.dot_general %1, %w, contracting_dims = [1] x [0] : (tensor<4x8xf32>, tensor<8x8xf32>) -> tensor<4x8xf32>
    %3 = stablehlo.exponential %2 : tensor<4x8xf32>
    return %3 : tensor<4x8xf32>
  }
}
