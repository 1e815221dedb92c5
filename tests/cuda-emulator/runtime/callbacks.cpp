// The functions that g++ calls under -fsanitize=thread, for the flavour `count`. Only kernels are compiled so, and one
// OS thread runs them: atomics need not be atomic here, but they have to be carried out.
#include "accesses.h"
#include <string.h>

using emu::Access;

namespace {

void told(const void* at, uint64_t bytes, Access how) {
    emu::accessed((uint64_t)at, bytes, how);
}

template <class T, class F> T update(volatile void* at, F f) {
    told((const void*)at, sizeof(T), Access::Atomic);
    T old = *(volatile T*)at;
    *(volatile T*)at = f(old);
    return old;
}

template <class T> int exchange_if(volatile void* at, void* expected, T wanted) {
    told((const void*)at, sizeof(T), Access::Atomic);
    T old = *(volatile T*)at;
    if (old == *(T*)expected) {
        *(volatile T*)at = wanted;
        return 1;
    }
    *(T*)expected = old;
    return 0;
}

} // namespace

extern "C" {

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
void __tsan_atomic_thread_fence(int) {}
void __tsan_atomic_signal_fence(int) {}

void __tsan_read_range(void* at, unsigned long bytes) { told(at, bytes, Access::Read); }
void __tsan_write_range(void* at, unsigned long bytes) { told(at, bytes, Access::Write); }

#define ACCESSES(N)                                                                 \
    void __tsan_read##N(void* at) { told(at, N, Access::Read); }                    \
    void __tsan_write##N(void* at) { told(at, N, Access::Write); }                  \
    void __tsan_unaligned_read##N(void* at) { told(at, N, Access::Read); }          \
    void __tsan_unaligned_write##N(void* at) { told(at, N, Access::Write); }        \
    void __tsan_volatile_read##N(void* at) { told(at, N, Access::Read); }           \
    void __tsan_volatile_write##N(void* at) { told(at, N, Access::Write); }
ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)

// A load alone is not told: every atomic operation of the shim begins with one, and would count twice. The comparing one
// ends in a strong and a weak form, and in one that returns what it saw.
#define ATOMICS(N, T)                                                                                                   \
    T __tsan_atomic##N##_load(const volatile void* at, int) {                                                           \
        return *(const volatile T*)at;                                                                                  \
    }                                                                                                                   \
    void __tsan_atomic##N##_store(volatile void* at, T v, int) { update<T>(at, [&](T) { return v; }); }                 \
    T __tsan_atomic##N##_exchange(volatile void* at, T v, int) { return update<T>(at, [&](T) { return v; }); }          \
    T __tsan_atomic##N##_fetch_add(volatile void* at, T v, int) { return update<T>(at, [&](T o) { return T(o + v); }); } \
    T __tsan_atomic##N##_fetch_sub(volatile void* at, T v, int) { return update<T>(at, [&](T o) { return T(o - v); }); } \
    T __tsan_atomic##N##_fetch_and(volatile void* at, T v, int) { return update<T>(at, [&](T o) { return T(o & v); }); } \
    T __tsan_atomic##N##_fetch_or(volatile void* at, T v, int) { return update<T>(at, [&](T o) { return T(o | v); }); }  \
    T __tsan_atomic##N##_fetch_xor(volatile void* at, T v, int) { return update<T>(at, [&](T o) { return T(o ^ v); }); } \
    int __tsan_atomic##N##_compare_exchange_strong(volatile void* at, void* e, T v, int, int) {                         \
        return exchange_if<T>(at, e, v);                                                                                \
    }                                                                                                                   \
    int __tsan_atomic##N##_compare_exchange_weak(volatile void* at, void* e, T v, int, int) {                           \
        return exchange_if<T>(at, e, v);                                                                                \
    }                                                                                                                   \
    T __tsan_atomic##N##_compare_exchange_val(volatile void* at, T e, T v, int, int) {                                  \
        exchange_if<T>(at, &e, v);                                                                                      \
        return e;                                                                                                       \
    }
ATOMICS(8, uint8_t)
ATOMICS(16, uint16_t)
ATOMICS(32, uint32_t)
ATOMICS(64, uint64_t)
}
