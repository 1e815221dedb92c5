// Device memory, which is the host's, filled with NaN before its first use; and pinned memory.
#include "../runtime/traffic.h"
#include "driver.h"
#include <sys/mman.h>

namespace emu {

std::map<uint64_t, Allocation> allocations;

namespace {

std::map<uint64_t, size_t> pinned;
size_t used;
const size_t limit = (size_t)emu_setting("EMU_MEM", 4096) << 20;
const bool guard_pages = setting("EMU_GUARD", false);
constexpr size_t page = 4096;

size_t up(size_t bytes, size_t to) {
    return (bytes + to - 1) / to * to;
}

// Its end is, to 16 bytes, that of a page with an inaccessible one behind it.
uint64_t take_guarded(Allocation& allocation) {
    size_t room = up(allocation.bytes, 16), pages = up(room, page);
    allocation.mapped_bytes = pages + 2 * page;
    allocation.mapped = mmap(nullptr, allocation.mapped_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (allocation.mapped == MAP_FAILED) return 0;
    char* first = (char*)allocation.mapped + page;
    mprotect(first, pages, PROT_READ | PROT_WRITE);
    return (uint64_t)(first + pages - room);
}

// In the flavour `count` all device memory is in one region, so that an access is seen to be to it. It is not given out
// again until the region is used up, and between two allocations there is a gap.
struct Region {
    size_t bytes = std::max<size_t>(4 * limit, 1 << 30);
    uint64_t begin = 0, next = 0;
    static constexpr size_t alignment = 256;

    Region() {
        void* mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (mapped == MAP_FAILED) emu_fail("no address space for device memory: a smaller EMU_MEM needs less");
        begin = next = (uint64_t)mapped;
        emu_watch_region(begin, bytes, window_of);
    }

    uint64_t take(size_t wanted) {
        size_t room = up(wanted, alignment) + alignment;
        if (next + room <= begin + bytes) {
            next += room;
            return next - room;
        }
        uint64_t at = begin; // the first hole that is large enough
        for (auto& [its_begin, allocation] : allocations) {
            if (at + room <= its_begin) return at;
            at = its_begin + up(allocation.bytes, alignment) + alignment;
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

} // namespace

uint64_t take_memory(size_t bytes, bool for_graph) {
    if (used + bytes > limit) return 0;
    Allocation allocation{bytes};
    allocation.of_graph = for_graph;
    uint64_t begin = 0;
    if (emu_watch_region) begin = region().take(bytes);
    else if (guard_pages) begin = take_guarded(allocation);
    else if (!posix_memalign(&allocation.mapped, 256, bytes)) begin = (uint64_t)allocation.mapped;
    if (!begin) return 0;
    memset((void*)begin, 0xFF, bytes);
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
        if (!range.begin) continue; // an optional pointer
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

using namespace emu;

extern "C" {

CUresult cuDeviceTotalMem_v2(size_t* bytes, int) {
    *bytes = limit;
    return OK;
}
CUresult cuMemGetInfo_v2(size_t* unused, size_t* total) {
    CALL;
    *unused = limit - used, *total = limit;
    return OK;
}

CUresult cuMemAlloc_v2(CUdeviceptr* out, size_t bytes) {
    CALL;
    NOT_IN_CAPTURE;
    if (!bytes) return INVALID_VALUE;
    *out = take_memory(bytes, false);
    return *out ? OK : OUT_OF_MEMORY;
}

// Waits for everything, as the real one.
CUresult cuMemFree_v2(CUdeviceptr begin) {
    CALL;
    NOT_IN_CAPTURE;
    if (!begin) return OK;
    auto found = allocations.find(begin);
    if (found == allocations.end() || found->second.freed) return INVALID_VALUE;
    run_all();
    counts.frees++;
    give_back(begin);
    return OK;
}

// In a capture it becomes a node, and the memory is the graph's. candle asks for 0 bytes.
CUresult cuMemAllocAsync(CUdeviceptr* out, size_t bytes, void* handle) {
    CALL;
    Stream* stream = stream_of(handle);
    if (stream->capture && stream->capture->bad) return CAPTURE_INVALIDATED;
    *out = take_memory(bytes ? bytes : 1, stream->capture != nullptr);
    if (!*out) return OUT_OF_MEMORY;
    if (!stream->capture) {
        CUresult code = put(stream, {"allocation", nullptr, {}});
        allocations.at(*out).since = stream->end();
        return code;
    }
    Work work{"graph allocation", nullptr, {}};
    work.allocates = *out;
    return put(stream, std::move(work));
}

CUresult cuMemFreeAsync(CUdeviceptr begin, void* handle) {
    CALL;
    Stream* stream = stream_of(handle);
    auto found = allocations.find(begin);
    if (found == allocations.end() || found->second.freed) return INVALID_VALUE;
    Allocation& allocation = found->second;
    size_t bytes = allocation.bytes;
    auto overwrite = [begin, bytes] { memset((void*)begin, 0xFF, bytes); };
    if (stream->capture) {
        if (!allocation.of_graph) return invalidate(stream->capture, INVALID_VALUE);
        Work work{"graph free", overwrite, {}};
        work.frees = begin;
        return put(stream, std::move(work));
    }
    if (allocation.of_graph) {
        if (!allocation.live_in_graph) return OK;
        allocation.live_in_graph = false;
        return put(stream, {"free of a graph's memory", overwrite, {}});
    }
    allocation.freed = true;
    counts.frees++;
    return put(stream, {"free", [begin] { give_back(begin); }, {}});
}

// The pool of the device: that of cuMemAllocAsync. Its attributes change nothing here.
CUresult cuDeviceGetDefaultMemPool(void** pool, int) {
    CALL;
    *pool = (void*)0x2000;
    return OK;
}
CUresult cuDeviceGetMemPool(void** pool, int) {
    CALL;
    *pool = (void*)0x2000;
    return OK;
}
CUresult cuMemPoolSetAttribute(void*, int, void*) {
    CALL;
    return OK;
}
CUresult cuMemPoolTrimTo(void*, size_t) {
    CALL;
    return OK;
}

CUresult cuMemHostAlloc(void** out, size_t bytes, unsigned) {
    CALL;
    NOT_IN_CAPTURE;
    if (posix_memalign(out, page, bytes)) return OUT_OF_MEMORY;
    pinned[(uint64_t)*out] = bytes;
    return OK;
}
CUresult cuMemFreeHost(void* begin) {
    CALL;
    NOT_IN_CAPTURE;
    if (!pinned.count((uint64_t)begin)) return INVALID_VALUE;
    run_all();
    pinned.erase((uint64_t)begin);
    free(begin);
    return OK;
}
CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr* out, void* host, unsigned) {
    CALL;
    if (!is_pinned(host, 1)) return INVALID_VALUE;
    *out = (CUdeviceptr)host;
    return OK;
}

// The type of memory, its device pointer and its host pointer.
CUresult cuPointerGetAttribute(void* out, int attribute, CUdeviceptr at) {
    CALL;
    bool device = is_device(at, 1), host = is_pinned((void*)at, 1);
    if (!device && !host) return INVALID_VALUE;
    switch (attribute) {
    case 2: *(unsigned*)out = device ? 2 : 1; return OK;
    case 3: *(CUdeviceptr*)out = at; return OK;
    case 4: if (device) return INVALID_VALUE; *(void**)out = (void*)at; return OK;
    default: fprintf(stderr, "EMU: the pointer attribute %d is not emulated\n", attribute); abort();
    }
}
}
