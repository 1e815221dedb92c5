// Scenarios of what is ordered: streams, events, graphs, threads of the host.
#pragma once
#include "probing.h"
#include <thread>

namespace {

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

} // namespace
