// Runs the blocks of a grid, one after another.
#include "block.h"
#include "shared.h"
#include "traffic.h"
#include <algorithm>
#include <numeric>

void emu_run(const emu_kernel* kernel, emu_uint3 grid, emu_uint3 size, size_t dynamic_bytes, void** parameters, bool chained) {
    thread_local emu::Block block;
    int threads = size.x * size.y * size.z, warps = (threads + 31) / 32;
    block.kernel = kernel, block.parameters = parameters, block.size = threads, block.chained = chained;
    block.threads.resize(threads), block.lanes.resize(warps * 32), block.warps.resize(warps), block.order.resize(threads);
    // Grown only here: fibers push to them, and ThreadSanitizer would take growing for a race of the CUDA threads.
    block.idle.reserve(4096), block.finished.reserve(4096);
    std::iota(block.order.begin(), block.order.end(), 0);
    // Backwards under any order but the plain one, so that a block that reads what an earlier one wrote shows.
    bool backwards = emu::thread_order() != 0;
    if (emu::thread_order() == 1) std::reverse(block.order.begin(), block.order.end());
    emu_grid_size = grid, emu_block_size = size;
    emu::Shared shared(kernel, dynamic_bytes);
    emu::running = &block;
    emu::traffic_begins(chained);
    uint64_t blocks = (uint64_t)grid.x * grid.y * grid.z;
    for (uint64_t i = 0; i < blocks; i++) {
        uint64_t number = backwards ? blocks - 1 - i : i;
        uint64_t row = number / grid.x;
        emu_block_index = {unsigned(number % grid.x), unsigned(row % grid.y), unsigned(row / grid.y)};
        emu::traffic_of_block(number);
        shared.before_block();
        block.run(size);
        shared.after_block();
    }
    emu::traffic_ends(kernel->name);
    emu::acquire(&block.ended);
    emu::running = nullptr;
}
