// Shared memory of a kernel: the thread-local variables of its library. It is filled with NaN before each block, and
// what lies behind the dynamic area is looked at after it.
#pragma once
#include "runtime.h"
#include <vector>

namespace emu {

class Shared {
public:
    Shared(const emu_kernel* kernel, size_t dynamic_bytes);
    void before_block();
    // Complains of writes past the dynamic bytes that the launch asked for.
    void after_block();

private:
    // Of a library with many kernels most is not this one's. After the first block only what is found to be written is
    // filled again, and now and then it is looked for anew.
    struct Part {
        char *begin, *end;
        char *written, *written_end;
    };

    std::vector<Part> parts; // none if EMU_POISON=0
    char* dynamic = nullptr;
    size_t dynamic_bytes, watched_end = 0;
    unsigned blocks = 0;

    void add(char* begin, char* end);
};

} // namespace emu
