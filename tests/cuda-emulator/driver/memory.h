// Device and pinned memory, as allocations.cpp keeps it.
#pragma once
#include "driver.h"

namespace emu {

constexpr size_t page = 4096;

extern const size_t device_bytes; // EMU_MEM
extern size_t used;

// Back to the host: the device has got to where it was freed.
void give_back(uint64_t begin);

extern std::map<uint64_t, size_t> pinned;
extern std::set<uint64_t> registered; // of them, what the program allocated itself

} // namespace emu
