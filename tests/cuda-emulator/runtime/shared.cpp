// Finds the thread-local variables of a kernel's library, and fills them so that what was never set shows.
#include "shared.h"
#include <algorithm>
#include <link.h>

namespace emu {
namespace {

constexpr size_t watched = 4096; // bytes behind the dynamic area

struct Search {
    uintptr_t code;
    char* begin;
    size_t bytes;
};

int look_at(dl_phdr_info* library, size_t, void* wanted) {
    auto* search = static_cast<Search*>(wanted);
    size_t bytes = 0;
    bool found = false;
    for (int i = 0; i < library->dlpi_phnum; i++) {
        auto& segment = library->dlpi_phdr[i];
        uintptr_t begin = library->dlpi_addr + segment.p_vaddr;
        if (segment.p_type == PT_TLS) bytes = segment.p_memsz;
        if (segment.p_type == PT_LOAD && search->code >= begin && search->code < begin + segment.p_memsz) found = true;
    }
    if (found && library->dlpi_tls_data) search->begin = static_cast<char*>(library->dlpi_tls_data), search->bytes = bytes;
    return found;
}

// Word by word and volatile: the compiler must not make a memset of it, which sanitizers would look into.
void fill(char* begin, char* end) {
    auto* word = reinterpret_cast<volatile uint64_t*>(((uintptr_t)begin + 7) & ~(uintptr_t)7);
    for (; (char*)(word + 1) <= end; word++) *word = ~0ull;
}

} // namespace

Shared::Shared(const emu_kernel* kernel, size_t bytes) : dynamic_bytes(bytes) {
    kernel->touch();
    if (kernel->dynamic) dynamic = kernel->dynamic();
    static const bool wanted = emu_setting("EMU_POISON", 1);
    if (!wanted) return;
    Search search{reinterpret_cast<uintptr_t>(kernel->call), nullptr, 0};
    dl_iterate_phdr(look_at, &search);
    begin = search.begin, end = search.begin + search.bytes;
}

void Shared::poison() const {
    if (begin == end) return;
    if (!dynamic) return fill(begin, end);
    fill(begin, dynamic);
    fill(dynamic, dynamic + std::min(dynamic_bytes + watched, emu_dynamic_room));
    fill(dynamic + emu_dynamic_room, end);
}

void Shared::inspect() const {
    if (begin == end || !dynamic) return;
    for (size_t i = dynamic_bytes; i < std::min(dynamic_bytes + watched, emu_dynamic_room); i++)
        if (dynamic[i] != (char)0xFF)
            emu_fail("dynamic shared memory is written at byte %zu; the launch asked for %zu", i, dynamic_bytes);
}

} // namespace emu
