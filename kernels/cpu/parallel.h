// A parallel loop on XLA's own thread pool.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <string>

#include "hand_over.h"
#include "xla/ffi/api/ffi.h"

namespace zenith {

// Runs worker(next) on the calling thread and on up to `threads` - 1 threads of the pool, and returns when all `items`
// are done. `next()` hands out each item once and -1 when there are no more.
//
// The caller works too and only waits for threads that have begun, so a pool whose threads are all busy, or all inside
// calls like this one, cannot lock it up. A thread that begins after the caller has left finds the loop closed and
// touches nothing of the caller's.
template <class Worker>
void ParallelFor(xla::ffi::ThreadPool& pool, int64_t threads, int64_t items, const Worker& worker) {
  struct Loop {
    std::atomic<int64_t> next{0};
    std::mutex mutex;
    std::condition_variable idle;
    int64_t working = 0;
    bool closed = false;
  };
  TakeFromXla();
  auto loop = std::make_shared<Loop>();
  auto work = [&worker, items, loop = loop.get()] {
    worker([&]() -> int64_t {
      const int64_t item = loop->next.fetch_add(1, std::memory_order_relaxed);
      return item < items ? item : -1;
    });
  };
  struct CloseAndWait {  // however the caller leaves
    Loop& loop;
    ~CloseAndWait() {
      std::unique_lock<std::mutex> lock(loop.mutex);
      loop.closed = true;
      loop.idle.wait(lock, [&] { return loop.working == 0; });
      GiveToXla();
    }
  } on_return{*loop};

  for (int64_t i = 1; i < std::min(threads, items); ++i) {
    pool.Schedule([loop, work, handed_over = HandedOver()] {
      TakeFromXla();
      {
        std::lock_guard<std::mutex> lock(loop->mutex);
        if (loop->closed) return;
        ++loop->working;
      }
      work();
      std::lock_guard<std::mutex> lock(loop->mutex);
      if (--loop->working == 0) loop->idle.notify_all();
    });
  }
  work();
}

// Scratch that a thread keeps from one call to the next, up to a limit: fresh memory costs a page fault every 4 KiB.
class Scratch {
 public:
  // At least `floats` floats, aligned to 64 bytes, until Release(); nullptr without memory.
  float* Take(int64_t floats) {
    if (data_ && floats <= floats_) return data_.get();
    const auto bytes = static_cast<size_t>(floats < 1 ? 1 : floats) * sizeof(float);
    data_.reset();  // first, as the new one may take its place
    data_.reset(static_cast<float*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64)));
    floats_ = data_ ? floats : 0;
    return data_.get();
  }
  void Release() {
    if (floats_ <= kKeptFloats) return;
    data_.reset();
    floats_ = 0;
  }

 private:
  static constexpr int64_t kKeptFloats = int64_t{1} << 20;
  struct Free {
    void operator()(float* data) const { std::free(data); }
  };
  std::unique_ptr<float, Free> data_;
  int64_t floats_ = 0;
};

// This thread's, whichever kernel it runs: it is in one at a time.
inline Scratch& ScratchOfThread() {
  static thread_local Scratch scratch;
  return scratch;
}

// Runs run(item, scratch) for each item, with `floats` floats of scratch that are the thread's own. `run` itself may not
// call this.
template <class Run>
xla::ffi::Error ParallelForWithScratch(xla::ffi::ThreadPool& pool, int64_t threads, int64_t items, int64_t floats,
                                       const Run& run) {
  std::atomic<bool> out_of_memory{false};
  ParallelFor(pool, threads, items, [&](auto next) {
    Scratch& kept = ScratchOfThread();
    float* const scratch = kept.Take(floats);
    if (scratch == nullptr) out_of_memory = true;
    for (int64_t item = next(); item >= 0; item = next()) {
      if (scratch != nullptr) run(item, scratch);
    }
    kept.Release();
  });
  if (!out_of_memory) return xla::ffi::Error::Success();
  return xla::ffi::Error(xla::ffi::ErrorCode::kResourceExhausted,
                         "no memory for " + std::to_string(floats) + " floats of scratch a thread");
}

}  // namespace zenith
