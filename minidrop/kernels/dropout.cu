// Random numbers from (key, element) alone. References: Backend.dropout, dropout_gradient, dropout_tile, gaussian.
//
// Philox4x32-10 (Salmon et al. 2011), counter = element / 4, word = element % 4: the same words as on every other device.
// The mask is never stored: the gradient is the same kernel run on gy, which draws it again. That costs ten rounds of integer
// arithmetic and saves writing and reading a byte an element. Launch: one thread a counter, four elements, which are read
// and written in one access of their size where the arrays are aligned for it.
#include "common.cuh"

struct alignas(4 * sizeof(REAL) < 16 ? 4 * sizeof(REAL) : 16) Four {
    REAL value[4];
};

__device__ __forceinline__ void philox(long long counter, unsigned long long key, unsigned int words[4])
{
    unsigned int c0 = static_cast<unsigned int>(counter), c1 = static_cast<unsigned int>(counter >> 32), c2 = 0, c3 = 0;
    unsigned int k0 = static_cast<unsigned int>(key), k1 = static_cast<unsigned int>(key >> 32);
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const unsigned int high0 = __umulhi(0xD2511F53u, c0), low0 = 0xD2511F53u * c0;
        const unsigned int high1 = __umulhi(0xCD9E8D57u, c2), low1 = 0xCD9E8D57u * c2;
        c0 = high1 ^ c1 ^ k0;
        c1 = low1;
        c2 = high0 ^ c3 ^ k1;
        c3 = low0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    words[0] = c0;
    words[1] = c1;
    words[2] = c2;
    words[3] = c3;
}

// y[i] = word(i) >= threshold ? x[i] * scale : 0;  n elements. x and y may be one array.
extern "C" __global__ void dropout(const REAL* x, REAL* y, VARYING(unsigned long long, key), unsigned int threshold,
                                   REAL scale, long long n)
{
    READ_VARYING(unsigned long long, key);
    const bool aligned = (reinterpret_cast<size_t>(x) | reinterpret_cast<size_t>(y)) % alignof(Four) == 0;
    FOR_ELEMENTS(block, (n + 3) / 4) {
        unsigned int words[4];
        philox(block, key, words);
        if (aligned && 4 * block + 4 <= n) {
            Four four = reinterpret_cast<const Four*>(x)[block];
#pragma unroll
            for (int k = 0; k < 4; ++k)
                four.value[k] = words[k] >= threshold ? four.value[k] * scale : REAL(0);
            reinterpret_cast<Four*>(y)[block] = four;
        } else {
#pragma unroll
            for (int k = 0; k < 4; ++k)
                if (4 * block + k < n)
                    y[4 * block + k] = words[k] >= threshold ? x[4 * block + k] * scale : REAL(0);
        }
    }
}

// keep[a, r, c] = word(begin + a stride + r row_stride + c) >= threshold: a part of the mask of a larger array. A row begins
// anywhere among the four words of its first counter, so (columns + 6) / 4 of them reach its end. One thread a counter.
extern "C" __global__ void dropout_tile(unsigned char* __restrict__ keep, VARYING(unsigned long long, key),
                                        unsigned int threshold, long long begin, long long stride,
                                        long long row_stride, long long pairs, long long rows, long long columns)
{
    READ_VARYING(unsigned long long, key);
    const long long counters = (columns + 6) / 4;
    FOR_ELEMENTS(i, pairs * rows * counters) {
        const long long row = i / counters;
        const long long first = begin + row / rows * stride + row % rows * row_stride;
        const long long counter = first / 4 + i % counters;
        unsigned int words[4];
        philox(counter, key, words);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            const long long c = 4 * counter + k - first;
            if (c >= 0 && c < columns)
                keep[row * columns + c] = words[k] >= threshold;
        }
    }
}

// out[2 k], out[2 k + 1] = sqrt(-2 ln u) (cos 2 pi v, sin 2 pi v) with u, v = (word + 1) / 2**32 (Box and Muller 1958).
// Near u = 1 the logarithm is taken of what is missing to 1, or float32 would lose most of its digits.
extern "C" __global__ void gaussian(REAL* __restrict__ out, VARYING(unsigned long long, key), long long n)
{
    READ_VARYING(unsigned long long, key);
    const REAL least = REAL(1) / REAL(4294967296.0);
    FOR_ELEMENTS(block, (n + 3) / 4) {
        unsigned int words[4];
        philox(block, key, words);
#pragma unroll
        for (int k = 0; k < 4; k += 2) {
            const unsigned int u = words[k], missing = 0xFFFFFFFFu - u;
            const REAL logarithm = u >> 31 ? log1p(-(REAL(missing) * least)) : log((REAL(u) + REAL(1)) * least);
            const REAL radius = sqrt(REAL(-2) * logarithm), turn = (REAL(words[k + 1]) + REAL(1)) * least * REAL(2);
            if (4 * block + k < n)
                out[4 * block + k] = radius * cospi(turn);
            if (4 * block + k + 1 < n)
                out[4 * block + k + 1] = radius * sinpi(turn);
        }
    }
}
