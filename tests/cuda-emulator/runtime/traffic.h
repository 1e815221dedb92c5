// What the flavour `count` sees of a kernel's memory accesses: see traffic.cpp. Nothing in other flavours.
#pragma once
#include <stddef.h>
#include <stdint.h>

// Where an address may be accessed: the whole live range around it.
struct emu_window {
    uint64_t begin, end;
};

#ifndef EMU_COUNT
#define EMU_IF_COUNTING __attribute__((weak))
#else
#define EMU_IF_COUNTING
#endif

extern "C" {
// Tells of the region that all device memory is taken from, and how to find the window of an address in it; `find`
// aborts if there is none. To the driver it is null unless the flavour is `count`.
EMU_IF_COUNTING void emu_watch_region(uint64_t begin, size_t bytes, emu_window (*find)(uint64_t address));
// What was seen of an allocation is forgotten.
EMU_IF_COUNTING void emu_unwatch(uint64_t begin, size_t bytes);
}

namespace emu {

#ifdef EMU_COUNT
void traffic_begins(bool chained);
void traffic_of_block(uint64_t number);
void traffic_ends(const char* kernel);
#else
inline void traffic_begins(bool) {}
inline void traffic_of_block(uint64_t) {}
inline void traffic_ends(const char*) {}
#endif

} // namespace emu
