// What the attention handler (attention.cc) hands to the kernel (attention_kernel.cc), once it is known to be valid.
//
//   out[p, t, e] = sum_s softmax_s( program( sum_d q[p, t, d] k[p, s, d] ) )[p, t, s] * v[p, s, e]
//
// p runs over the parallel axes (batch, heads, groups, ...). For the gradients (attention_vjp.h) two numbers of each row
// of logits x are written too: their maximum m, and the sum of exp(x - m).
#pragma once

#include <cstdint>

#include "dtype.h"
#include "isa.h"

namespace zenith {

constexpr int kMaxParallel = 8;

// One position on the parallel axes.
struct ParallelIndex {
  int64_t at[kMaxParallel];
};

struct Operand {
  void* data;
  Dtype dtype;
  int64_t parallel[kMaxParallel];  // strides, in elements; 0 broadcasts
  int64_t row, col;                // of (t, d), (s, d), (s, e), (t, e), or (t, s) for a modifier

  int64_t Offset(const ParallelIndex& index, int n) const {
    int64_t offset = 0;
    for (int i = 0; i < n; ++i) offset += index.at[i] * parallel[i];
    return offset;
  }
};

// The numbers are the ABI.
enum class Opcode : int64_t {
  kScale = 0,       // x *= c
  kMul = 1,         // x *= m
  kAdd = 2,         // x += m
  kSelect = 3,      // x = m ? x : c
  kBand = 4,        // x = lo <= s - t <= hi ? x : c
  kTanh = 5,        // x = tanh x
  kMax = 6,         // x = max(x, c)
  kOffset = 7,      // x += c
  kBandAdd = 8,     // x += lo <= s - t <= hi ? 0 : c
  kSelectAdd = 9,   // x += m ? 0 : c
  kPostMul = 16,    // p *= m, after the normaliser
  kPostSelect = 17, // p = m ? p : c, after the normaliser
  kSink = 18        // the normaliser also sums exp(m): an attention sink, one for each (p, t)
};

struct Step {
  Opcode op;
  int64_t modifier;  // -1 where the operation has none
  int64_t lo, hi;
  float c;
};

struct AttentionProblem {
  int n_parallel;
  int64_t dims[kMaxParallel];
  int64_t count;       // the product of dims
  int64_t T, S, D, E;  // queries, keys, depth of the logits, depth of the values
  Operand q, k, v, out;
  float *maximum, *sum;  // [count, T], of each row of logits; nullptr where they are not asked for
  const Operand* modifiers;
  const Step* steps;  // logit steps, then those after the normaliser
  int n_logit_steps, n_steps;

  // For each position on the parallel axes whether its V holds no infinity or NaN: 0 not known yet, 1 yes, 2 no.
  // Shared between threads, written at most with equal values.
  // nullptr in the gradients, which do not ask.
  int8_t* values_finite;
};

// How the work is cut: an item is the queries [tile * queries, (tile + 1) * queries) of one parallel position.
struct AttentionPlan {
  int64_t queries;         // per item
  int64_t tiles;           // items of one parallel position
  int64_t items;           // tiles * problem.count
  int64_t scratch_floats;  // of each thread
};

// The kernel as compiled for one instruction set.
struct AttentionKernel {
  AttentionPlan (*plan)(const AttentionProblem&, int64_t threads);
  void (*run)(const AttentionProblem&, const AttentionPlan&, int64_t item, float* scratch);
};

ZENITH_DECLARE_KERNEL_BF16(AttentionKernel, kAttention)

}  // namespace zenith
