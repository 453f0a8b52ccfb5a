// What several kernels share. The loader puts this text where a kernel file includes it, so that the disk cache sees it.
//
// Macros of every file: REAL = float or double. Everything is compiled without contraction to fused multiply-adds
// (--fmad=false): the kernels wait for memory, and results keep the roundings of the plain formula.
#ifndef MINIDROP_COMMON
#define MINIDROP_COMMON

// A number that is given by value, or, where *_at is not null, read from device memory when the kernel runs: a captured
// graph can then be replayed with another one.
#define VARYING(type, name) type name##_value, const type* name##_at
#define READ_VARYING(type, name) const type name = name##_at ? *name##_at : name##_value

// A kept set of an axis (minidrop/kept.py). Without a table it is regular; all of an axis is one run from 0.
//
// Of one whose start stands in device memory the count must hold for every start: the largest there is. Entries past the end
// of the axis then are no entries: unit() says -1, they are read as zeros and written nowhere.
#define KEPT(name) int name##_start, const int* name##_start_at, int name##_step, int name##_width, int name##_total, \
                   const void* name##_table
#define READ_KEPT(name) const Kept name = make_kept(name##_start_at ? *name##_start_at : name##_start, name##_step, \
                                                    name##_width, name##_total, name##_table)

struct Kept {
    int start, step, width, total, skip;
    const void* table;
};

__device__ __forceinline__ Kept make_kept(int start, int step, int width, int total, const void* table)
{
    const Kept kept = {start, step, width, total, start < 0 ? -start : 0, table};
    return kept;
}

// The j-th kept entry, -1 where there is none; a table holds the entries (long long). The branch on it is the same for all
// threads of a launch.
__device__ __forceinline__ long long unit(const Kept& kept, long long j)
{
    if (kept.table)
        return static_cast<const long long*>(kept.table)[j];
    const int i = static_cast<int>(j) + kept.skip, run = i / kept.width;
    const int u = kept.start + run * kept.step + (i - run * kept.width);
    return u < kept.total ? u : -1;
}

// The inverse: which kept entry is u, -1 where it is dropped; a table holds that for every u (int).
__device__ __forceinline__ int place(const Kept& kept, long long u)
{
    if (kept.table)
        return static_cast<const int*>(kept.table)[u];
    const int t = static_cast<int>(u) - kept.start;
    if (t < 0)
        return -1;
    const int run = t / kept.step, inside = t - run * kept.step;
    return inside < kept.width ? run * kept.width + inside - kept.skip : -1;
}

// A matrix is walked in tiles: a block of 32 x 8 threads, each with PER_THREAD columns 32 apart, so that a warp always reads
// neighbours and what depends on the column is computed once for all rows that a thread walks through.
#define PER_THREAD 4
#define FIRST_COLUMN (static_cast<long long>(blockIdx.x) * 32 * PER_THREAD + threadIdx.x)
#define FOR_ROWS(i, n) _Pragma("unroll 1") for (long long i = static_cast<long long>(blockIdx.y) * blockDim.y + threadIdx.y; i < (n); \
                                             i += static_cast<long long>(gridDim.y) * blockDim.y)
#define FOR_COLUMNS(k) _Pragma("unroll") for (int k = 0; k < PER_THREAD; ++k)

// A vector: one thread an element, or several a whole grid apart.
#define FOR_ELEMENTS(i, n) for (long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; i < (n); \
                                i += static_cast<long long>(gridDim.x) * blockDim.x)

#endif
