// Warp operations: lanes that name one mask meet, and go on once all of it that is alive has come.
#include "block.h"
#include <algorithm>

namespace emu {
namespace {

// The lane that `lane` reads in a shuffle, counted in its warp.
int source(const Lane& at, int lane) {
    int first = lane & ~(at.width - 1), last = first + at.width - 1, from = lane;
    switch (at.op) {
    case EMU_SHUFFLE: return first | (at.param & (at.width - 1));
    case EMU_SHUFFLE_UP: from = lane - at.param; return from < first ? lane : from;
    case EMU_SHUFFLE_DOWN: from = lane + at.param; return from > last ? lane : from;
    default: from = lane ^ at.param; return from > last ? lane : from;
    }
}

// What all lanes of a meeting brought, put together.
struct Sums {
    uint64_t ballot = 0;
    uint32_t add = 0, any = 0, all = ~0u;
    int32_t least = INT32_MAX, most = INT32_MIN;

    void take(int lane, uint64_t value) {
        if (value) ballot |= 1ull << lane;
        add += (uint32_t)value, any |= (uint32_t)value, all &= (uint32_t)value;
        least = std::min(least, (int32_t)value), most = std::max(most, (int32_t)value);
    }
};

void shuffle(const Lane* warp, Lane& lane, int number, unsigned present) {
    int from = source(lane, number);
    if (present >> from & 1) {
        lane.result = warp[from].value;
        return;
    }
    if (strictness)
        emu_fail("line %d: shuffle lane %d reads lane %d, which takes no part (mask %08x)", lane.line, number, from,
                 present);
    lane.result = ~0ull;
}

void sum_up(Lane* lanes, unsigned present) {
    Sums sums;
    for (int i = 0; i < 32; i++)
        if (present >> i & 1) sums.take(i, lanes[i].value);
    for (int i = 0; i < 32; i++) {
        if (!(present >> i & 1)) continue;
        Lane& lane = lanes[i];
        switch (lane.op) {
        case EMU_BALLOT: lane.result = sums.ballot; break;
        case EMU_REDUCE_ADD: lane.result = sums.add; break;
        case EMU_REDUCE_MIN: lane.result = (uint32_t)sums.least; break;
        case EMU_REDUCE_MAX: lane.result = (uint32_t)sums.most; break;
        case EMU_REDUCE_OR: lane.result = sums.any; break;
        case EMU_REDUCE_AND: lane.result = sums.all; break;
        default: // EMU_MATCH
            lane.result = 0;
            for (int j = 0; j < 32; j++)
                if ((present >> j & 1) && lanes[j].value == lane.value) lane.result |= 1ull << j;
        }
    }
}

void finish(Block& block, int warp, unsigned present) {
    Lane* lanes = &block.lanes[warp * 32];
    const Lane& first = lanes[__builtin_ctz(present)];
    emu_warp_op op = first.op;
    if (op == EMU_TOGETHER) {
        if (present != ~0u) emu_fail("line %d: only the lanes %08x carry out what takes a whole warp", first.line, present);
        ((void (*)(emu_brought*))first.value)(block.warps[warp].brought);
    } else if (op > EMU_SYNCWARP) {
        sum_up(lanes, present);
    }
    for (unsigned left = present; left; left &= left - 1) {
        int i = __builtin_ctz(left);
        if (op < EMU_SYNCWARP) shuffle(lanes, lanes[i], i, present);
        block.threads[warp * 32 + i].state = State::Ready;
    }
}

} // namespace

void Block::settle(int warp) {
    Warp& of = warps[warp];
    for (int i = 0; i < of.count;) {
        auto [mask, arrived] = of.meetings[i];
        if ((mask & of.alive) != arrived) {
            i++;
            continue;
        }
        if (strictness > 1 && mask != arrived)
            emu_fail("line %d: the mask %08x names lanes that exited (here: %08x)",
                     lanes[warp * 32 + __builtin_ctz(arrived)].line, mask, arrived);
        of.meetings[i] = of.meetings[--of.count];
        finish(*this, warp, arrived);
    }
}

} // namespace emu

using emu::running;

uint64_t emu_warp(emu_warp_op op, unsigned mask, uint64_t value, int param, int width, int line) {
    emu::Block& block = *running;
    int thread = block.current, warp = thread / 32;
    unsigned bit = 1u << (thread & 31);
    if (!(mask & bit)) emu_fail("line %d: the calling lane is not in its own mask %08x", line, mask);
    block.lanes[thread] = {value, 0, op, param, width, line};
    emu::Warp& of = block.warps[warp];
    emu::Meeting *meeting = of.meetings, *end = of.meetings + of.count;
    while (meeting < end && meeting->mask != mask) meeting++;
    if (meeting == end) {
        *meeting = {mask, 0};
        of.count++;
    } else if (emu::strictness) {
        auto& other = block.lanes[warp * 32 + __builtin_ctz(meeting->arrived)];
        if (other.op != op)
            emu_fail("line %d: lanes of one mask meet in different warp operations (the other at line %d)", line,
                     other.line);
    }
    meeting->arrived |= bit;
    emu::Thread& self = block.threads[thread];
    self.state = emu::State::InWarp;
    // Of all warp operations only __syncwarp orders memory.
    char* order = nullptr;
    if (op == EMU_SYNCWARP) {
        order = &of.order[self.syncwarps++ & 1];
        emu::release(order);
    }
    // An arrival lets no other meeting go on but its own.
    if (meeting->arrived == (mask & of.alive)) block.settle(warp);
    block.wait();
    if (order) emu::acquire(order);
    return block.lanes[thread].result;
}

void emu_together(void (*what)(emu_brought* of_lanes), emu_brought* own, int line) {
    int thread = running->current;
    emu_brought& place = running->warps[thread / 32].brought[thread & 31];
    place = *own;
    emu_warp(EMU_TOGETHER, ~0u, (uint64_t)what, 0, 32, line);
    *own = place;
}

unsigned emu_active() {
    return running->warps[running->current / 32].alive;
}
