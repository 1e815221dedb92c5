// Things that programs do with streams, graphs and memory, right and wrong: `scenarios NAME`. Right ones end with
// status 0. self_test.py knows what has to become of the wrong ones.
#include "cuda_calls.h"
#include <cstring>
#include <map>
#include <thread>

namespace {

constexpr int count = 1024;
constexpr size_t bytes = count * 4;

// Loaded before the scenario begins: a module cannot be while a capture is under way.
void* probe(const char* name) {
    static std::map<std::string, void*> loaded;
    void*& found = loaded[name];
    return found ? found : found = kernel("probes", name);
}

template <class T = uint32_t> T* pinned(size_t size) {
    void* at;
    OK(cuMemHostAlloc(&at, size, 0));
    memset(at, 0, size);
    return (T*)at;
}

void put_fill(uint64_t at, uint32_t value, void* stream) {
    OK(launch(probe("fill"), {count / 256}, 256, 0, stream, at, value, count));
}

void expect(const char* what, uint64_t got, uint64_t wanted) {
    if (got != wanted) wrong("%s is %lu, not %lu", what, (unsigned long)got, (unsigned long)wanted);
}

// --- order

// `a` reads what `b` then overwrites; the host waits for `a` first, so that only a reordering shows a missing wait.
void overwrite(bool waits, bool legacy) {
    void *a = new_stream(legacy ? 0 : 1), *b = legacy ? nullptr : new_stream(), *event = new_event();
    uint64_t buffer = upload(std::vector<uint32_t>(count, 7));
    uint32_t* seen = pinned(bytes);
    OK(cuMemcpyDtoHAsync_v2(seen, buffer, bytes, a));
    OK(cuEventRecord(event, a));
    if (waits) OK(cuStreamWaitEvent(b, event, 0));
    put_fill(buffer, 8, b);
    OK(cuStreamSynchronize(a));
    OK(cuStreamSynchronize(b));
    expect("what was read", seen[count - 1], 7);
    expect("what is there", download<uint32_t>(buffer, count)[0], 8);
}

// `b` frees what `a` still uses.
void free_elsewhere(bool waits) {
    void *a = new_stream(), *b = new_stream(), *event = new_event();
    uint64_t buffer;
    OK(cuMemAllocAsync(&buffer, bytes, a));
    put_fill(buffer, 1, a);
    OK(cuEventRecord(event, a));
    if (waits) OK(cuStreamWaitEvent(b, event, 0));
    OK(cuMemFreeAsync(buffer, b));
    OK(cuStreamSynchronize(a));
    OK(cuStreamSynchronize(b));
}

// `b` uses what `a` allocates.
void allocate_elsewhere(bool waits) {
    void *a = new_stream(), *b = new_stream(), *event = new_event();
    uint64_t buffer;
    OK(cuMemAllocAsync(&buffer, bytes, a));
    OK(cuEventRecord(event, a));
    if (waits) OK(cuStreamWaitEvent(b, event, 0));
    put_fill(buffer, 1, b);
    OK(cuStreamSynchronize(b));
}

// Two branches of a graph, of which one reads what the other wrote.
void branches(bool waits) {
    void *a = new_stream(), *b = new_stream(), *fork = new_event(), *wrote = new_event(), *join = new_event();
    uint64_t buffer = upload(std::vector<uint32_t>(count, 1)), copy = device(bytes);
    OK(cuStreamBeginCapture_v2(a, 1));
    OK(cuEventRecord(fork, a));
    OK(cuStreamWaitEvent(b, fork, 0));
    put_fill(buffer, 5, a);
    OK(cuEventRecord(wrote, a));
    if (waits) OK(cuStreamWaitEvent(b, wrote, 0));
    OK(cuMemcpyDtoDAsync_v2(copy, buffer, bytes, b));
    OK(cuEventRecord(join, b));
    OK(cuStreamWaitEvent(a, join, 0));
    void *graph, *executable;
    OK(cuStreamEndCapture(a, &graph));
    OK(cuGraphInstantiateWithFlags(&executable, graph, 0));
    OK(cuGraphLaunch(executable, a));
    OK(cuStreamSynchronize(a));
    expect("the copy", download<uint32_t>(copy, count)[0], 5);
}

// Pinned memory that is read before the copy to it has ended.
void read_too_early(bool waits) {
    void* stream = new_stream();
    uint64_t buffer = upload(std::vector<uint32_t>(count, 7));
    uint32_t* seen = pinned(bytes);
    OK(cuMemcpyDtoHAsync_v2(seen, buffer, bytes, stream));
    if (waits) OK(cuStreamSynchronize(stream));
    expect("what was read", seen[0], 7);
}

// Threads of the host, each with a stream and memory of its own; one of them uses its default stream.
void threads() {
    std::vector<std::thread> all;
    for (uint32_t number = 0; number < 4; number++)
        all.emplace_back([number] {
            open_device();
            void* stream = number ? new_stream() : (void*)2;
            uint64_t buffer = device(bytes);
            uint32_t* seen = pinned(bytes);
            for (uint32_t i = 0; i < 50; i++) {
                put_fill(buffer, number * 1000 + i, stream);
                OK(cuMemcpyDtoHAsync_v2(seen, buffer, bytes, stream));
                OK(cuStreamSynchronize(stream));
                expect("what a thread reads", seen[i], number * 1000 + i);
            }
        });
    for (auto& thread : all) thread.join();
}

// --- memory

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

// --- between blocks

void between_blocks(int atomically) {
    uint64_t one = upload(std::vector<uint32_t>(1, 0));
    OK(launch(probe("add_to_one"), {8}, 32, 0, nullptr, one, atomically));
    expect("the sum", download<uint32_t>(one, 1)[0], 36);
}
void shifted() {
    uint64_t at = upload(std::vector<uint32_t>(9, 1));
    OK(launch(probe("shift"), {8}, 32, 0, nullptr, at));
    OK(cuCtxSynchronize());
}
void last_block() {
    uint64_t parts = device(bytes), ticket = upload(std::vector<uint32_t>(1, 0)), out = device(4);
    OK(launch(probe("last_block_sums"), {100}, 32, 0, nullptr, parts, ticket, out));
    expect("the sum", download<uint32_t>(out, 1)[0], 5050);
}

// --- counts

void counted(bool traffic) {
    void *stream = new_stream(), *graph, *executable;
    uint64_t a = upload(std::vector<uint32_t>(count, 3)), b = device(bytes);
    OK(cuStreamBeginCapture_v2(stream, 1));
    OK(launch(probe("copy_wide"), {1}, 256, 0, stream, b, a, count / 4));
    OK(cuMemsetD32Async(a, 1, count, stream));
    OK(cuStreamEndCapture(stream, &graph));
    OK(cuGraphInstantiateWithFlags(&executable, graph, 0));
    emu_reset_counters();
    for (int i = 0; i < 2; i++) OK(cuGraphLaunch(executable, stream));
    OK(launch(probe("sum_all"), {1}, 32, 0, stream, b, a, 16));
    OK(cuStreamSynchronize(stream));
    download<uint32_t>(b, 8);
    OK(cuMemFree_v2(b));
    emu_counts c;
    emu_counters(&c);
    expect("launches", c.kernel_launches, 1);
    expect("graph launches", c.graph_launches, 2);
    expect("kernels in graphs", c.graph_kernels, 2);
    expect("launches of copy_wide", emu_launches("copy_wide"), 2);
    expect("memsets", c.memsets, 2);
    expect("memset bytes", c.memset_bytes, 2 * bytes);
    expect("copies to the host", c.dtoh_copies, 1);
    expect("bytes of them", c.dtoh_bytes, 32);
    expect("allocations", c.allocations, 0);
    expect("frees", c.frees, 1);
    expect("stream synchronisations", c.stream_synchronisations, 1);
    emu_traffic copy, sum;
    emu_traffic_of("copy_wide", &copy);
    emu_traffic_of("sum_all", &sum);
    expect("copy_wide read", copy.read_bytes, traffic ? 2 * bytes : 0);
    expect("copy_wide read, unique", copy.unique_read_bytes, traffic ? 2 * bytes : 0);
    expect("copy_wide wrote", copy.written_bytes, traffic ? 2 * bytes : 0);
    expect("sum_all read", sum.read_bytes, traffic ? 32 * 16 * 4 : 0);
    expect("sum_all read, unique", sum.unique_read_bytes, traffic ? 16 * 4 : 0);
    expect("sum_all wrote", sum.unique_written_bytes, traffic ? 32 * 4 : 0);
    expect("all reads", c.read_bytes, copy.read_bytes + sum.read_bytes);
}

void shim_words() {
    std::vector<float> in(64);
    for (int i = 0; i < 64; i++) in[i] = (float)i;
    uint64_t out = upload(std::vector<float>(16)), counts = upload(std::vector<uint32_t>(6)), at = upload(in);
    OK(launch(probe("words"), {}, 32, 32 * 16, nullptr, out, counts, at));
    auto got = download<float>(out, 16);
    const float wanted[16] = {6, -3.5f, 0.75f, 2512, 1, 31, 11, 43, 5, 10.25f, -2.5f, 2, 31, 16, 52, 496};
    for (int i = 0; i < 16; i++)
        if (got[i] != wanted[i]) wrong("word %d is %g, not %g", i, got[i], wanted[i]);
    auto atomics = download<uint32_t>(counts, 6);
    const uint32_t sums[6] = {64, 0, 0, 64, 31, (uint32_t)-31};
    for (int i = 0; i < 6; i++) expect("an atomic", atomics[i], sums[i]);
}

// A module's own variables.
void globals() {
    void* module = module_of("probes");
    uint64_t calls, table, out = device(4);
    size_t size;
    OK(cuModuleGetGlobal_v2(&calls, &size, module, "calls"));
    expect("the size", size, 4);
    OK(cuModuleGetGlobal_v2(&table, &size, module, "table"));
    expect("the size", size, 16);
    RETURNS(500, cuModuleGetGlobal_v2(&table, &size, module, "nothing"));
    uint32_t numbers[4] = {5, 6, 7, 8}, none = 0;
    OK(cuMemcpyHtoD_v2(table, numbers, 16));
    OK(cuMemcpyHtoD_v2(calls, &none, 4));
    for (int i = 0; i < 3; i++) OK(launch(probe("look_up"), {}, 1, 0, nullptr, out, i));
    expect("what it looked up", download<uint32_t>(out, 1)[0], 7);
    expect("its calls", download<uint32_t>(calls, 1)[0], 3);
}

// --- failures

void injected() {
    void* stream = new_stream();
    uint64_t at = device(bytes);
    emu_fail_next("cuMemAlloc_v2", 2, 2);
    uint64_t other = device(16);
    RETURNS(2, cuMemAlloc_v2(&other, 16)); // out of memory: nothing is lost
    other = device(16);
    void* fill = probe("fill");
    emu_fail_next("cuLaunchKernel", 1, 700);
    RETURNS(700, launch(fill, {4}, 256, 0, stream, at, 1u, count));
    RETURNS(700, cuStreamSynchronize(stream));
    RETURNS(700, cuMemAlloc_v2(&other, 16));
    RETURNS(700, cuMemcpyHtoDAsync_v2(at, &other, 8, stream));
    RETURNS(700, cuCtxSynchronize());
    OK(cuDevicePrimaryCtxRelease_v2(0));
    open_device();
    OK(cuCtxSynchronize());
    emu_fail_next("cuStreamSynchronize", 1, 214);
    RETURNS(214, cuStreamSynchronize(stream));
    RETURNS(214, cuMemAlloc_v2(&other, 16));
}

const std::map<std::string, void (*)()> all = {
    {"overwrite", [] { overwrite(true, false); }},
    {"overwrite-unordered", [] { overwrite(false, false); }},
    {"overwrite-legacy", [] { overwrite(false, true); }},
    {"free-elsewhere", [] { free_elsewhere(true); }},
    {"free-elsewhere-unordered", [] { free_elsewhere(false); }},
    {"allocate-elsewhere", [] { allocate_elsewhere(true); }},
    {"allocate-elsewhere-unordered", [] { allocate_elsewhere(false); }},
    {"branches", [] { branches(true); }},
    {"branches-unordered", [] { branches(false); }},
    {"threads", threads},
    {"read-in-time", [] { read_too_early(true); }},
    {"read-too-early", [] { read_too_early(false); }},
    {"arena", arena_right},
    {"freed-pointer", freed_pointer},
    {"freed-read", freed_read},
    {"red-zone-write", red_zone_write},
    {"red-zone-copy", red_zone_copy},
    {"undeclared-memset", undeclared_memset},
    {"out-of-bounds-read", out_of_bounds_read},
    {"out-of-bounds-write", out_of_bounds_write},
    {"use-after-free", use_after_free},
    {"replay-freed", [] { replay_freed(false); }},
    {"replay-declared-freed", [] { replay_freed(true); }},
    {"atomic-blocks", [] { between_blocks(1); }},
    {"racing-blocks", [] { between_blocks(0); }},
    {"shifting-blocks", shifted},
    {"last-block", last_block},
    {"counts", [] { counted(false); }},
    {"counts-of-traffic", [] { counted(true); }},
    {"words", shim_words},
    {"globals", globals},
    {"injected", injected},
};

} // namespace

int main(int, char** arguments) {
    auto found = all.find(arguments[1] ? arguments[1] : "");
    if (found == all.end()) wrong("no such scenario");
    open_device();
    for (const char* name : {"fill", "copy_wide", "sum_all"}) probe(name);
    found->second();
    printf("as expected\n");
}
