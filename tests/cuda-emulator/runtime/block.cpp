// Takes the threads of a block in turn, on one OS thread. A thread that waits leaves its fiber.
#include "block.h"
#include <algorithm>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

__thread emu_uint3 emu_thread_index, emu_block_index, emu_block_size, emu_grid_size;

namespace emu {

__thread Block* running;

const long strictness = emu_setting("EMU_STRICT", 1);

long thread_order() {
    static const long order = emu_setting("EMU_ORDER", 0);
    return order;
}

// What a switch to the thread has to find: itself, and a fiber that goes on with it or begins it.
void Block::make_current(int thread) {
    Thread& next = threads[thread];
    if (next.state == State::Fresh) next.fiber = take_fiber();
    next.state = State::Running;
    current = thread;
    fiber = next.fiber;
    emu_thread_index = next.index;
}

void Block::exit_thread() {
    // Else the kernel could end before the one before it, and a kernel behind it would not wait for that.
    if (chained && !threads[current].awaited) emu_fail("a thread of a chained kernel ends, and has not waited");
    threads[current].state = State::Done;
    alive--;
    int warp = current / 32;
    warps[warp].alive &= ~(1u << (current & 31));
    if (warps[warp].count) settle(warp);
    if (waiting && waiting == alive) {
        if (strictness > 1) emu_fail("line %d: __syncthreads after some threads exited", barrier_line);
        open_barrier();
    }
}

// A fiber runs one CUDA thread after another.
void Block::fiber_body() {
    begun();
    for (;;) {
        Block& block = *running;
        acquire(&block.began);
        block.kernel->call(block.parameters);
        release(&block.ended);
        block.exit_thread();
#ifdef EMU_TSAN
        // Each CUDA thread of a block is a thread of its own to ThreadSanitizer: its fiber rests until the next block.
        block.finished.push_back(block.fiber);
#else
        // On the same stack goes on a thread that has not begun, so that kernels without barriers never switch.
        block.idle.push_back(block.fiber);
        if (block.find_next() && block.threads[block.order[block.turn]].state == State::Fresh) {
            block.make_current(block.order[block.turn++]); // takes the fiber just left
            continue;
        }
#endif
        leave(block.fiber);
    }
}

Fiber* Block::take_fiber() {
    if (idle.empty()) return new_fiber(fiber_body);
    Fiber* taken = idle.back();
    idle.pop_back();
    return taken;
}

// Whether the part has a thread that can run: then `turn` is its.
bool Block::find_next() {
    for (int looked = part_begin; looked < part_end; looked++, turn++) {
        if (turn >= part_end) turn = part_begin;
        State state = threads[order[turn]].state;
        if (state == State::Ready || state == State::Fresh) return true;
    }
    return false;
}

void Block::wait() {
    Fiber* own = fiber;
#if !defined(EMU_TSAN) && !defined(EMU_ASAN)
    if (find_next()) {
        make_current(order[turn++]);
        if (fiber != own) hop(own, fiber);
        return;
    }
#endif
    leave(own);
}

void Block::open_barrier() {
    votes_true = 0, votes_all = 1, votes_any = 0;
    for (auto& thread : threads) {
        if (thread.state != State::AtBarrier) continue;
        votes_true += thread.vote != 0, votes_all &= thread.vote != 0, votes_any |= thread.vote != 0;
        thread.state = State::Ready;
    }
    waiting = 0, barrier_line = 0;
    barriers++;
}

void Block::shuffle_order() {
    static thread_local uint64_t state = thread_order() * 0x9E3779B97F4A7C15ull + 1;
    for (int i = size - 1; i > 0; i--) {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        std::swap(order[i], order[state % (i + 1)]);
    }
}

void Block::deadlock() {
    for (int i = 0; i < size; i++) { // of each warp the first that waits
        const Thread& thread = threads[i];
        if (thread.state == State::Done) continue;
        bool barrier = thread.state == State::AtBarrier;
        fprintf(stderr, "EMU: thread %d waits at %s, line %d\n", i, barrier ? "__syncthreads" : "a warp operation",
                barrier ? barrier_line : lanes[i].line);
        i |= 31;
    }
    emu_fail("deadlock");
}

void Block::begin(emu_uint3 block) {
    idle.insert(idle.end(), finished.begin(), finished.end());
    finished.clear();
    acquire(&ended); // blocks in a row: only races inside of a block are ThreadSanitizer's
    release(&began);
    emu_uint3 index{0, 0, 0};
    for (auto& thread : threads) {
        thread = {index, State::Fresh, nullptr, 0, 0, false};
        if (++index.x < block.x) continue;
        index.x = 0;
        if (++index.y < block.y) continue;
        index.y = 0, index.z++;
    }
    for (int i = 0; i < (int)warps.size(); i++) {
        warps[i].alive = size - i * 32 >= 32 ? ~0u : (1u << (size - i * 32)) - 1;
        warps[i].count = 0;
    }
    alive = size, waiting = 0;
}

bool Block::run_part(int begin, int end) {
    bool moved = false;
    part_begin = turn = begin, part_end = end;
    while (find_next()) {
        make_current(order[turn++]);
        enter(fiber);
        moved = true;
    }
    return moved;
}

void Block::run(emu_uint3 block) {
    begin(block);
    bool drawn = thread_order() > 1;
    while (alive) {
        if (drawn) shuffle_order();
        bool moved = false;
        for (int begin = 0, end; begin < size; begin = end) {
            end = drawn ? size : begin + 1;
            while (end < size && order[end] / 32 == order[begin] / 32) end++;
            moved |= run_part(begin, end);
        }
        if (!moved && alive) deadlock();
    }
}

} // namespace emu

using emu::running;

int emu_barrier(int line, emu_barrier_kind kind, int vote) {
    emu::Block& block = *running;
    if (block.waiting && block.barrier_line != line && emu::strictness)
        emu_fail("divergent __syncthreads: line %d while others wait at line %d", line, block.barrier_line);
    block.barrier_line = line;
    emu::Thread& thread = block.threads[block.current];
    thread.state = emu::State::AtBarrier;
    thread.vote = vote;
    // Two in turn: who is late to leave one barrier must not be ordered by the next.
    char* order = &block.barrier_order[block.barriers & 1];
    emu::release(order);
    if (++block.waiting == block.alive) {
        if (emu::strictness > 1 && block.alive < block.size)
            emu_fail("line %d: __syncthreads after some threads exited", line);
        block.open_barrier();
    }
    block.wait();
    emu::acquire(order);
    switch (kind) {
    case EMU_COUNT_TRUE: return block.votes_true;
    case EMU_ALL_TRUE: return block.votes_all;
    case EMU_ANY_TRUE: return block.votes_any;
    default: return 0;
    }
}

void emu_await() {
    running->threads[running->current].awaited = true;
}

long emu_setting(const char* name, long otherwise) {
    const char* value = getenv(name);
    return value && *value ? atol(value) : otherwise;
}

void emu_fail(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "EMU FAIL");
    if (running) {
        emu_uint3 b = emu_block_index, t = emu_thread_index;
        fprintf(stderr, " in %s block (%u,%u,%u) thread (%u,%u,%u)", running->kernel->name, b.x, b.y, b.z, t.x, t.y, t.z);
    }
    fprintf(stderr, ": ");
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    va_end(arguments);
    abort();
}
