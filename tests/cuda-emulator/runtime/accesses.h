// What the callbacks of -fsanitize=thread tell the flavour `count`.
#pragma once
#include <stdint.h>

namespace emu {

enum class Access { Read, Write, Atomic };

void accessed(uint64_t address, uint64_t bytes, Access how);

} // namespace emu
