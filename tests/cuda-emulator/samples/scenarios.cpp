// Things that programs do with streams, graphs and memory, right and wrong: `scenarios NAME`. Right ones end with
// status 0. self_test.py knows what has to become of the wrong ones.
#include "kernel_scenarios.h"
#include "memory_scenarios.h"
#include "order_scenarios.h"

namespace {

const std::map<std::string, void (*)()> all = {
    {"overwrite", [] { overwrite(true, false); }},
    {"overwrite-unordered", [] { overwrite(false, false); }},
    {"overwrite-legacy", [] { overwrite(false, true); }},
    {"free-elsewhere", [] { free_elsewhere(true); }},
    {"free-elsewhere-unordered", [] { free_elsewhere(false); }},
    {"allocate-elsewhere", [] { allocate_elsewhere(true); }},
    {"allocate-elsewhere-unordered", [] { allocate_elsewhere(false); }},
    {"branches", [] { branches(true); }},
    {"branches-unordered", [] { branches(false); }},
    {"threads", threads},
    {"read-in-time", [] { read_too_early(true); }},
    {"read-too-early", [] { read_too_early(false); }},
    {"arena", arena_right},
    {"freed-pointer", freed_pointer},
    {"freed-read", freed_read},
    {"red-zone-write", red_zone_write},
    {"red-zone-copy", red_zone_copy},
    {"undeclared-memset", undeclared_memset},
    {"out-of-bounds-read", out_of_bounds_read},
    {"out-of-bounds-write", out_of_bounds_write},
    {"use-after-free", use_after_free},
    {"replay-freed", [] { replay_freed(false); }},
    {"replay-declared-freed", [] { replay_freed(true); }},
    {"atomic-blocks", [] { between_blocks(1); }},
    {"racing-blocks", [] { between_blocks(0); }},
    {"shifting-blocks", shifted},
    {"last-block", last_block},
    {"counts", [] { counted(false); }},
    {"counts-of-traffic", [] { counted(true); }},
    {"words", shim_words},
    {"together", [] { together(32); }},
    {"together-without-all", [] { together(31); }},
    {"every-half", every_half},
    {"large", large},
    {"globals", globals},
    {"attributes", attributes},
    {"chain", [] { chain(0); }},
    {"chain-read-early", [] { chain(1); }},
    {"chain-written-early", [] { chain(2); }},
    {"chain-without-wait", [] { chain(3); }},
    {"injected", injected},
};

} // namespace

int main(int, char** arguments) {
    auto found = all.find(arguments[1] ? arguments[1] : "");
    if (found == all.end()) wrong("no such scenario");
    open_device();
    for (const char* name : {"fill", "copy_wide", "sum_all"}) probe(name);
    found->second();
    printf("as expected\n");
}
