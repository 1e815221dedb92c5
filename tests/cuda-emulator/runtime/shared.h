// Shared memory of a kernel: the thread-local variables of its library. It is filled with NaN before each block, and
// what lies behind the dynamic area is looked at after it.
#pragma once
#include "runtime.h"

namespace emu {

struct Shared {
    char *begin = nullptr, *end = nullptr; // all of it; nothing if EMU_POISON=0
    char* dynamic = nullptr;
    size_t dynamic_bytes = 0;

    Shared(const emu_kernel* kernel, size_t dynamic_bytes);
    void poison() const;
    // Complains of writes past the dynamic bytes that the launch asked for.
    void inspect() const;
};

} // namespace emu
