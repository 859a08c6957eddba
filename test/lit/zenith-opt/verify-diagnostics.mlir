// Expectations of errors and remarks, met ones in silence.
// RUN: zenith-opt %s --split-input-file --verify-diagnostics --pass raise-attention | filecheck %s --allow-empty
// CHECK-NOT: error

func.func @fine(%x: tensor<4xf32>) -> tensor<4xf32> {
  return %x : tensor<4xf32>
}

// -----

// expected-error@+2 {{custom op 'nonsense' is unknown}}
func.func @bad(%x: tensor<4xf32>) -> tensor<4xf32> {
  nonsense
}

// -----

func.func @bad_type(%x: tensor<4xf32>) -> tensor<5xf32> {
  // expected-error@below {{type of return operand 0}}
  return %x : tensor<4xf32>
}

// -----

func.func @same_line(%x: tensor<4xf32>) {
  return %y : tensor<4xf32>  // expected-error {{undeclared SSA value}}
}
