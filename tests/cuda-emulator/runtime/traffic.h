// What the flavour `count` sees of a kernel's memory accesses: see traffic.cpp. Nothing in other flavours.
#pragma once
#include <stdint.h>

namespace emu {

#ifdef EMU_COUNT
void traffic_begins(const char* kernel);
void traffic_of_block(uint64_t number);
void traffic_ends();
#else
inline void traffic_begins(const char*) {}
inline void traffic_of_block(uint64_t) {}
inline void traffic_ends() {}
#endif

} // namespace emu
