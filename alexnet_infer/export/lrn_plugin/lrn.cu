// Local response normalisation in the paper's form (section 3.3), of x [images, CHANNELS, PIXELS] into y of that shape:
//
//   y_i = x_i / (K + ALPHA * sum of x_j^2 over the SIZE channels j nearest to i in i's column) ^ BETA
//
// A thread walks down RUN channels at VECTOR adjacent pixels with the window in registers, so that each value is read
// once (except in the SIZE / 2 channels beyond either end of its run). The squares of the window are summed again for
// each channel: a running sum would lose small squares beside large ones.
//
// kernel.py defines all constants:
//   NAME                 the entry point
//   HALF                 1: values are IEEE half. Arithmetic is float: squares of values of 256 or more overflow half
//   CHANNELS, COLUMN     number of channels, in total and per column
//   PIXELS               height * width of a map
//   SIZE, ALPHA, BETA, K as above
//   ROOTS                1: BETA is 0.75, computed with square roots
//   VECTOR               divides PIXELS, so that all loads and stores are aligned
//   RUN, STEP            channels that a thread writes, and channels that it reads at once
//   BLOCK                threads per block
//
// Grid: x over the pixels of all images / VECTOR, y over columns and their runs. Parameters are in TensorRT's order:
// inputs, scalars, outputs.

#if HALF
typedef unsigned short Value;
#ifdef __CUDACC__  // NVRTC has no cuda_fp16.h; a C++ build of this file defines its own conversions
static __device__ float widen(Value bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}
static __device__ Value narrow(float value) {
    Value bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
#endif
#else
typedef float Value;
static __device__ float widen(Value value) { return value; }
static __device__ Value narrow(float value) { return value; }
#endif

struct alignas(VECTOR * sizeof(Value)) Pack {
    Value of[VECTOR];
};

// With intrinsics, because compilers for compute capabilities before 10.0 store the values of a Pack one at a time.
static __device__ void store(Value* to, const Pack& pack) {
    const Value* v = pack.of;
#if VECTOR == 1
    *to = v[0];
#elif !HALF && VECTOR == 2
    __stwb((float2*)to, float2{v[0], v[1]});
#elif !HALF
    __stwb((float4*)to, float4{v[0], v[1], v[2], v[3]});
#else
    const auto two = [v](int i) { return (unsigned)v[i] | (unsigned)v[i + 1] << 16; };
#if VECTOR == 2
    __stwb((unsigned*)to, two(0));
#elif VECTOR == 4
    __stwb((uint2*)to, uint2{two(0), two(2)});
#else
    __stwb((uint4*)to, uint4{two(0), two(2), two(4), two(6)});
#endif
#endif
}

// d ^ -BETA, for d > 0; 0 where d is infinite.
static __device__ float power(float d) {
#if ROOTS
    const float root = rsqrtf(d);
    return root * sqrtf(root);
#else
    return powf(d, -(float)(BETA));
#endif
}

extern "C" __global__ void __launch_bounds__(BLOCK)
NAME(const Value* __restrict__ x, const int images, Value* __restrict__ y) {
    constexpr int REACH = SIZE / 2;
    constexpr int PACKS = PIXELS / VECTOR;
    constexpr int RUNS = (COLUMN + RUN - 1) / RUN;

    const long long pack = (long long)blockIdx.x * BLOCK + threadIdx.x;
    if (pack >= (long long)images * PACKS) return;
    const int low = (int)blockIdx.y / RUNS * COLUMN, high = low + COLUMN;
    const int first = low + (int)blockIdx.y % RUNS * RUN;
    const int end = first + RUN < high ? first + RUN : high;
    const long long start = pack / PACKS * CHANNELS * PIXELS + pack % PACKS * VECTOR;

    float window[STEP + 2 * REACH][VECTOR];  // at c: channels c - REACH to c + STEP + REACH - 1
    const auto load = [&](int at, int channel) {
        Pack values = {};
        if (channel >= low && channel < high) values = *(const Pack*)(x + start + (long long)channel * PIXELS);
#pragma unroll
        for (int v = 0; v < VECTOR; ++v) window[at][v] = widen(values.of[v]);
    };

#pragma unroll
    for (int i = 0; i < 2 * REACH; ++i) load(i, first - REACH + i);
#pragma unroll 1
    for (int c = first; c < end; c += STEP) {
#pragma unroll
        for (int s = 0; s < STEP; ++s) load(2 * REACH + s, c + REACH + s);
#pragma unroll
        for (int s = 0; s < STEP; ++s) {
            if (c + s >= end) break;
            Pack values;
#pragma unroll
            for (int v = 0; v < VECTOR; ++v) {
                float sum = 0;
#pragma unroll
                for (int w = 0; w < SIZE; ++w) sum += window[s + w][v] * window[s + w][v];
                values.of[v] = narrow(window[s + REACH][v] * power((float)(K) + (float)(ALPHA)*sum));
            }
            store(y + start + (long long)(c + s) * PIXELS, values);
        }
#pragma unroll
        for (int i = 0; i < 2 * REACH; ++i)
#pragma unroll
            for (int v = 0; v < VECTOR; ++v) window[i][v] = window[i + STEP][v];
    }
}
