// RUN: zenith-report %s --pass cse --pass raise-softmax -o %t.html
// RUN: filecheck %s --input-file %t.html
// RUN: zenith-report - --pass-pipeline=cse --json < %s | filecheck %s --check-prefix=JSON
// RUN: zenith-report --version | filecheck %s --check-prefix=VERSION

// CHECK: <!doctype html>
// CHECK: {{page\.mlir</h1>}}
// CHECK: cse,raise-softmax
// CHECK: operations<b>6 → 5</b>
// CHECK: temporaries, estimated
// CHECK-NEXT: 3.0 KiB → 2.0 KiB
// CHECK: <svg
// CHECK: before, peak 3.0 KiB
// CHECK: after, peak 2.0 KiB
// CHECK: </svg>
// CHECK: <td>temporaries</td><td class="number">3.0 KiB</td><td class="number">2.0 KiB</td>
// CHECK: Live at the peak, before
// CHECK: <td class="number">1.0 KiB</td><td class="code">f32[256]</td><td>sine</td>
// CHECK-NEXT: <td></td><td class="name code">{{.*}}page.mlir:{{[0-9]+}}</td>
// CHECK: Remarks
// CHECK: None.
// CHECK: Passes
// CHECK: cse
// CHECK: raise-softmax
// CHECK: target cpu, numerics sound

// JSON: "pipeline": "cse"
// JSON-SAME: "operations": {"before": 6, "after": 5}
// JSON-SAME: "temporaries": 3072
// JSON-SAME: "exact": false

// VERSION: zenith-report {{[0-9]+\.[0-9]+}}
func.func public @main(%x: tensor<256xf32>) -> tensor<256xf32> {
  %0 = stablehlo.sine %x : tensor<256xf32>
  %1 = stablehlo.sine %x : tensor<256xf32>
  %2 = stablehlo.custom_call @reads(%0, %1) : (tensor<256xf32>, tensor<256xf32>) -> tensor<256xf32>
  %3 = stablehlo.custom_call @reads(%0, %2) : (tensor<256xf32>, tensor<256xf32>) -> tensor<256xf32>
  return %3 : tensor<256xf32>
}
