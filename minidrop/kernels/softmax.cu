// Softmax and cross-entropy of rows of scores. References: Backend.cross_entropy, cross_entropy_gradient.
//
// ROW_THREADS threads work on a row: 32 (eight rows a block, no shared memory) for few classes, 256 (one row a block) for
// thousands. The largest score and the sum of exponentials are found together in one pass, a second one writes the
// probabilities: the scores, the largest array of a language model, are read twice (the second time mostly from the cache)
// and one array of their size is written. What is summed in which order depends on the shape alone.
#include "common.cuh"

#define LOWEST (-REAL(1) / REAL(0))      // minus infinity; NVRTC has no header with a name for it

struct Running {
    REAL largest, sum;      // sum of exp(x - largest)
};

__device__ __forceinline__ Running joined(Running a, Running b)
{
    const REAL largest = a.largest > b.largest ? a.largest : b.largest;
    // An empty part has a largest of -inf, of which no difference may be taken.
    const Running both = {largest, (a.sum == 0 ? REAL(0) : a.sum * exp(a.largest - largest))
                                   + (b.sum == 0 ? REAL(0) : b.sum * exp(b.largest - largest))};
    return both;
}

__device__ __forceinline__ Running over_the_row(Running mine)
{
    for (int step = 16; step; step /= 2) {
        const Running other = {__shfl_xor_sync(0xFFFFFFFFu, mine.largest, step), __shfl_xor_sync(0xFFFFFFFFu, mine.sum, step)};
        // Both lanes of a pair join in the same order, so that they get the same sum.
        mine = threadIdx.x & step ? joined(other, mine) : joined(mine, other);
    }
#if ROW_THREADS > 32
    __shared__ Running of_warp[ROW_THREADS / 32];
    if (threadIdx.x % 32 == 0)
        of_warp[threadIdx.x / 32] = mine;
    __syncthreads();
    mine = of_warp[0];
    for (int warp = 1; warp < ROW_THREADS / 32; ++warp)
        mine = joined(mine, of_warp[warp]);
#endif
    return mine;
}

// p[i, :] = softmax(x[i, :]);  logarithm[i] = ln max(p[i, label[i]], smallest).  x, p (n, m), which may be one array.
// Launch: blocks of ROW_THREADS x (256 / ROW_THREADS) threads, one line of threads a row.
extern "C" __global__ void cross_entropy(const REAL* x, long long x_stride, const long long* __restrict__ label, REAL* p,
                                         REAL* __restrict__ logarithm, REAL smallest, long long n, long long m)
{
    const long long i = static_cast<long long>(blockIdx.x) * blockDim.y + threadIdx.y;
    if (i >= n)
        return;         // all threads of the row, and so of its warps
    Running row = {LOWEST, 0};
    for (long long j = threadIdx.x; j < m; j += ROW_THREADS) {
        const REAL score = x[i * x_stride + j];
        if (score > row.largest) {
            row.sum = row.sum * exp(row.largest - score) + exp(score - score);      // NaN of an infinity: it must be noticed
            row.largest = score;
        } else if (score != LOWEST)
            row.sum += exp(score - row.largest);
    }
    row = over_the_row(row);
    for (long long j = threadIdx.x; j < m; j += ROW_THREADS) {
        const REAL probability = exp(x[i * x_stride + j] - row.largest) / row.sum;
        p[i * m + j] = probability;
        if (j == label[i])
            logarithm[i] = log(probability < smallest ? smallest : probability);
    }
}

// p[i, j] = (p[i, j] - (j == label[i])) * factor[i * factor_step], in place.  Launch: tiles of 32 x 8 threads (common.cuh).
extern "C" __global__ void cross_entropy_gradient(REAL* __restrict__ p, const long long* __restrict__ label,
                                                  const REAL* __restrict__ factor, int factor_step, long long n, long long m)
{
    const long long first = FIRST_COLUMN;
    FOR_ROWS(i, n) {
        const long long right = label[i] - first;
        const REAL by = factor[i * factor_step];
        FOR_COLUMNS(k)
            if (first + 32 * k < m) {
                REAL& entry = p[i * m + first + 32 * k];
                entry = (right == 32 * k ? entry - REAL(1) : entry) * by;
            }
    }
}
