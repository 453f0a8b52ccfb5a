// Sums in a fixed order, without atomics: the same bits in every run. References: Backend.column_sums, sum_groups, squares.
#include "common.cuh"

#define LINES 16
#define SUMMANDS 256      // threads of a block of sum_of_squares and add_up

// out[j] = the sum of column j of x (n, m).
// Launch: blocks of 32 columns x LINES threads. A thread adds every LINES-th row, then the lines are added up pairwise.
extern "C" __global__ void column_sums(const REAL* __restrict__ x, long long x_stride, REAL* __restrict__ out, long long n,
                                       long long m)
{
    __shared__ REAL line[LINES][32];
    const long long j = static_cast<long long>(blockIdx.x) * 32 + threadIdx.x;
    REAL sum = 0;
    if (j < m)
        for (long long i = threadIdx.y; i < n; i += LINES)
            sum += x[i * x_stride + j];
    line[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    for (int half = LINES / 2; half; half /= 2) {
        if (threadIdx.y < half)
            line[threadIdx.y][threadIdx.x] += line[threadIdx.y + half][threadIdx.x];
        __syncthreads();
    }
    if (threadIdx.y == 0 && j < m)
        out[j] = line[0][threadIdx.x];
}

// out[i, :] = the sum of the rows order[k] of x, bounds[i] <= k < bounds[i + 1], one after the other.
// Launch: tiles of 32 x 8 threads (common.cuh), n groups of m columns. Each group is one thread's for each column: a group
// is short as a rule, and its rows are added in the order in which the text has them.
extern "C" __global__ void sum_groups(const REAL* __restrict__ x, long long x_stride, const long long* __restrict__ order,
                                      const long long* __restrict__ bounds, REAL* __restrict__ out, long long n, long long m)
{
    const long long first = FIRST_COLUMN;
    FOR_ROWS(i, n) {
        const long long end = bounds[i + 1];
        REAL sum[PER_THREAD];
        for (long long at = bounds[i]; at < end; ++at) {
            const REAL* row = x + order[at] * x_stride + first;
            FOR_COLUMNS(k)
                if (first + 32 * k < m)
                    sum[k] = at == bounds[i] ? row[32 * k] : sum[k] + row[32 * k];
        }
        FOR_COLUMNS(k)
            if (first + 32 * k < m)
                out[i * m + first + 32 * k] = sum[k];
    }
}

// The sum of one number of each thread of a block, added up pairwise; thread 0 has it.
__device__ __forceinline__ double over_the_block(double mine)
{
    __shared__ double part[SUMMANDS];
    part[threadIdx.x] = mine;
    __syncthreads();
    for (int half = SUMMANDS / 2; half; half /= 2) {
        if (threadIdx.x < half)
            part[threadIdx.x] += part[threadIdx.x + half];
        __syncthreads();
    }
    return part[0];
}

// out[b] = the sum of the squares of what block b reads of the n elements of x: a share that depends on n alone.
// Launch: blocks of SUMMANDS threads.
extern "C" __global__ void sum_of_squares(const REAL* __restrict__ x, double* __restrict__ out, long long blocks, long long n)
{
    double sum = 0;
    FOR_ELEMENTS(i, n) {
        const double value = x[i];
        sum += value * value;
    }
    sum = over_the_block(sum);
    if (threadIdx.x == 0)
        out[blockIdx.x] = sum;
}

// out[0] = the sum of n numbers. Launch: one block of SUMMANDS threads.
extern "C" __global__ void add_up(const double* __restrict__ x, double* __restrict__ out, long long n)
{
    double sum = 0;
    FOR_ELEMENTS(i, n)
        sum += x[i];
    sum = over_the_block(sum);
    if (threadIdx.x == 0)
        out[0] = sum;
}
