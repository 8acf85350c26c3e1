// The parts of CUDA that lrn.cu uses, for a C++ compiler: the kernel then runs on a CPU, one thread after another.
// This is faithful because its threads share nothing. Only `rsqrtf` is more accurate than on a GPU.
#pragma once
#include <cmath>
#include <cstring>

#define __global__
#define __device__
#define __launch_bounds__(threads)

struct Index {
    unsigned x, y, z;
};
static Index blockIdx, threadIdx;

struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

template <class T> void __stwb(T* to, T value) { memcpy(to, &value, sizeof value); }
static inline float rsqrtf(float value) { return 1 / sqrtf(value); }

#if HALF
static float widen(unsigned short bits) {
    _Float16 value;
    memcpy(&value, &bits, sizeof bits);
    return value;
}
static unsigned short narrow(float wide) {
    const _Float16 value = wide;
    unsigned short bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}
#endif

#include "lrn.cu"

extern "C" void run(const Value* x, int images, Value* y, unsigned from, unsigned to, unsigned rows) {
    for (blockIdx.y = 0; blockIdx.y < rows; ++blockIdx.y)
        for (blockIdx.x = from; blockIdx.x < to; ++blockIdx.x)
            for (threadIdx.x = 0; threadIdx.x < BLOCK; ++threadIdx.x) NAME(x, images, y);
}
