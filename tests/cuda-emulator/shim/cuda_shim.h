// Force-included before a .cu file that g++ compiles for the host: CUDA's words, in terms of the runtime.
#pragma once
#define EMU_HOST 1
#define __CUDA_ARCH__ 900
#define __CUDACC__ 1
#define __CUDACC_VER_MAJOR__ 13
#define __CUDACC_VER_MINOR__ 0
#define CUDART_VERSION 13000

#include "../runtime/runtime.h"
#include <algorithm>
#include <cmath>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __constant__
#define __managed__
// One copy for each OS thread, and one OS thread runs all blocks in a row: shared by the threads of a block.
#define __shared__ thread_local
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __maxnreg__(...)
#define __cluster_dims__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __grid_constant__

#include "vectors.h"

#define threadIdx emu_thread_index
#define blockIdx emu_block_index
#define blockDim emu_block_size
#define gridDim emu_grid_size
constexpr int warpSize = 32;

#include "synchronize.h"
#include "atomics.h"
#include "intrinsics.h"
