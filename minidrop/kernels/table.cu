// The gradient of a table of which a batch reads some rows, some of them several times. Reference: Backend.table_gradient.
//
// What each row gets is added in the order of the batch's places, without atomics: the same bits in every run. How many
// different rows there are nobody asks: g has a row for every place, so shapes do not depend on what the batch names. Row i of
// g holds the sum where place i is the first that names its row of the table, and zeros elsewhere.
#include "common.cuh"

#define NOWHERE 0x7FFFFFFF

__device__ __forceinline__ int least_of_the_warp(int mine)
{
    for (int step = 16; step; step /= 2) {
        const int other = static_cast<int>(__shfl_xor_sync(0xFFFFFFFFu, mine, step));
        mine = other < mine ? other : mine;
    }
    return mine;
}

// places[ids[i]] = i where no place before i has the same id, the other entries stay as they are; next[i] = the first place
// after i with the same id, -1 where there is none.
// Launch: a warp for each of n places, eight a block. It compares all ids with its own, 32 at a time.
extern "C" __global__ void link_places(const long long* __restrict__ ids, int* __restrict__ places, int* __restrict__ next,
                                       long long n)
{
    const long long i = static_cast<long long>(blockIdx.x) * blockDim.y + threadIdx.y;
    if (i >= n)
        return;         // all threads of the warp
    const long long id = ids[i];
    int before = NOWHERE, after = NOWHERE;
    for (long long j = threadIdx.x; j < i && before == NOWHERE; j += 32)
        if (ids[j] == id)
            before = static_cast<int>(j);
    for (long long j = i + 1 + threadIdx.x; j < n && after == NOWHERE; j += 32)
        if (ids[j] == id)
            after = static_cast<int>(j);
    before = least_of_the_warp(before);
    after = least_of_the_warp(after);
    if (threadIdx.x == 0) {
        next[i] = after == NOWHERE ? -1 : after;
        if (before == NOWHERE)
            places[id] = static_cast<int>(i);
    }
}

// g[i, :] = x[i, :] + x[next[i], :] + ..., one after the other, where places[ids[i]] is i; else 0.  x, g (n, m)
// Launch: tiles of 32 x 8 threads (common.cuh).
extern "C" __global__ void sum_places(const REAL* __restrict__ x, long long x_stride, const long long* __restrict__ ids,
                                      const int* __restrict__ places, const int* __restrict__ next, REAL* __restrict__ g,
                                      long long n, long long m)
{
    const long long first = FIRST_COLUMN;
    FOR_ROWS(i, n) {
        const bool leads = places[ids[i]] == i;
        REAL sum[PER_THREAD];
        FOR_COLUMNS(k)
            sum[k] = leads && first + 32 * k < m ? x[i * x_stride + first + 32 * k] : REAL(0);
        for (int at = leads ? next[i] : -1; at >= 0; at = next[at])
            FOR_COLUMNS(k)
                if (first + 32 * k < m)
                    sum[k] += x[at * x_stride + first + 32 * k];
        FOR_COLUMNS(k)
            if (first + 32 * k < m)
                g[i * m + first + 32 * k] = sum[k];
    }
}
