// RUN: zenith-opt %s --pass-pipeline=prepare,raise-attention --remarks=passed 2>&1 | filecheck %s
// RUN: zenith-opt %s --pass fuse-attention --target=cpu | filecheck %s --check-prefix=CPU
// RUN: zenith-opt %s --pass fuse-attention --target=cuda:sm_90 | filecheck %s --check-prefix=CUDA
// RUN: zenith-opt %s --pass fuse-attention --target=cuda:sm_75 --remarks=missed 2>&1 | filecheck %s --check-prefix=OLD

// Causal attention and its gradients, as jax.vjp writes them: two composites with no matrix of probabilities between.
// CHECK: remark: [passed] raise-attention: zenith.attention_vjp (gradients=
// CHECK: remark: [passed] raise-attention: zenith.attention (causal=true, scale=0.125
// CHECK-LABEL: func.func public @main
// CHECK-NOT: 64x64xbf16
// CHECK: %[[FORWARD:.*]]:3 = stablehlo.composite "zenith.attention"
// CHECK: stablehlo.composite "zenith.attention_vjp" %{{.*}}, %{{.*}}, %{{.*}}, %[[FORWARD]]#0, %[[FORWARD]]#1, %[[FORWARD]]#2, %arg3

// CPU: stablehlo.custom_call @zenith_attention(
// CPU: stablehlo.custom_call @zenith_attention_vjp(
// CPU-NOT: stablehlo.exponential

// A GPU need not be there to be lowered for.
// CUDA: stablehlo.custom_call @__cudnn$fmhaSoftmax(
// CUDA: stablehlo.custom_call @__cudnn$fmhaSoftmaxBackward(
// CUDA-NOT: stablehlo.exponential

// What one declines stays whole.
// OLD-DAG: remark: [missed] lower-kernels: {{.*}}sm_75
// OLD-DAG: remark: [missed] lower-kernels: {{.*}}sm_75
// OLD-NOT: zenith
// OLD: stablehlo.exponential
module @jit_train {
  func.func public @main(%arg0: tensor<2x64x4x64xbf16>, %arg1: tensor<2x64x4x64xbf16>, %arg2: tensor<2x64x4x64xbf16>, %arg3: tensor<2x64x4x64xbf16>) -> (tensor<2x64x4x64xbf16>, tensor<2x64x4x64xbf16>, tensor<2x64x4x64xbf16>, tensor<2x64x4x64xbf16>) {
    %cst = stablehlo.constant dense<0.000000e+00> : tensor<2x4x64x64xbf16>
    %cst_0 = stablehlo.constant dense<1.000000e+00> : tensor<2x4x64x1xbf16>
    %cst_1 = stablehlo.constant dense<-9.982440e+08> : tensor<2x4x64x64xbf16>
    %cst_2 = stablehlo.constant dense<1.250000e-01> : tensor<2x4x64x64xbf16>
    %cst_3 = stablehlo.constant dense<0.000000e+00> : tensor<f32>
    %cst_4 = stablehlo.constant dense<0xFF80> : tensor<bf16>
    %cst_5 = stablehlo.constant dense<0.000000e+00> : tensor<bf16>
    %0 = stablehlo.dot_general %arg0, %arg1, batching_dims = [0, 2] x [0, 2], contracting_dims = [3] x [3] : (tensor<2x64x4x64xbf16>, tensor<2x64x4x64xbf16>) -> tensor<2x4x64x64xbf16>
    %1 = stablehlo.multiply %0, %cst_2 : tensor<2x4x64x64xbf16>
    %2 = stablehlo.iota dim = 0 : tensor<64x64xi32>
    %3 = stablehlo.iota dim = 1 : tensor<64x64xi32>
    %4 = stablehlo.compare GE, %2, %3, SIGNED : (tensor<64x64xi32>, tensor<64x64xi32>) -> tensor<64x64xi1>
    %5 = stablehlo.broadcast_in_dim %4, dims = [2, 3] : (tensor<64x64xi1>) -> tensor<2x4x64x64xi1>
    %6 = stablehlo.select %5, %1, %cst_1 : tensor<2x4x64x64xi1>, tensor<2x4x64x64xbf16>
    %7 = stablehlo.reduce(%6 init: %cst_4) applies stablehlo.maximum across dimensions = [3] : (tensor<2x4x64x64xbf16>, tensor<bf16>) -> tensor<2x4x64xbf16>
    %8 = stablehlo.broadcast_in_dim %7, dims = [0, 1, 2] : (tensor<2x4x64xbf16>) -> tensor<2x4x64x64xbf16>
    %9 = stablehlo.subtract %6, %8 : tensor<2x4x64x64xbf16>
    %10 = stablehlo.exponential %9 : tensor<2x4x64x64xbf16>
    %11 = stablehlo.convert %10 : (tensor<2x4x64x64xbf16>) -> tensor<2x4x64x64xf32>
    %12 = stablehlo.reduce(%11 init: %cst_3) applies stablehlo.add across dimensions = [3] : (tensor<2x4x64x64xf32>, tensor<f32>) -> tensor<2x4x64xf32>
    %13 = stablehlo.broadcast_in_dim %12, dims = [0, 1, 2] : (tensor<2x4x64xf32>) -> tensor<2x4x64x1xf32>
    %14 = stablehlo.convert %13 : (tensor<2x4x64x1xf32>) -> tensor<2x4x64x1xbf16>
    %15 = stablehlo.broadcast_in_dim %14, dims = [0, 1, 2, 3] : (tensor<2x4x64x1xbf16>) -> tensor<2x4x64x64xbf16>
    %16 = stablehlo.divide %10, %15 : tensor<2x4x64x64xbf16>
    %17 = stablehlo.multiply %14, %14 : tensor<2x4x64x1xbf16>
    %18 = stablehlo.divide %cst_0, %17 : tensor<2x4x64x1xbf16>
    %19 = stablehlo.dot_general %arg2, %16, batching_dims = [0, 2] x [0, 1], contracting_dims = [1] x [3] : (tensor<2x64x4x64xbf16>, tensor<2x4x64x64xbf16>) -> tensor<2x4x64x64xbf16>
    %20 = stablehlo.transpose %19, dims = [0, 3, 1, 2] : (tensor<2x4x64x64xbf16>) -> tensor<2x64x4x64xbf16>
    %21 = stablehlo.transpose %arg3, dims = [0, 2, 3, 1] : (tensor<2x64x4x64xbf16>) -> tensor<2x4x64x64xbf16>
    %22 = stablehlo.dot_general %21, %arg2, batching_dims = [0, 1] x [0, 2], contracting_dims = [2] x [3] : (tensor<2x4x64x64xbf16>, tensor<2x64x4x64xbf16>) -> tensor<2x4x64x64xbf16>
    %23 = stablehlo.dot_general %21, %16, batching_dims = [0, 1] x [0, 1], contracting_dims = [3] x [2] : (tensor<2x4x64x64xbf16>, tensor<2x4x64x64xbf16>) -> tensor<2x4x64x64xbf16>
    %24 = stablehlo.transpose %23, dims = [0, 3, 1, 2] : (tensor<2x4x64x64xbf16>) -> tensor<2x64x4x64xbf16>
    %25 = stablehlo.broadcast_in_dim %18, dims = [0, 1, 2, 3] : (tensor<2x4x64x1xbf16>) -> tensor<2x4x64x64xbf16>
    %26 = stablehlo.multiply %22, %25 : tensor<2x4x64x64xbf16>
    %27 = stablehlo.multiply %26, %10 : tensor<2x4x64x64xbf16>
    %28 = stablehlo.reduce(%27 init: %cst_5) applies stablehlo.add across dimensions = [3] : (tensor<2x4x64x64xbf16>, tensor<bf16>) -> tensor<2x4x64xbf16>
    %29 = stablehlo.broadcast_in_dim %28, dims = [0, 1, 2] : (tensor<2x4x64xbf16>) -> tensor<2x4x64x1xbf16>
    %30 = stablehlo.negate %29 : tensor<2x4x64x1xbf16>
    %31 = stablehlo.divide %22, %15 : tensor<2x4x64x64xbf16>
    %32 = stablehlo.convert %30 : (tensor<2x4x64x1xbf16>) -> tensor<2x4x64x1xf32>
    %33 = stablehlo.reduce(%32 init: %cst_3) applies stablehlo.add across dimensions = [3] : (tensor<2x4x64x1xf32>, tensor<f32>) -> tensor<2x4x64xf32>
    %34 = stablehlo.broadcast_in_dim %33, dims = [0, 1, 2] : (tensor<2x4x64xf32>) -> tensor<2x4x64x64xf32>
    %35 = stablehlo.convert %34 : (tensor<2x4x64x64xf32>) -> tensor<2x4x64x64xbf16>
    %36 = stablehlo.add %31, %35 : tensor<2x4x64x64xbf16>
    %37 = stablehlo.multiply %36, %10 : tensor<2x4x64x64xbf16>
    %38 = stablehlo.select %5, %37, %cst : tensor<2x4x64x64xi1>, tensor<2x4x64x64xbf16>
    %39 = stablehlo.multiply %38, %cst_2 : tensor<2x4x64x64xbf16>
    %40 = stablehlo.dot_general %39, %arg0, batching_dims = [0, 1] x [0, 2], contracting_dims = [2] x [1] : (tensor<2x4x64x64xbf16>, tensor<2x64x4x64xbf16>) -> tensor<2x4x64x64xbf16>
    %41 = stablehlo.transpose %40, dims = [0, 2, 1, 3] : (tensor<2x4x64x64xbf16>) -> tensor<2x64x4x64xbf16>
    %42 = stablehlo.dot_general %39, %arg1, batching_dims = [0, 1] x [0, 2], contracting_dims = [3] x [1] : (tensor<2x4x64x64xbf16>, tensor<2x64x4x64xbf16>) -> tensor<2x4x64x64xbf16>
    %43 = stablehlo.transpose %42, dims = [0, 2, 1, 3] : (tensor<2x4x64x64xbf16>) -> tensor<2x64x4x64xbf16>
    return %20, %43, %41, %24 : tensor<2x64x4x64xbf16>, tensor<2x64x4x64xbf16>, tensor<2x64x4x64xbf16>, tensor<2x64x4x64xbf16>
  }
}

