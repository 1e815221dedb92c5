// Modules and the kernels in them.
#pragma once
#include "driver.h"

namespace emu {

constexpr int shared_opt_in = 232448; // most dynamic shared memory that a kernel may ask for

struct Function {
    const emu_kernel* kernel; // null if no host library has it
    std::string name;
    int most_threads = 1024;
    int most_dynamic = 48 << 10;
};

struct Module {
    std::map<std::string, Function> functions;
    void* library = nullptr;
};

} // namespace emu
