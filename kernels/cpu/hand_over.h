// What the thread sanitizer has to be told, as XLA is not instrumented: neither the queue of its thread pool nor what
// orders one call after another shows that what a thread did before it handed over comes before what the next one does.
// Nothing in any other build.
#pragma once

#if defined(__SANITIZE_THREAD__)
#define ZENITH_THREAD_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define ZENITH_THREAD_SANITIZER 1
#endif
#endif

#if defined(ZENITH_THREAD_SANITIZER)
#include <sanitizer/tsan_interface.h>
#endif

namespace zenith {

#if defined(ZENITH_THREAD_SANITIZER)
inline char hand_over;  // only its address counts
inline void GiveToXla() { __tsan_release(&hand_over); }
inline void TakeFromXla() { __tsan_acquire(&hand_over); }
#else
inline void GiveToXla() {}
inline void TakeFromXla() {}
#endif

// The last capture of a task. XLA's queue gets a copy of the closure, and that too is made before the task runs.
struct HandedOver {
  HandedOver() = default;
  HandedOver(const HandedOver&) { GiveToXla(); }
};

}  // namespace zenith
