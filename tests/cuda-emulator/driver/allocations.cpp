// Device memory, which is the host's, filled with NaN before its first use; and what is known of an address.
#include "memory.h"
#include <sys/mman.h>

namespace emu {

std::map<uint64_t, Allocation> allocations;
std::map<uint64_t, size_t> pinned;
std::set<uint64_t> registered;
size_t used;
const size_t device_bytes = (size_t)emu_setting("EMU_MEM", 4096) << 20;

namespace {

const bool guard_pages = setting("EMU_GUARD", false);

// Large ones are not touched before they are used.
bool is_large(size_t bytes) {
    return bytes >= 64 << 20;
}

size_t up(size_t bytes, size_t to) {
    return (bytes + to - 1) / to * to;
}

// A mapping of its own between two inaccessible pages. With EMU_GUARD its end is, to 16 bytes, that of a page; else its
// begin is that of one.
uint64_t take_mapped(Allocation& allocation) {
    size_t room = up(allocation.bytes, 16), pages = up(room, page);
    allocation.mapped_bytes = pages + 2 * page;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    allocation.mapped = mmap(nullptr, allocation.mapped_bytes, PROT_NONE, flags, -1, 0);
    if (allocation.mapped == MAP_FAILED) return 0;
    char* first = (char*)allocation.mapped + page;
    allocation.blank = is_large(allocation.bytes) && map_blank(first, pages);
    if (!allocation.blank) mprotect(first, pages, PROT_READ | PROT_WRITE);
    return (uint64_t)(guard_pages ? first + pages - room : first);
}

// In the flavour `count` all device memory is in one region, so that an access is seen to be to it. It is not given out
// again until the region is used up, and between two allocations there is a gap.
struct Region {
    size_t bytes = std::max<size_t>(4 * device_bytes, 1 << 30);
    uint64_t begin = 0, next = 0;
    static constexpr size_t alignment = 256;

    Region() {
        void* mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (mapped == MAP_FAILED) emu_fail("no address space for device memory: a smaller EMU_MEM needs less");
        begin = next = (uint64_t)mapped;
        emu_watch_region(begin, bytes, window_of);
    }

    uint64_t take(Allocation& allocation) {
        uint64_t found = place(allocation.bytes, is_large(allocation.bytes) ? page : alignment);
        if (found && is_large(allocation.bytes)) allocation.blank = map_blank((char*)found, up(allocation.bytes, page));
        return found;
    }

    uint64_t place(size_t bytes_wanted, size_t aligned) {
        size_t room = up(bytes_wanted, aligned) + alignment;
        uint64_t at = up(next, aligned);
        if (at + room <= begin + bytes) {
            next = at + room;
            return at;
        }
        at = begin; // the first hole that is large enough
        for (auto& [its_begin, allocation] : allocations) {
            if (at + room <= its_begin) return at;
            at = up(its_begin + allocation.bytes + alignment, aligned);
        }
        return at + room <= begin + bytes ? at : 0;
    }

    void give_back(uint64_t from, size_t room) {
        emu_unwatch(from, room);
        uint64_t first = up(from, page), last = (from + room) / page * page;
        if (first < last) madvise((void*)first, last - first, MADV_DONTNEED);
    }
};

Region& region() {
    static Region all;
    return all;
}

} // namespace

void give_back(uint64_t begin) {
    auto found = allocations.find(begin);
    Allocation& allocation = found->second;
    used -= allocation.bytes;
    forget_declared(begin, allocation.bytes);
    // What is unmapped stays inaccessible and is not given out again: a late access faults.
    if (allocation.mapped_bytes) {
        mprotect(allocation.mapped, allocation.mapped_bytes, PROT_NONE);
        madvise(allocation.mapped, allocation.mapped_bytes, MADV_DONTNEED);
    } else if (emu_watch_region) {
        region().give_back(begin, allocation.bytes);
    } else {
        free(allocation.mapped);
    }
    allocations.erase(found);
}

uint64_t take_memory(size_t bytes, bool for_graph) {
    if (used + bytes > device_bytes) return 0;
    Allocation allocation{bytes};
    allocation.of_graph = for_graph;
    uint64_t begin = 0;
    if (emu_watch_region) begin = region().take(allocation);
    else if (guard_pages || is_large(bytes)) begin = take_mapped(allocation);
    else if (!posix_memalign(&allocation.mapped, 256, bytes)) begin = (uint64_t)allocation.mapped;
    if (!begin) return 0;
    if (!allocation.blank) memset((void*)begin, 0xFF, bytes);
    used += bytes;
    counts.allocations++;
    allocations[begin] = allocation;
    return begin;
}

Allocation* allocation_at(uint64_t begin, size_t bytes, uint64_t* its_begin) {
    auto found = allocations.upper_bound(begin);
    if (found == allocations.begin()) return nullptr;
    --found;
    uint64_t end = found->first + found->second.bytes;
    if (begin > end || bytes > end - begin) return nullptr;
    if (its_begin) *its_begin = found->first;
    return &found->second;
}

bool is_device(uint64_t begin, size_t bytes) {
    Allocation* allocation = allocation_at(begin, bytes);
    return allocation && !allocation->freed;
}

bool is_pinned(const void* begin, size_t bytes) {
    auto found = pinned.upper_bound((uint64_t)begin);
    if (found == pinned.begin()) return false;
    --found;
    return (uint64_t)begin + bytes <= found->first + found->second;
}

void check(const std::string& what, const std::vector<Range>& operands, bool queued) {
    for (size_t i = 0; i < operands.size(); i++) {
        Range range = operands[i];
        if (!range.begin && !range.bytes) continue; // an optional pointer
        uint64_t its_begin = 0;
        Allocation* of = allocation_at(range.begin, range.bytes, &its_begin);
        if (!of && !range.bytes && is_pinned((void*)range.begin, 1)) continue;
        if (!of || (queued && of->freed))
            emu_fail("%s: operand %zu (%#lx, %zu bytes) is %s", what.c_str(), i, range.begin, range.bytes,
                     of ? "freed device memory" : "not inside of a device allocation");
        if (!queued && !of->since.reached())
            emu_fail("%s: operand %zu was allocated in another stream, which nothing waits for", what.c_str(), i);
        if (queued && of->of_graph && !of->live_in_graph)
            emu_fail("%s: operand %zu is of a graph that has not been launched, or was freed", what.c_str(), i);
        if (queued) check_declared(what, i, range, *of, its_begin);
    }
}

} // namespace emu
