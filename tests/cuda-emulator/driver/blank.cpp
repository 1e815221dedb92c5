// Large memory that is all ones until it is written, and costs nothing before: private mappings of one file of ones.
#include "driver.h"
#include <sys/mman.h>
#include <unistd.h>

namespace emu {
namespace {

constexpr size_t chunk = 64 << 20;

// -1 if there are no such files here.
int ones() {
    static const int file = [] {
        int made = memfd_create("emulated device memory", MFD_CLOEXEC);
        std::vector<char> block(1 << 20, (char)0xFF);
        for (size_t written = 0; made >= 0 && written < chunk; written += block.size())
            if (write(made, block.data(), block.size()) != (ssize_t)block.size()) return -1;
        return made;
    }();
    return file;
}

} // namespace

bool map_blank(char* begin, size_t bytes) {
    if (ones() < 0) return false;
    for (size_t at = 0; at < bytes; at += chunk) {
        void* mapped = mmap(begin + at, std::min(chunk, bytes - at), PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, ones(), 0);
        if (mapped == MAP_FAILED) emu_fail("no address space for device memory");
    }
    return true;
}

} // namespace emu
