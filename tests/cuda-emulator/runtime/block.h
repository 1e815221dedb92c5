// The block that runs: its threads, what they wait for, and the order in which they are taken.
#pragma once
#include "fiber.h"
#include "runtime.h"
#include <vector>

namespace emu {

enum class State : uint8_t { Fresh, Ready, Running, AtBarrier, InWarp, Done };

struct Thread {
    emu_uint3 index;
    State state;
    Fiber* fiber;
    int vote;      // what it brought to __syncthreads_count and its like
    int syncwarps; // how many __syncwarp it has been through
    bool awaited;  // the kernels before this one
};

// What a thread brought to a warp operation, and what it takes away.
struct Lane {
    uint64_t value, result;
    emu_warp_op op;
    int param, width, line;
};

// Lanes of a warp that named the same mask, and wait until all of it has arrived.
struct Meeting {
    unsigned mask, arrived;
};

struct Warp {
    unsigned alive; // lanes that have not exited
    int count;      // of the meetings
    Meeting meetings[32];
    char order[2]; // what ThreadSanitizer knows its __syncwarp by, every other one
    emu_brought brought[32]; // to emu_together
};

struct Block {
    const emu_kernel* kernel;
    void** parameters;
    int size, alive;
    bool chained; // may begin before the kernel before it has ended
    std::vector<Thread> threads;
    std::vector<Lane> lanes;
    std::vector<Warp> warps;

    // The threads in the order of their turns, and a part of them, whose threads have turns until they all wait: a warp,
    // or if the order is drawn, all.
    std::vector<int> order;
    int turn, part_begin, part_end;
    int current;
    Fiber* fiber; // that of `current`

    int waiting, barrier_line, barriers; // at the barrier; where it stands; passed by now
    int votes_true, votes_all, votes_any;
    char barrier_order[2], began, ended; // what ThreadSanitizer knows them by

    std::vector<Fiber*> idle, finished;

    // Runs all threads of one block to their end.
    void run(emu_uint3 block);
    // In the running thread: lets others run until the thread is ready again.
    void wait();
    void open_barrier();
    // Lets those meetings of a warp go on to which everyone alive has come.
    void settle(int warp);

private:
    static void fiber_body();
    Fiber* take_fiber();
    void make_current(int thread);
    void begin(emu_uint3 block);
    bool find_next();
    bool run_part(int begin, int end);
    void exit_thread();
    void shuffle_order();
    [[noreturn]] void deadlock();
};

// The block that runs on this OS thread; null between kernels.
extern __thread Block* running __attribute__((tls_model("initial-exec")));

// EMU_STRICT: 0 lets undefined warp operations pass, 2 also refuses barriers after an exit.
extern const long strictness;

// EMU_ORDER: 0 takes threads and blocks first to last, 1 last to first, any other number seeds a shuffle of threads.
long thread_order();

} // namespace emu
