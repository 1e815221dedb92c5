// Finds the thread-local variables of a kernel's library, and fills them so that what was never set shows.
#include "shared.h"
#include <algorithm>
#include <link.h>
#include <utility>

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
    for (auto* word = (volatile uint64_t*)begin; (char*)word < end; word++) *word = ~0ull;
}

// The first and the last word of a part that is not as `fill` left it.
std::pair<char*, char*> find_written(char* begin, char* end) {
    auto *first = (const uint64_t*)begin, *last = (const uint64_t*)end;
    while (first < last && *first == ~0ull) first++;
    while (last > first && last[-1] == ~0ull) last--;
    return {(char*)first, (char*)last};
}

} // namespace

Shared::Shared(const emu_kernel* kernel, size_t bytes) : dynamic_bytes(bytes) {
    kernel->touch();
    if (kernel->dynamic) dynamic = kernel->dynamic();
    static const bool wanted = emu_setting("EMU_POISON", 1);
    if (!wanted) return;
    Search search{reinterpret_cast<uintptr_t>(kernel->call), nullptr, 0};
    dl_iterate_phdr(look_at, &search);
    char *begin = search.begin, *end = search.begin + search.bytes;
    if (!dynamic) {
        add(begin, end);
        return;
    }
    watched_end = std::min(dynamic_bytes + watched, emu_dynamic_room);
    add(begin, dynamic);
    add(dynamic, dynamic + watched_end);
    add(dynamic + emu_dynamic_room, end);
}

// Whole words of it.
void Shared::add(char* begin, char* end) {
    begin = (char*)(((uintptr_t)begin + 7) & ~(uintptr_t)7), end = (char*)((uintptr_t)end & ~(uintptr_t)7);
    if (begin < end) parts.push_back({begin, end, end, begin});
}

void Shared::before_block() {
    for (Part& part : parts)
        if (blocks == 0) fill(part.begin, part.end);
        else fill(part.written, part.written_end);
}

void Shared::after_block() {
    for (size_t i = dynamic_bytes; i < watched_end;) {
        // By words where there is a whole one: this is done for every block.
        if (i % 8 == 0 && i + 8 <= watched_end && *(const uint64_t*)(dynamic + i) == ~0ull) {
            i += 8;
            continue;
        }
        if (dynamic[i] != (char)0xFF)
            emu_fail("dynamic shared memory is written at byte %zu; the launch asked for %zu", i, dynamic_bytes);
        i++;
    }
    if (blocks++ % 16 > 1) return;
    for (Part& part : parts) {
        auto [first, last] = find_written(part.begin, part.end);
        if (first == last) continue;
        part.written = std::min(part.written, first), part.written_end = std::max(part.written_end, last);
    }
}

} // namespace emu
