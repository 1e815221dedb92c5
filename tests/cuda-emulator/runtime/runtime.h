// What host-compiled kernels, the runtime that runs their threads, and the driver say to each other.
#pragma once
#include <stddef.h>
#include <stdint.h>

struct emu_uint3 {
    unsigned x, y, z;
};

// Where the running CUDA thread is. Initial-exec, since every index computation reads them.
#define EMU_THREAD_LOCAL extern __thread __attribute__((tls_model("initial-exec")))
EMU_THREAD_LOCAL emu_uint3 emu_thread_index, emu_block_index, emu_block_size, emu_grid_size;

struct emu_parameter {
    uint32_t size, align, is_pointer, is_const;
};

// A kernel of a host library. `call` takes pointers to the parameters, as cuLaunchKernel does. `touch` returns an
// address in the calling thread's copy of the library's shared variables, and makes that copy exist. `dynamic` is the
// start of its dynamic shared memory; null if it has none.
struct emu_kernel {
    const char* name;
    void (*call)(void** parameters);
    const emu_parameter* parameters;
    int count;
    void* (*touch)();
    char* (*dynamic)();
};

// Room for dynamic shared memory in each library that has any: what an sm_90 multiprocessor has, and one more page.
constexpr size_t emu_dynamic_room = 233472;

// Before EMU_SYNCWARP those that read one lane, after it those that look at all.
enum emu_warp_op {
    EMU_SHUFFLE, EMU_SHUFFLE_UP, EMU_SHUFFLE_DOWN, EMU_SHUFFLE_XOR, EMU_SYNCWARP,
    EMU_BALLOT, EMU_REDUCE_ADD, EMU_REDUCE_MIN, EMU_REDUCE_MAX, EMU_REDUCE_OR, EMU_REDUCE_AND, EMU_MATCH, EMU_TOGETHER,
};

// What a lane brings to emu_together.
struct alignas(16) emu_brought {
    char bytes[64];
};

enum emu_barrier_kind { EMU_PLAIN, EMU_COUNT_TRUE, EMU_ALL_TRUE, EMU_ANY_TRUE };

extern "C" {
// For kernels: the __syncthreads family, the warp operations, __activemask, __threadfence, and griddepcontrol.wait. `line` is
// told in complaints.
int emu_barrier(int line, emu_barrier_kind kind, int vote);
uint64_t emu_warp(emu_warp_op op, unsigned mask, uint64_t value, int param, int width, int line);
unsigned emu_active();
// An instruction that all 32 lanes of a warp carry out as one: once all have come, `what` is called with what they brought, lane by
// lane, and each goes on with its own. It orders no memory.
void emu_together(void (*what)(emu_brought* of_lanes), emu_brought* own, int line);
void emu_fence();
void emu_await();

// Says what is wrong, in which kernel, block and thread, and aborts.
[[noreturn]] __attribute__((format(printf, 1, 2))) void emu_fail(const char* format, ...);

// Runs a grid to its end on the calling thread. One that is `chained` may begin before those before it have ended: each of
// its threads must wait for them, and until it does, must leave alone what they write.
void emu_run(const emu_kernel* kernel, emu_uint3 grid, emu_uint3 block, size_t dynamic_bytes, void** parameters, bool chained);

// What a switch of the environment is set to.
long emu_setting(const char* name, long otherwise);
}
