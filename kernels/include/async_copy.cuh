// Copies from device memory to shared memory that pass registers by and go on while the thread does something else.
//
//   copy_async(to, from, there)   16 bytes; zeros, and `from` is not read, unless there
//   copies_end()                  what the thread has started since the last call is a group
//   wait_copies<N>()              until all but the thread's last N groups are done
//
// From copy_async to that wait nothing is known of what lies at `to`. What other threads have copied is there after they
// have waited and all have met at a barrier. A thread waits for all of its copies before it ends. Both addresses are
// multiples of 16 bytes.
#pragma once
#include "numbers.cuh"

#ifndef EMU_HOST

__device__ __forceinline__ void copy_async(void* to, const void* from, bool there) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;"
                 :
                 : "r"(static_cast<u32>(__cvta_generic_to_shared(to))), "l"(from), "r"(there ? 16 : 0)
                 : "memory");
}
__device__ __forceinline__ void copies_end() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <u32 N> __device__ __forceinline__ void wait_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

#else

#include <deque>
#include <vector>

// As badly as is allowed: what lies there is gone at once (NaN in both types), and what comes is there as late as the wait.
struct AsyncCopy {
    uint4* to;
    const uint4* from; // null: zeros
};
struct AsyncCopies {
    std::vector<AsyncCopy> started;
    std::deque<std::vector<AsyncCopy>> groups;
};
inline AsyncCopies& own_copies() {
    static AsyncCopies of_threads[1024]; // one OS thread at a time runs blocks
    return of_threads[threadIdx.x];
}
inline void copy_async(void* to, const void* from, bool there) {
    *static_cast<uint4*>(to) = {~0u, ~0u, ~0u, ~0u};
    for (const auto& group : own_copies().groups) {
        for (const AsyncCopy& copy : group) {
            if (copy.to == to) emu_fail("two copies are on their way to one place");
        }
    }
    own_copies().started.push_back({static_cast<uint4*>(to), there ? static_cast<const uint4*>(from) : nullptr});
}
inline void copies_end() {
    AsyncCopies& own = own_copies();
    own.groups.push_back(std::move(own.started));
    own.started.clear();
}
template <u32 N> void wait_copies() {
    AsyncCopies& own = own_copies();
    for (; own.groups.size() > N; own.groups.pop_front()) {
        for (const AsyncCopy& copy : own.groups.front()) *copy.to = copy.from ? *copy.from : uint4{};
    }
}

#endif
