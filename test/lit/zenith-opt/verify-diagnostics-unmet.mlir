// Both ways: an expectation without its diagnostic, a diagnostic without its expectation, and one that is misspelled.
// RUN: not zenith-opt %s --split-input-file --verify-diagnostics -o %t.never 2>&1 | filecheck %s
// RUN: not ls %t.never

// CHECK: zenith-opt: error: {{.*}}unmet.mlir:[[# @LINE + 2]]: expected error "text that does not come" was not produced at line [[# @LINE + 3]]
func.func @fine(%x: tensor<4xf32>) -> tensor<4xf32> {
  // expected-error@+1 {{text that does not come}}
  return %x : tensor<4xf32>
}

// -----

func.func @bad(%x: tensor<4xf32>) {
  // CHECK: zenith-opt: error: {{.*}}unmet.mlir:[[# @LINE + 1]]: unexpected error: {{.*}}'nonsense' is unknown
  nonsense
}
