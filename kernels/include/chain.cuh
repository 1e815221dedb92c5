// Kernels in a chain. On compute capability 9.x the engine launches its kernels so that each may begin while the one
// before it ends (programmatic dependent launch), which hides what it costs to begin.
//
//   let_next_begin   the next kernel's blocks may start once every block of this one has come here or ended. It needs nothing
//                    of them but room: said at once, it costs nothing.
//   await_previous   waits until the kernels before this one have ended and what they wrote can be seen.
//
// Between the two a kernel may read what no kernel writes, such as weights, and nothing else. Every thread must call
// await_previous, also one that has nothing to do: what comes behind this kernel waits for this kernel alone, and relies on it to
// have waited for all before. scripts/kernel-report reads in the machine code what is loaded before the wait.
#pragma once

#ifdef EMU_HOST
inline void let_next_begin() {}
inline void await_previous() { emu_await(); }
#elif __CUDA_ARCH__ >= 900
__device__ __forceinline__ void let_next_begin() { asm volatile("griddepcontrol.launch_dependents;"); }
__device__ __forceinline__ void await_previous() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
#else
__device__ __forceinline__ void let_next_begin() {}
__device__ __forceinline__ void await_previous() {}
#endif

// For a kernel that has asked for something before. ptxas lets such loads sink below a wait that stands in the same block of
// code (CUDA 13.0; nvdisasm shows it), but moves none past a branch: `never` is one that it cannot decide.
__device__ __forceinline__ void await_previous_behind_loads(bool never) {
#ifndef EMU_HOST
    if (never) __trap();
#endif
    await_previous();
}

// For a kernel that has nothing to do before.
__device__ __forceinline__ void join_chain() {
    let_next_begin();
    await_previous();
}
