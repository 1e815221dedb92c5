// What a program has said of parts of its allocations. A piece of work is judged by what was said when it was queued:
// so the declarations are never changed while work holds on to them, but copied.
#include "driver.h"

// AddressSanitizer's, if it is there.
extern "C" {
__attribute__((weak)) void __asan_poison_memory_region(const volatile void* begin, size_t bytes);
__attribute__((weak)) void __asan_unpoison_memory_region(const volatile void* begin, size_t bytes);
}

namespace emu {

struct Piece {
    uint64_t end;
    int state;
};

// By where they begin; they do not overlap.
struct Declarations {
    std::map<uint64_t, Piece> pieces;

    // The first piece that ends behind `address`.
    auto behind(uint64_t address) const {
        auto piece = pieces.upper_bound(address);
        if (piece != pieces.begin() && std::prev(piece)->second.end > address) --piece;
        return piece;
    }

    void cut_out(uint64_t begin, uint64_t end) {
        for (auto piece = behind(begin); piece != pieces.end() && piece->first < end;) {
            auto [from, old] = *piece;
            piece = pieces.erase(piece);
            if (from < begin) pieces[from] = {begin, old.state};
            if (old.end > end) pieces[end] = old;
        }
    }
};

std::shared_ptr<const Declarations> declared = std::make_shared<Declarations>();

namespace {

std::shared_ptr<const Declarations> applied = declared;

const char* word(int state) {
    return state == EMU_FREED ? "declared freed" : state == EMU_RED_ZONE ? "a declared red zone" : "never declared";
}

void say(Declarations& declarations, uint64_t begin, uint64_t bytes, int state) {
    declarations.cut_out(begin, begin + bytes);
    if (state != EMU_FORGET) declarations.pieces[begin] = {begin + bytes, state};
}

void change(uint64_t begin, uint64_t bytes, int state) {
    bool held = declared.use_count() > 1 + (declared == applied);
    if (held || declared != applied) {
        auto changed = std::make_shared<Declarations>(*declared);
        say(*changed, begin, bytes, state);
        declared = changed;
        return;
    }
    // No work holds on to it: changed in place.
    say(const_cast<Declarations&>(*declared), begin, bytes, state);
    if (!__asan_poison_memory_region) return;
    if (state == EMU_FREED || state == EMU_RED_ZONE) __asan_poison_memory_region((void*)begin, bytes);
    else __asan_unpoison_memory_region((void*)begin, bytes);
}

// Those of memory that is there: what was given back is AddressSanitizer's own.
template <class F> void each_dead(const Declarations& declarations, F f) {
    for (auto& [begin, piece] : declarations.pieces)
        if (piece.state != EMU_LIVE && allocation_at(begin, piece.end - begin)) f((void*)begin, piece.end - begin);
}

} // namespace

// Whether anything was said of an allocation.
bool is_cut_up(const Declarations& declarations, uint64_t begin, size_t bytes) {
    auto first = declarations.behind(begin);
    return first != declarations.pieces.end() && first->first < begin + bytes;
}

void check_declared(const std::string& what, size_t operand, Range range, const Allocation& of, uint64_t its_begin) {
    if (!is_cut_up(*declared, its_begin, of.bytes)) return;
    uint64_t at = range.begin, end = range.begin + std::max<size_t>(range.bytes, 1);
    for (auto piece = declared->behind(at); at < end; ++piece) {
        bool here = piece != declared->pieces.end() && piece->first <= at;
        if (here && piece->second.state == EMU_LIVE) {
            at = piece->second.end;
            continue;
        }
        if (here)
            emu_fail("%s: operand %zu (%#lx, %zu bytes) touches %#lx in [%#lx, %#lx), which is %s", what.c_str(), operand,
                     range.begin, range.bytes, at, piece->first, piece->second.end, word(piece->second.state));
        emu_fail("%s: operand %zu (%#lx, %zu bytes) touches %#lx, which is %s, in the allocation at %#lx of %zu bytes",
                 what.c_str(), operand, range.begin, range.bytes, at, word(EMU_FORGET), its_begin, of.bytes);
    }
}

void forget_declared(uint64_t begin, size_t bytes) {
    if (!is_cut_up(*declared, begin, bytes)) return;
    change(begin, bytes, EMU_FORGET);
    if (__asan_unpoison_memory_region) __asan_unpoison_memory_region((void*)begin, bytes);
}

emu_window window_of(uint64_t address) {
    uint64_t begin = 0;
    Allocation* allocation = allocation_at(address, 1, &begin);
    if (!allocation) {
        auto above = allocations.upper_bound(address);
        if (above == allocations.begin()) emu_fail("it accesses %#lx, before all device allocations", address);
        auto& [its_begin, below] = *std::prev(above);
        emu_fail("it accesses %#lx, outside of any device allocation: %lu bytes behind the end of that at %#lx of %zu bytes",
                 address, address - its_begin - below.bytes, its_begin, below.bytes);
    }
    if (!is_cut_up(*applied, begin, allocation->bytes)) return {begin, begin + allocation->bytes};
    auto piece = applied->behind(address);
    if (piece == applied->pieces.end() || piece->first > address)
        emu_fail("it accesses %#lx, which is never declared, in the allocation at %#lx of %zu bytes", address, begin,
                 allocation->bytes);
    if (piece->second.state != EMU_LIVE)
        emu_fail("it accesses %#lx in [%#lx, %#lx), which is %s", address, piece->first, piece->second.end,
                 word(piece->second.state));
    return {piece->first, piece->second.end};
}

void apply(const std::shared_ptr<const Declarations>& wanted) {
    if (wanted == applied || !wanted) return;
    if (__asan_poison_memory_region) {
        each_dead(*applied, [](void* begin, size_t bytes) { __asan_unpoison_memory_region(begin, bytes); });
        each_dead(*wanted, [](void* begin, size_t bytes) { __asan_poison_memory_region(begin, bytes); });
    }
    applied = wanted;
}

} // namespace emu

using namespace emu;

extern "C" int emu_declare(uint64_t address, uint64_t bytes, int state) {
    std::lock_guard<std::recursive_mutex> guard(everything);
    if (!bytes || state < EMU_FORGET || state > EMU_RED_ZONE || !is_device(address, bytes)) return 1;
    change(address, bytes, state);
    return 0;
}
