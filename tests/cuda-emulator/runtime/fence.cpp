// __threadfence: nothing to do where one OS thread runs every CUDA thread. traffic.cpp has its own.
#include "runtime.h"

void emu_fence() {}
