// Fibers on mapped stacks, switched by ten instructions; the sanitizers are told of each switch.
#include "fiber.h"
#include "runtime.h"
#include <sys/mman.h>

#ifdef EMU_TSAN
extern "C" {
void* __tsan_create_fiber(unsigned flags);
void* __tsan_get_current_fiber();
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* what);
void __tsan_release(void* what);
}
#endif
#ifdef EMU_ASAN
extern "C" {
void __sanitizer_start_switch_fiber(void** save, const void* bottom, size_t size);
void __sanitizer_finish_switch_fiber(void* saved, const void** bottom, size_t* size);
}
#endif

// Saves the callee-saved registers and the stack pointer, and takes up another stack that was left so.
asm(R"(.text
.globl emu_switch
.type emu_switch,@function
emu_switch:
 push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15
 mov %rsp,(%rdi)
 mov %rsi,%rsp
 pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp
 ret
.size emu_switch,.-emu_switch
.section .note.GNU-stack,"",@progbits
.text
)");
extern "C" void emu_switch(void** save, void* to);

namespace emu {
namespace {

constexpr size_t stack_bytes = 128 << 10;
constexpr size_t page = 4096;

// Of the scheduler that the running fiber goes back to.
__thread void* scheduler_stack_pointer;
#ifdef EMU_TSAN
__thread void* scheduler_tsan;
// Do not order the two sides of a switch: barriers alone order CUDA threads.
constexpr unsigned no_order = 1;
#endif
#ifdef EMU_ASAN
__thread void* scheduler_fake_stack;
__thread const void* scheduler_stack;
__thread size_t scheduler_stack_bytes;
#endif

} // namespace

Fiber* new_fiber(void (*body)()) {
    void* mapped = mmap(nullptr, page + stack_bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) emu_fail("no memory for the stack of a CUDA thread");
    mprotect(mapped, page, PROT_NONE);
    auto* fiber = new Fiber{nullptr, static_cast<char*>(mapped) + page};
    // Stacks begin at different places of their pages, or all threads' would meet in a few sets of the cache.
    static unsigned made;
    size_t shift = made++ % 61 * 64;
    // As emu_switch leaves a stack: six registers, the address to return to, and a word that aligns it.
    void** top = reinterpret_cast<void**>(fiber->stack + stack_bytes - shift) - 1;
    *top = nullptr;
    *--top = reinterpret_cast<void*>(body);
    for (int i = 0; i < 6; i++) *--top = nullptr;
    fiber->stack_pointer = top;
#ifdef EMU_TSAN
    fiber->tsan = __tsan_create_fiber(0);
#endif
    return fiber;
}

void enter(Fiber* fiber) {
#ifdef EMU_TSAN
    if (!scheduler_tsan) scheduler_tsan = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(fiber->tsan, no_order);
#endif
#ifdef EMU_ASAN
    __sanitizer_start_switch_fiber(&scheduler_fake_stack, fiber->stack, stack_bytes);
#endif
    emu_switch(&scheduler_stack_pointer, fiber->stack_pointer);
#ifdef EMU_ASAN
    __sanitizer_finish_switch_fiber(scheduler_fake_stack, nullptr, nullptr);
#endif
}

void leave(Fiber* fiber) {
#ifdef EMU_TSAN
    __tsan_switch_to_fiber(scheduler_tsan, no_order);
#endif
#ifdef EMU_ASAN
    __sanitizer_start_switch_fiber(&fiber->fake_stack, scheduler_stack, scheduler_stack_bytes);
#endif
    emu_switch(&fiber->stack_pointer, scheduler_stack_pointer);
#ifdef EMU_ASAN
    __sanitizer_finish_switch_fiber(fiber->fake_stack, &scheduler_stack, &scheduler_stack_bytes);
#endif
}

void hop(Fiber* from, Fiber* to) {
    emu_switch(&from->stack_pointer, to->stack_pointer);
}

void begun() {
#ifdef EMU_ASAN
    __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_bytes);
#endif
}

#ifdef EMU_TSAN
void acquire(void* what) { __tsan_acquire(what); }
void release(void* what) { __tsan_release(what); }
#endif

} // namespace emu
