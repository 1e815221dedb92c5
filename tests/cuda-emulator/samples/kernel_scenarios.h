// Scenarios of kernels: blocks that meet, counts, words of CUDA C++, modules, failures.
#pragma once
#include "probing.h"

namespace {

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

void together(int lanes) {
    uint64_t out = device(64 * 4);
    OK(launch(probe("hand_over"), {}, 64, 0, nullptr, out, lanes));
    auto got = download<uint32_t>(out, 64);
    for (uint32_t i = 0; i < 64; i++) expect("a lane's number", got[i], i + 100);
}
void every_half() {
    std::vector<uint16_t> in(1 << 16);
    for (size_t i = 0; i < in.size(); i++) in[i] = (uint16_t)i;
    uint64_t at = upload(in), out = device(4 << 16);
    OK(launch(probe("widen"), {256}, 256, 0, nullptr, out, at));
    auto got = download<float>(out, in.size());
    for (size_t i = 0; i < in.size(); i++) {
        _Float16 half;
        memcpy(&half, &in[i], 2);
        float wanted = half;
        if (memcmp(&got[i], &wanted, 4) && (wanted == wanted || got[i] == got[i]))
            wrong("half %04zx is %g, not %g", i, got[i], wanted);
    }
}

// What cuLaunchKernelEx takes.
struct Attribute {
    int id, padding;
    unsigned value[16];
};
struct Config {
    unsigned grid[3], block[3], dynamic_bytes;
    void* stream;
    Attribute* attributes;
    unsigned number;
};

// With attributes that change nothing.
void attributes() {
    Attribute given[2] = {{8, 0, {1}}, {4, 0, {1, 1, 1}}}; // a priority, and clusters of one block
    Config config{{4, 1, 1}, {256, 1, 1}, 0, new_stream(), given, 2};
    uint64_t buffer = device(bytes);
    uint32_t value = 11;
    int n = count;
    void* parameters[] = {&buffer, &value, &n};
    OK(cuLaunchKernelEx(&config, probe("fill"), parameters, nullptr));
    OK(cuStreamSynchronize(config.stream));
    expect("what is there", download<uint32_t>(buffer, count)[count - 1], 11);
}

// Kernels of a chain, each of which may begin before the one before it has ended.
void chain(int how) {
    Attribute serialization{6, 0, {1}};
    Config config{{4, 1, 1}, {256, 1, 1}, 0, new_stream(), &serialization, 1};
    uint64_t one = upload(std::vector<uint32_t>(count, 1)), a = device(bytes), b = device(bytes), c = device(bytes);
    put_fill(a, 5, config.stream);
    auto add = [&](uint64_t out, uint64_t in, int how) {
        void* parameters[] = {&out, &in, &one, &how};
        OK(cuLaunchKernelEx(&config, probe("add_in_chain"), parameters, nullptr));
    };
    add(b, a, 0);
    add(c, how == 1 ? a : b, how); // early, what the last kernel but one has written
    OK(cuStreamSynchronize(config.stream));
    expect("what is there", download<uint32_t>(c, count)[count - 1], 7);
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

} // namespace
