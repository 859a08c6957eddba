// RUN: zenith-opt %s --pass cse --timing -o /dev/null 2>&1 | filecheck %s --check-prefix=TIMING
// RUN: zenith-opt %s --pass cse --statistics -o /dev/null 2>&1 | filecheck %s --check-prefix=STATISTICS
// RUN: zenith-opt --list-passes | filecheck %s --check-prefix=LIST
// RUN: zenith-opt --explain fuse-attention | filecheck %s --check-prefix=EXPLAIN
// RUN: zenith-opt --explain canonicalize | filecheck %s --check-prefix=NATIVE
// RUN: zenith-opt --explain prepare | filecheck %s --check-prefix=PIPELINE
// RUN: zenith-opt --version | filecheck %s --check-prefix=VERSION

// TIMING: Timing
// TIMING: (read)
// TIMING-NEXT: cse
// TIMING-NEXT: (write)
// TIMING-NEXT: total {{.*}}100.0%

// STATISTICS: cse {{.*}} operations {{.*}} -1

// LIST: Passes:
// LIST: fuse-attention Replace softmax
// LIST: Pipelines:
// LIST: default
// LIST: Native passes:
// LIST: cse

// EXPLAIN: fuse-attention: Replace softmax
// EXPLAIN: Options:
// EXPLAIN: min-seq=<int|none> (default none)

// NATIVE: max-iterations=10

// PIPELINE: inline-calls,simplify

// VERSION: zenith-opt {{[0-9]+\.[0-9]+}}
func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
  %0 = stablehlo.sine %x : tensor<4xf32>
  %1 = stablehlo.sine %x : tensor<4xf32>
  %2 = stablehlo.add %0, %1 : tensor<4xf32>
  return %2 : tensor<4xf32>
}
