// RUN: zenith-opt %s --pass-pipeline=prepare,raise-activation --target=none --split-input-file --verify-diagnostics -o /dev/null

// A constant of GELU is off.
func.func public @constant(%x: tensor<4x8xf32>) -> tensor<4x8xf32> {
  %half = stablehlo.constant dense<0.5> : tensor<4x8xf32>
  %one = stablehlo.constant dense<1.0> : tensor<4x8xf32>
  %root = stablehlo.constant dense<0.797884583> : tensor<4x8xf32>
  %cubic = stablehlo.constant dense<0.0447> : tensor<4x8xf32>
  %0 = stablehlo.multiply %x, %x : tensor<4x8xf32>
  %1 = stablehlo.multiply %0, %x : tensor<4x8xf32>
  %2 = stablehlo.multiply %1, %cubic : tensor<4x8xf32>
  %3 = stablehlo.add %x, %2 : tensor<4x8xf32>
  %4 = stablehlo.multiply %3, %root : tensor<4x8xf32>
  %5 = stablehlo.tanh %4 : tensor<4x8xf32>
  %6 = stablehlo.add %5, %one : tensor<4x8xf32>
  %7 = stablehlo.multiply %x, %half : tensor<4x8xf32>
  // expected-remark@+1 {{the factor of x³ is 0.0447, GELU has 0.044715}}
  %8 = stablehlo.multiply %7, %6 : tensor<4x8xf32>
  return %8 : tensor<4x8xf32>
}

// -----

// SiLU, three times.
func.func public @scaled(%x: tensor<4x8xf32>) -> tensor<4x8xf32> {
  %three = stablehlo.constant dense<3.0> : tensor<4x8xf32>
  %0 = stablehlo.multiply %x, %three : tensor<4x8xf32>
  %1 = stablehlo.logistic %x : tensor<4x8xf32>
  // expected-remark@+1 {{it is 3 times SiLU}}
  %2 = stablehlo.multiply %0, %1 : tensor<4x8xf32>
  return %2 : tensor<4x8xf32>
}

// -----

// A gate of an LSTM and a soft cap are nothing like it: no remark.
func.func public @others(%x: tensor<4x8xf32>, %y: tensor<4x8xf32>) -> (tensor<4x8xf32>, tensor<4x8xf32>) {
  %cap = stablehlo.constant dense<30.0> : tensor<4x8xf32>
  %0 = stablehlo.logistic %x : tensor<4x8xf32>
  %1 = stablehlo.tanh %y : tensor<4x8xf32>
  %2 = stablehlo.multiply %0, %1 : tensor<4x8xf32>
  %3 = stablehlo.divide %x, %cap : tensor<4x8xf32>
  %4 = stablehlo.tanh %3 : tensor<4x8xf32>
  %5 = stablehlo.multiply %4, %cap : tensor<4x8xf32>
  return %2, %5 : tensor<4x8xf32>, tensor<4x8xf32>
}
