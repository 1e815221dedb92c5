// Barriers, fences and warp operations. They pass on their line, which complaints name.
#pragma once

#define __syncthreads() ((void)emu_barrier(__LINE__, EMU_PLAIN, 0))
#define __syncthreads_count(p) emu_barrier(__LINE__, EMU_COUNT_TRUE, !!(p))
#define __syncthreads_and(p) emu_barrier(__LINE__, EMU_ALL_TRUE, !!(p))
#define __syncthreads_or(p) emu_barrier(__LINE__, EMU_ANY_TRUE, !!(p))

inline void __threadfence() { emu_fence(); }
inline void __threadfence_system() { emu_fence(); }
inline void __threadfence_block() {}
inline void __nanosleep(unsigned) {}

#define EMU_LINE int line = __builtin_LINE()

template <class T>
inline T emu_shuffle(emu_warp_op op, unsigned mask, T value, int param, int width, int line) {
    static_assert(sizeof(T) <= 8, "a shuffle moves at most eight bytes");
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof(T));
    bits = emu_warp(op, mask, bits, param, width, line);
    T result;
    memcpy((void*)&result, &bits, sizeof(T));
    return result;
}

template <class T> inline T __shfl_sync(unsigned mask, T value, int lane, int width = 32, EMU_LINE) {
    return emu_shuffle(EMU_SHUFFLE, mask, value, lane, width, line);
}
template <class T> inline T __shfl_up_sync(unsigned mask, T value, int by, int width = 32, EMU_LINE) {
    return emu_shuffle(EMU_SHUFFLE_UP, mask, value, by, width, line);
}
template <class T> inline T __shfl_down_sync(unsigned mask, T value, int by, int width = 32, EMU_LINE) {
    return emu_shuffle(EMU_SHUFFLE_DOWN, mask, value, by, width, line);
}
template <class T> inline T __shfl_xor_sync(unsigned mask, T value, int with, int width = 32, EMU_LINE) {
    return emu_shuffle(EMU_SHUFFLE_XOR, mask, value, with, width, line);
}

// Lanes that bring an Own each, which What turns into what each takes away.
template <class Own, void (*What)(Own* of_lanes)> inline void emu_together(Own& own, EMU_LINE) {
    static_assert(sizeof(Own) == sizeof(emu_brought) && alignof(Own) == alignof(emu_brought), "all that a lane brings");
    emu_together((void (*)(emu_brought*))What, (emu_brought*)&own, line);
}

inline void __syncwarp(unsigned mask = ~0u, EMU_LINE) { emu_warp(EMU_SYNCWARP, mask, 0, 0, 32, line); }
inline unsigned __activemask() { return emu_active(); }
inline unsigned __ballot_sync(unsigned mask, int p, EMU_LINE) {
    return (unsigned)emu_warp(EMU_BALLOT, mask, p != 0, 0, 32, line);
}
inline int __any_sync(unsigned mask, int p, EMU_LINE) { return emu_warp(EMU_BALLOT, mask, p != 0, 0, 32, line) != 0; }
inline int __all_sync(unsigned mask, int p, EMU_LINE) { return emu_warp(EMU_BALLOT, mask, p == 0, 0, 32, line) == 0; }

inline unsigned emu_reduce(emu_warp_op op, unsigned mask, unsigned value, int line) {
    return (unsigned)emu_warp(op, mask, value, 0, 32, line);
}
inline unsigned __reduce_add_sync(unsigned mask, unsigned v, EMU_LINE) { return emu_reduce(EMU_REDUCE_ADD, mask, v, line); }
inline int __reduce_add_sync(unsigned mask, int v, EMU_LINE) { return (int)emu_reduce(EMU_REDUCE_ADD, mask, v, line); }
inline int __reduce_max_sync(unsigned mask, int v, EMU_LINE) { return (int)emu_reduce(EMU_REDUCE_MAX, mask, v, line); }
inline int __reduce_min_sync(unsigned mask, int v, EMU_LINE) { return (int)emu_reduce(EMU_REDUCE_MIN, mask, v, line); }
// The unsigned order is the signed one, of numbers whose first bit is flipped.
inline unsigned __reduce_max_sync(unsigned mask, unsigned v, EMU_LINE) {
    return emu_reduce(EMU_REDUCE_MAX, mask, v ^ 0x80000000u, line) ^ 0x80000000u;
}
inline unsigned __reduce_min_sync(unsigned mask, unsigned v, EMU_LINE) {
    return emu_reduce(EMU_REDUCE_MIN, mask, v ^ 0x80000000u, line) ^ 0x80000000u;
}
inline unsigned __reduce_or_sync(unsigned mask, unsigned v, EMU_LINE) { return emu_reduce(EMU_REDUCE_OR, mask, v, line); }
inline unsigned __reduce_and_sync(unsigned mask, unsigned v, EMU_LINE) { return emu_reduce(EMU_REDUCE_AND, mask, v, line); }

template <class T> inline unsigned __match_any_sync(unsigned mask, T value, EMU_LINE) {
    return emu_shuffle<uint64_t>(EMU_MATCH, mask, (uint64_t)value, 0, 32, line);
}
