// Lists the kernels of a file for the driver: included after it by what build.py generates.
#pragma once
#include <utility>

template <auto F> struct emu_thunk;
template <class... A, void (*F)(A...)> struct emu_thunk<F> {
    static constexpr emu_parameter parameters[sizeof...(A) + 1] = {
        {sizeof(A), alignof(A), std::is_pointer<A>::value, std::is_const<std::remove_pointer_t<A>>::value}..., {}};
    template <size_t... I> static void go(void** p, std::index_sequence<I...>) { F(*(std::remove_cv_t<A>*)p[I]...); }
    static void call(void** p) { go(p, std::index_sequence_for<A...>{}); }
};

// Defined in the C file that build.py generates, if the file has dynamic shared memory.
extern "C" char* emu_dynamic() __attribute__((visibility("hidden"), weak));

static thread_local char emu_anchor;
static void* emu_touch() { return &emu_anchor; }

#define EMU_KERNEL(f)                                                                               \
    {#f, emu_thunk<f>::call, emu_thunk<f>::parameters,                                              \
     (int)(sizeof(emu_thunk<f>::parameters) / sizeof(emu_parameter)) - 1, emu_touch, emu_dynamic},
