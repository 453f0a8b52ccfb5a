// Reference: Backend.transposed.
//
// A tile of 32 x 32 goes through shared memory, so that reading and writing both run along rows. The 33rd column keeps the
// threads of a warp, who read the tile down a column, out of each other's memory bank.
#include "common.cuh"

#define TILE 32

// out[j, i] = W[i, j];  W (n, m).  Launch: blocks of 32 x 8 threads, one tile each, or several a whole grid of rows apart.
extern "C" __global__ void transpose(const REAL* __restrict__ W, long long W_stride, REAL* __restrict__ out, long long n,
                                     long long m)
{
    __shared__ REAL tile[TILE][TILE + 1];
    const long long left = static_cast<long long>(blockIdx.x) * TILE;
    for (long long top = static_cast<long long>(blockIdx.y) * TILE; top < n; top += static_cast<long long>(gridDim.y) * TILE) {
        for (int i = threadIdx.y; i < TILE; i += blockDim.y)
            if (top + i < n && left + threadIdx.x < m)
                tile[i][threadIdx.x] = W[(top + i) * W_stride + left + threadIdx.x];
        __syncthreads();
        for (int j = threadIdx.y; j < TILE; j += blockDim.y)
            if (left + j < m && top + threadIdx.x < n)
                out[(left + j) * n + top + threadIdx.x] = tile[threadIdx.x][j];
        __syncthreads();
    }
}
