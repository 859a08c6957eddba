// What the attention handler hands to the kernel for few queries (attention_rows_kernel.cc).
#pragma once

#include "attention.h"
#include "isa.h"

namespace zenith {

// How the work is cut. The queries of all parallel positions that share K and V are the rows of a group. An item is a
// tile of these rows over a chunk of the keys; where there are several chunks, the items' partial results are combined
// afterwards. The cut depends on the shapes alone, and so do the results.
struct AttentionRowsPlan {
  int64_t rows;                // of a group
  int64_t tile_rows;           // rows of an item, fewer in the last tile
  int64_t row_tiles;           // of a group
  int64_t tiles;               // of all groups
  int64_t chunk_keys, chunks;  // keys of a chunk, fewer in the last one
  int64_t items;               // tiles * chunks
  int64_t partial_floats;      // of all items together; 0 where there is one chunk
  int64_t scratch_floats;      // of each thread
};

// The kernel as compiled for one instruction set.
struct AttentionRowsKernel {
  bool (*takes)(const AttentionProblem&);
  AttentionRowsPlan (*plan)(const AttentionProblem&);
  void (*run)(const AttentionProblem&, const AttentionRowsPlan&, int64_t item, float* partials, float* scratch);
  void (*combine)(const AttentionProblem&, const AttentionRowsPlan&, int64_t tile, float* partials);
};

ZENITH_DECLARE_KERNEL(AttentionRowsKernel, kAttentionRows)

}  // namespace zenith
