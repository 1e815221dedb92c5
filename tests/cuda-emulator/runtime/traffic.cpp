// The flavour `count`: kernels are compiled with -fsanitize=thread, whose callbacks (see callbacks.cpp) come here. Of
// each access to device memory it counts the bytes, checks that they may be accessed, and looks whether another block
// of the same launch has been there, which nothing orders.
//
// Every two bytes of device memory have a cell that says who accessed them in this launch. A cell of an earlier launch
// is as good as empty.
#include "traffic.h"
#include "../emu.h"
#include "accesses.h"
#include "block.h"
#include <map>
#include <string>
#include <sys/mman.h>
#include <unordered_map>
#include <vector>

namespace emu {

uint64_t region, region_bytes;

namespace {

constexpr unsigned many = 0x7fffff; // more than one block

// Blocks are counted from 1; 0 is none.
struct Cell {
    uint64_t launch : 12;
    uint64_t read : 2, written : 2; // which of its bytes
    uint64_t atomically : 1;        // how the writer did it
    uint64_t writer : 23, reader : 24;
};
static_assert(sizeof(Cell) == 8, "a cell is a word");
constexpr unsigned launches_at_most = (1 << 12) - 1;

Cell* cells;
emu_window (*find_window)(uint64_t);

emu_traffic total;
std::map<std::string, emu_traffic> by_kernel;

// The running launch, and the running block of it.
unsigned launch, block;
emu_traffic now;
constexpr int windows_kept = 4;
emu_window windows[windows_kept];
int next_window;

// Blocks that fenced and then used an atomic are before those that use that atomic later, as in "the last block sums
// up what all others wrote".
struct Releases {
    std::unordered_map<unsigned, size_t> place; // of a block, in the order of their releases
};
std::unordered_map<uint64_t, Releases> releases;
struct Acquired {
    const Releases* from;
    size_t count;
};
std::vector<Acquired> acquired;
bool fenced;

// What the kernels have written that may not have ended when a chained kernel begins: all since the last that was not chained.
// A bit each 32 bytes of device memory, and which words of them are not 0.
constexpr int written_shift = 5;
uint64_t* written_in_chain;
std::vector<uint64_t> written_words;

void forget_chain() {
    for (uint64_t word : written_words) written_in_chain[word] = 0;
    written_words.clear();
}

template <class F> inline void each_part(uint64_t place, uint64_t bytes, F f) {
    for (uint64_t part = place >> written_shift; part <= (place + bytes - 1) >> written_shift; part++) f(part / 64, 1ull << part % 64);
}

void write_in_chain(uint64_t place, uint64_t bytes) {
    each_part(place, bytes, [](uint64_t word, uint64_t bit) {
        if (!written_in_chain[word]) written_words.push_back(word);
        written_in_chain[word] |= bit;
    });
}

// Of a thread that has not waited yet.
void check_early(uint64_t place, uint64_t bytes, Access how) {
    const char* did = how == Access::Read ? "reads" : "writes";
    bool theirs = false;
    each_part(place, bytes, [&](uint64_t word, uint64_t bit) { theirs |= (written_in_chain[word] & bit) != 0; });
    if (theirs || how != Access::Read)
        emu_fail("%s %#lx before it has waited for the kernels before it%s", did, region + place,
                 theirs ? ", which write there" : "");
}

bool is_before_us(unsigned other) {
    if (other == many) return !acquired.empty(); // who knows: say nothing
    for (auto& one : acquired) {
        auto found = one.from->place.find(other);
        if (found != one.from->place.end() && found->second < one.count) return true;
    }
    return false;
}

void race(uint64_t address, const char* they, unsigned other, const char* we) {
    if (is_before_us(other)) return;
    std::string who = other == many ? "several blocks" : "block " + std::to_string(other - 1);
    emu_fail("race between blocks at %#lx: %s %s it, block %u %s it, and nothing orders them", address, who.c_str(), they,
             block - 1, we);
}

void look_for_window(uint64_t address, uint64_t bytes) {
    emu_window window = find_window(address);
    windows[next_window] = window;
    next_window = (next_window + 1) % windows_kept;
    while (window.end < address + bytes) window = find_window(window.end);
}

inline void check_window(uint64_t address, uint64_t bytes) {
    for (auto& window : windows)
        if (address >= window.begin && address + bytes <= window.end) return;
    look_for_window(address, bytes);
}

inline Cell* cell_at(uint64_t place) {
    Cell* cell = &cells[place >> 1];
    if (cell->launch != launch) *cell = Cell{launch, 0, 0, 0, 0, 0};
    return cell;
}

// Of two.
inline unsigned number_of(unsigned bytes) {
    return (bytes & 1) + (bytes >> 1);
}

inline void on_read(uint64_t place, unsigned bytes) {
    Cell& cell = *cell_at(place);
    bool known = (cell.read & bytes) == bytes && (cell.reader == block || cell.reader == many);
    if (known && !cell.written) return; // most reads: once more the same
    now.unique_read_bytes += number_of(bytes & ~cell.read);
    if ((cell.written & bytes) && !cell.atomically && cell.writer != block)
        race(region + place, "wrote", cell.writer, "reads");
    if (cell.reader != block) {
        // Of two bytes read by one block each, only the later is remembered.
        bool both = cell.read & bytes;
        cell.reader = both ? many : block, cell.read = both ? cell.read | bytes : bytes;
    }
    cell.read |= bytes;
}

inline void on_write(uint64_t place, unsigned bytes, bool atomically) {
    Cell& cell = *cell_at(place);
    now.unique_written_bytes += number_of(bytes & ~cell.written);
    bool others_wrote = (cell.written & bytes) && cell.writer != block;
    if (others_wrote && !(atomically && cell.atomically)) race(region + place, "wrote", cell.writer, "writes");
    if (!atomically && (cell.read & bytes) && cell.reader != block) race(region + place, "read", cell.reader, "writes");
    if (cell.writer == block) {
        cell.written |= bytes;
        cell.atomically &= atomically;
        return;
    }
    cell.writer = others_wrote && atomically ? many : block;
    cell.written = others_wrote ? cell.written | bytes : bytes;
    cell.atomically = atomically;
}

// Calls f with each cell's place and which of its bytes are meant.
template <class F> inline void each_cell(uint64_t place, uint64_t bytes, F f) {
    uint64_t end = place + bytes;
    if (place & 1) f(place - 1, 2u), place++;
    for (; place + 2 <= end; place += 2) f(place, 3u);
    if (place < end) f(place, 1u);
}

void use_atomic(uint64_t address) {
    auto found = releases.find(address);
    if (found != releases.end()) acquired.push_back({&found->second, found->second.place.size()});
    if (!fenced) return;
    auto& place = releases[address].place;
    place.emplace(block, place.size());
}

} // namespace

void accessed_device(uint64_t place, uint64_t bytes, Access how) {
    if (!launch) return;
    uint64_t address = region + place;
    check_window(address, bytes);
    if (running->chained && !running->threads[running->current].awaited) check_early(place, bytes, how);
    if (how != Access::Write) {
        now.read_bytes += bytes;
        if (how == Access::Read) return each_cell(place, bytes, on_read);
    }
    now.written_bytes += bytes;
    write_in_chain(place, bytes);
    bool atomically = how == Access::Atomic;
    if (atomically) use_atomic(address);
    uint64_t before = now.unique_written_bytes;
    each_cell(place, bytes, [&](uint64_t at, unsigned which) { on_write(at, which, atomically); });
    if (atomically) now.unique_read_bytes += now.unique_written_bytes - before;
}

void traffic_begins(bool chained) {
    static unsigned launches;
    if (!chained) forget_chain();
    if (++launches > launches_at_most) {
        madvise(cells, region_bytes / 2 * sizeof(Cell), MADV_DONTNEED);
        launches = 1;
    }
    launch = launches;
    now = {};
    releases.clear();
    for (auto& window : windows) window = {1, 0};
}

void traffic_of_block(uint64_t number) {
    block = (unsigned)(number % (many - 1)) + 1;
    acquired.clear();
    fenced = false;
}

static void add(emu_traffic& to, const emu_traffic& more) {
    to.launches++;
    to.read_bytes += more.read_bytes, to.written_bytes += more.written_bytes;
    to.unique_read_bytes += more.unique_read_bytes, to.unique_written_bytes += more.unique_written_bytes;
}

void traffic_ends(const char* kernel) {
    add(total, now);
    add(by_kernel[kernel], now);
    launch = 0;
}

} // namespace emu

using namespace emu;

void emu_fence() {
    fenced = true;
}

extern "C" {

void emu_watch_region(uint64_t begin, size_t bytes, emu_window (*find)(uint64_t address)) {
    auto mapped = [](size_t room) {
        void* at = mmap(nullptr, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (at == MAP_FAILED) emu_fail("no address space to count accesses in: a smaller EMU_MEM needs less");
        return at;
    };
    cells = (Cell*)mapped(bytes / 2 * sizeof(Cell));
    written_in_chain = (uint64_t*)mapped((bytes >> written_shift) / 8 + 8);
    region = begin, region_bytes = bytes, find_window = find;
}

void emu_unwatch(uint64_t begin, size_t bytes) {
    constexpr uint64_t page = 4096;
    uint64_t from = (uint64_t)&cells[(begin - region) / 2], to = (uint64_t)&cells[(begin - region + bytes) / 2];
    from = (from + page - 1) / page * page, to = to / page * page;
    if (from < to) madvise((void*)from, to - from, MADV_DONTNEED);
}

void emu_traffic_total(emu_traffic* out) {
    *out = total;
}
void emu_traffic_by_name(const char* kernel, emu_traffic* out) {
    auto found = by_kernel.find(kernel);
    if (found != by_kernel.end()) *out = found->second;
}
void emu_traffic_reset() {
    total = {};
    by_kernel.clear();
}
}
