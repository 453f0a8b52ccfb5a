// Activations dropped in blocks. References: Backend.multiply_groups, multiply_blocks.
//
// y[i, f, r] = x[i, f, r] * factors[group of i, f]: one launch for all groups of samples, one pass, forward and backward.
// What lives of one group is gathered by take_block (take.cu); products that leave out dead blocks: block_products.cu. Launch:
// tiles of 32 x 8 threads (common.cuh) over a matrix (n, m), m = features * rest.
#include "common.cuh"

// Group g has the rows ends[g - 1] .. ends[g] - 1, the last end is n.
extern "C" __global__ void multiply_groups(const REAL* __restrict__ x, const REAL* __restrict__ factors,
                                           const long long* __restrict__ ends, REAL* __restrict__ y, long long groups,
                                           long long features, long long rest, long long n)
{
    const long long m = features * rest;
    const long long first = FIRST_COLUMN;
    long long feature[PER_THREAD];
    FOR_COLUMNS(k)
        feature[k] = (first + 32 * k) / rest;
    FOR_ROWS(i, n) {
        long long low = 0, high = groups - 1;       // the first group that ends above i
        while (low < high) {
            const long long middle = (low + high) / 2;
            if (ends[middle] > i)
                high = middle;
            else
                low = middle + 1;
        }
        const REAL* factor = factors + low * features;
        FOR_COLUMNS(k)
            if (first + 32 * k < m)
                y[i * m + first + 32 * k] = x[i * m + first + 32 * k] * factor[feature[k]];
    }
}

// The same where groups are blocks of `samples`, features live by blocks of `units`, and what lives is a small table.
extern "C" __global__ void multiply_blocks(const REAL* __restrict__ x, const unsigned char* __restrict__ lives,
                                           REAL* __restrict__ y, long long samples, long long units, REAL scale,
                                           long long blocks, long long features, long long rest, long long n)
{
    const long long m = features * rest;
    const long long first = FIRST_COLUMN;
    long long block[PER_THREAD];
    FOR_COLUMNS(k)
        block[k] = (first + 32 * k) / rest / units;
    FOR_ROWS(i, n) {
        const unsigned char* group = lives + i / samples * blocks;
        FOR_COLUMNS(k)
            if (first + 32 * k < m)
                y[i * m + first + 32 * k] = x[i * m + first + 32 * k] * (group[block[k]] ? scale : REAL(0));
    }
}
