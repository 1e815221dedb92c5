// 2^x as the hardware has it: to about 2 units in the last place of f32, 0 below 2^-126.
#pragma once

#ifndef EMU_HOST

__device__ __forceinline__ float power_of_2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

#else

inline float power_of_2(float x) { return exp2f(x); }

#endif
