// Atomic operations, relaxed as CUDA's are. They are atomic to the sanitizers as well.
#pragma once

// T of an argument that must not take part in deduction, so that atomicAdd(&unsigned, 1) is one.
template <class T> struct emu_same { typedef T type; };
template <class T> using emu_same_t = typename emu_same<T>::type;

template <class T> inline bool emu_swap_if(T* at, T& seen, T wanted) {
    // Through an integer of its size: the builtins do not take floating point.
    typedef std::conditional_t<sizeof(T) == 8, uint64_t, std::conditional_t<sizeof(T) == 4, uint32_t, uint16_t>> Bits;
    static_assert(sizeof(T) == sizeof(Bits), "an atomic operation on 2, 4 or 8 bytes");
    Bits from, to;
    memcpy(&from, &seen, sizeof from);
    memcpy(&to, &wanted, sizeof to);
    bool done = __atomic_compare_exchange_n((Bits*)at, &from, to, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    memcpy((void*)&seen, &from, sizeof from);
    return done;
}

template <class T, class F> inline T emu_update(T* at, F f) {
    typedef std::conditional_t<sizeof(T) == 8, uint64_t, std::conditional_t<sizeof(T) == 4, uint32_t, uint16_t>> Bits;
    Bits bits = __atomic_load_n((Bits*)at, __ATOMIC_RELAXED);
    T seen;
    memcpy((void*)&seen, &bits, sizeof seen);
    while (!emu_swap_if(at, seen, f(seen))) {}
    return seen;
}

template <class T> inline T atomicAdd(T* at, emu_same_t<T> v) { return emu_update(at, [&](T o) { return T(o + v); }); }
template <class T> inline T atomicSub(T* at, emu_same_t<T> v) { return emu_update(at, [&](T o) { return T(o - v); }); }
template <class T> inline T atomicMax(T* at, emu_same_t<T> v) { return emu_update(at, [&](T o) { return o > v ? o : v; }); }
template <class T> inline T atomicMin(T* at, emu_same_t<T> v) { return emu_update(at, [&](T o) { return o < v ? o : v; }); }
template <class T> inline T atomicExch(T* at, emu_same_t<T> v) { return emu_update(at, [&](T) { return v; }); }
template <class T> inline T atomicOr(T* at, emu_same_t<T> v) { return emu_update(at, [&](T o) { return T(o | v); }); }
template <class T> inline T atomicAnd(T* at, emu_same_t<T> v) { return emu_update(at, [&](T o) { return T(o & v); }); }
template <class T> inline T atomicXor(T* at, emu_same_t<T> v) { return emu_update(at, [&](T o) { return T(o ^ v); }); }
template <class T> inline T atomicCAS(T* at, emu_same_t<T> expected, emu_same_t<T> wanted) {
    T seen = expected;
    emu_swap_if(at, seen, T(wanted));
    return seen;
}
inline unsigned atomicInc(unsigned* at, unsigned top) {
    return emu_update(at, [&](unsigned o) { return o >= top ? 0u : o + 1; });
}
inline unsigned atomicDec(unsigned* at, unsigned top) {
    return emu_update(at, [&](unsigned o) { return o == 0 || o > top ? top : o - 1; });
}
