// Sums in a fixed order, without atomics: the same bits in every run. References: Backend.column_sums, sum_groups.
#include "common.cuh"

#define LINES 16

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
