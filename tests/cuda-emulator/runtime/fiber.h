// Fibers: a CUDA thread's stack, entered by the scheduler of its block and left where the thread has to wait.
#pragma once
#include <stddef.h>

namespace emu {

struct Fiber {
    void* stack_pointer;
    char* stack;
    void* tsan = nullptr;       // what ThreadSanitizer knows it as
    void* fake_stack = nullptr; // AddressSanitizer's, while it does not run
};

// `body` never returns: it leaves instead.
Fiber* new_fiber(void (*body)());

// Runs `fiber` until it leaves.
void enter(Fiber* fiber);

// Goes back to who entered `fiber`, which is the one that runs.
void leave(Fiber* fiber);

// From the fiber that runs to another, at once; the scheduler is still that of `from`. Not under the sanitizers.
void hop(Fiber* from, Fiber* to);

// To be said first in a fiber's body.
void begun();

// Order between CUDA threads, which ThreadSanitizer cannot see by itself. Nothing in other flavours.
#ifdef EMU_TSAN
void acquire(void* what);
void release(void* what);
#else
inline void acquire(void*) {}
inline void release(void*) {}
#endif

} // namespace emu
