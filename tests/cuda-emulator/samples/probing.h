// What the scenarios share: a buffer's size, the kernels of probes.cu, and what is expected.
#pragma once
#include "cuda_calls.h"
#include <cstring>
#include <map>

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

} // namespace
