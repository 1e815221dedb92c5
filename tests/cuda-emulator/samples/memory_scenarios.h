// Scenarios of memory: parts of an allocation, what is freed, what is large.
#pragma once
#include "probing.h"

namespace {

struct Arena {
    uint64_t at = upload(std::vector<uint32_t>(count, 1)), out = device(bytes);
    void* stream = new_stream();

    Arena() { // [live, 256 bytes][red zone, 64][live, 256]
        expect("declare", emu_declare(at, 256, EMU_LIVE), 0);
        expect("declare", emu_declare(at + 256, 64, EMU_RED_ZONE), 0);
        expect("declare", emu_declare(at + 320, 256, EMU_LIVE), 0);
        expect("declare of what is outside", emu_declare(at + bytes - 8, 16, EMU_LIVE), 1);
    }
    void poke(uint64_t out, long write_at, uint64_t in, long read_at) {
        OK(launch(probe("poke"), {}, 32, 0, stream, out, write_at, in, read_at));
        OK(cuStreamSynchronize(stream));
    }
};

void arena_right() {
    Arena arena;
    arena.poke(arena.at, 63, arena.at + 320, 63);
    OK(cuMemcpyDtoDAsync_v2(arena.at, arena.at + 320, 256, arena.stream));
    // What was queued before is judged by what was declared then.
    OK(launch(probe("poke"), {}, 32, 0, arena.stream, arena.at, 0L, arena.at + 320, 0L));
    OK(cuMemsetD32Async(arena.at, 3, 64, arena.stream));
    expect("declare", emu_declare(arena.at, 256, EMU_FREED), 0);
    OK(cuStreamSynchronize(arena.stream));
    expect("declare", emu_declare(arena.at, 256, EMU_LIVE), 0);
    arena.poke(arena.at, 0, arena.at, 1);
    expect("declare", emu_declare(arena.at, bytes, EMU_FORGET), 0);
    arena.poke(arena.at, 70, arena.at, 200);
}
void freed_pointer() {
    Arena arena;
    emu_declare(arena.at, 256, EMU_FREED);
    arena.poke(arena.out, 0, arena.at, 0);
}
void freed_read() { // by an offset: only what looks at accesses can tell
    Arena arena;
    emu_declare(arena.at, 256, EMU_FREED);
    arena.poke(arena.out, 0, arena.at + 320, -80);
}
void red_zone_write() {
    Arena arena;
    arena.poke(arena.at, 64, arena.at + 320, 0);
}
void red_zone_copy() {
    Arena arena;
    OK(cuMemcpyHtoDAsync_v2(arena.at, std::vector<char>(300).data(), 300, arena.stream));
}
void undeclared_memset() {
    Arena arena;
    OK(cuMemsetD8Async(arena.at + 1024, 0, 16, arena.stream));
}
void out_of_bounds_read() {
    Arena arena;
    arena.poke(arena.out, 0, arena.out, count);
}
void out_of_bounds_write() {
    Arena arena;
    arena.poke(arena.out, count, arena.out, 0);
}
void use_after_free() {
    uint64_t buffer = device(bytes);
    OK(cuMemFree_v2(buffer));
    put_fill(buffer, 1, new_stream());
}

// A graph is launched again after its memory was freed: by the allocator, or by declaration.
void replay_freed(bool declared) {
    void *stream = new_stream(), *graph, *executable;
    uint64_t buffer = device(bytes);
    emu_declare(buffer, bytes, EMU_LIVE);
    OK(cuStreamBeginCapture_v2(stream, 1));
    put_fill(buffer, 5, stream);
    OK(cuStreamEndCapture(stream, &graph));
    OK(cuGraphInstantiateWithFlags(&executable, graph, 0));
    OK(cuGraphLaunch(executable, stream));
    OK(cuStreamSynchronize(stream));
    if (declared) emu_declare(buffer, bytes, EMU_FREED);
    else OK(cuMemFree_v2(buffer));
    OK(cuGraphLaunch(executable, stream));
    OK(cuStreamSynchronize(stream));
}

// Large memory costs nothing until it is used, and is NaN before.
void large() {
    constexpr size_t huge = 3ull << 30;
    uint64_t at = device(huge);
    uint32_t last;
    OK(cuMemcpyDtoH_v2(&last, at + huge - 4, 4));
    expect("the last word", last, 0xffffffff);
    put_fill(at + huge - bytes, 9, nullptr);
    OK(cuMemcpyDtoH_v2(&last, at + huge - 4, 4));
    expect("the last word", last, 9);
    uint64_t other;
    RETURNS(2, cuMemAlloc_v2(&other, huge));
    OK(cuMemFree_v2(at));
    other = device(huge);
    OK(cuMemcpyDtoH_v2(&last, other + huge - 4, 4));
    expect("the last word of another", last, 0xffffffff);
}

} // namespace
