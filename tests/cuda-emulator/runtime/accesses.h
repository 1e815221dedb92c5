// What the callbacks of -fsanitize=thread tell the flavour `count`.
#pragma once
#include <stdint.h>

namespace emu {

enum class Access { Read, Write, Atomic };

// Where all device memory is.
extern uint64_t region, region_bytes;

void accessed_device(uint64_t place, uint64_t bytes, Access how);

// Most accesses are to a thread's own variables and to shared memory.
inline void accessed(uint64_t address, uint64_t bytes, Access how) {
    uint64_t place = address - region;
    if (__builtin_expect(place < region_bytes, 0)) accessed_device(place, bytes, how);
}

} // namespace emu
