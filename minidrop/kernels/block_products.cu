// C = scale op(A) op(B) + bias where activations are dropped in blocks. Reference: Backend.block_product.
//
// A mask says which blocks of `samples` x `units` of a matrix of activations live; dead ones count as zeros. It lies in device
// memory and nothing else depends on it, neither shapes nor launches. There may be two:
//   a_  of A, which is stored as (samples, units);
//   n_  of what has the same samples, and as units the columns of C: C itself, or with TRANS_A, where samples are summed, B.
// A tile of C walks along the sum in steps and leaves out those in which all is dead; a dead tile of C is only filled.
//
//   forward          y = x W^T      TRANS_A 0, TRANS_B 1   a_: of x    n_: of y
//   input gradient   gx = gy W      TRANS_A 0, TRANS_B 0   a_: of gy   n_: of x
//   weight gradient  gW = gy^T x    TRANS_A 1, TRANS_B 0   a_: of gy   n_: of x
//
// Macros: TRANS_A, TRANS_B (is a matrix stored as its transpose), TILE_M x TILE_N (of C, one thread block), OPERAND: 0 for
// REAL, else FLOAT16 or BFLOAT16, as bits, with sums in float. 16-bit operands are multiplied on tensor cores. Steps are 64
// bytes of the sum; some are on their way to shared memory while one is multiplied. Fast are blocks of which tiles and steps
// are whole parts, and rows that begin on multiples of 16 bytes; all else is right, too. Any size; each sum has one fixed
// order. Launch: 2 TILE_N threads for each tile, in rows of tiles.
#include "common.cuh"
#include "tensor.cuh"

#if OPERAND == 0
typedef REAL Operand;
typedef REAL Sum;
#else
typedef unsigned short Operand;
typedef float Sum;
#endif

#if OPERAND != 0 && !defined(WITHOUT_TENSOR_CORES)
#define ON_TENSOR_CORES HAS_TENSOR_CORES(OPERAND)
#else
#define ON_TENSOR_CORES 0
#endif

constexpr int STEP = 64 / sizeof(Operand);          // of the sum
constexpr int CHUNK = 16 / sizeof(Operand);         // what is copied at once
constexpr int THREADS = 2 * TILE_N;                 // warps of TILE_M / 2 x 32, in two rows
constexpr int PARTS_M = TILE_M / 32, PARTS_N = 4;   // of a warp's share: pieces of 16 x 8
constexpr int STAGE = (TILE_M + TILE_N) * 64;
constexpr int RESIDENT = THREADS == 128 ? 3 : 2;    // blocks that one multiprocessor should hold at least
constexpr int FIT = 48 * 1024 / STAGE, STAGES = FIT < 4 ? FIT : 4;

struct Mask {
    const unsigned char* lives;     // null: everything does
    long long stride;
    int samples, units;

    __device__ __forceinline__ bool at(int sample, int unit) const
    {
        return !lives || lives[sample / samples * stride + unit / units];
    }

    // Whether anything lives of samples first .. last-1, units left .. right-1.
    __device__ __forceinline__ bool any(int first, int last, int left, int right) const
    {
        if (!lives)
            return true;
#pragma unroll 1
        for (int i = first / samples; i <= (last - 1) / samples; ++i)
#pragma unroll 1
            for (int j = left / units; j <= (right - 1) / units; ++j)
                if (lives[i * stride + j])
                    return true;
        return false;
    }
};

__device__ __forceinline__ bool same_block(int first, int last, int size)
{
    return first / size == (last - 1) / size;
}

// Where the block ends that `k` is in; if steps do not end there, where the step ends.
__device__ __forceinline__ int end_of_block(int k, int size)
{
    return size % STEP ? k + STEP : (k / size + 1) * size;
}

// The tile of one operand in shared memory, as rows of chunks in the order of its own memory: rows are entries of the sum where
// `down`, else of C. Chunks of a row change places, so that eight rows' chunks of one column lie in different banks.
template <bool down, int tile>
struct Tile {
    static constexpr int WIDTH = down ? tile / CHUNK : 4;       // chunks in a row

    __device__ static __forceinline__ int place(int row, int chunk)
    {
        return 16 * (row * WIDTH + (chunk ^ (down ? row & 7 : row >> 1 & 3)));
    }

    // Element i of the tile's side of C, k of the step.
    __device__ static __forceinline__ Sum element(const unsigned char* shared, int i, int k)
    {
        const int row = down ? k : i, column = down ? i : k;
        const Operand x = reinterpret_cast<const Operand*>(shared + place(row, column / CHUNK))[column % CHUNK];
#if OPERAND == BFLOAT16
        const unsigned int bits = static_cast<unsigned int>(x) << 16;
        float value;
        memcpy(&value, &bits, 4);
        return value;
#else
        return x;
#endif
    }

    // Bring in the tile that begins at `first` of its side of C, k of the sum, from a matrix of rows x columns. `plain`: all of
    // it is there and lives, in chunks that can be copied. `whole`: all of it that is there lives.
    __device__ static __forceinline__ void load(unsigned char* shared, const Operand* __restrict__ from, long long stride,
                                                int rows, int columns, int first, int k, const Mask& mask, bool plain,
                                                bool whole, bool vectors)
    {
        constexpr int APART = THREADS / WIDTH, CHUNKS = tile * 4 / THREADS;     // a thread's chunks stand in one column
        const int row = threadIdx.x / WIDTH, chunk = threadIdx.x % WIDTH;
        const int top = row + (down ? k : first), left = chunk * CHUNK + (down ? first : k);
        const Operand* source = from + top * stride + left;
        if (plain) {
#pragma unroll
            for (int i = 0; i < CHUNKS; ++i)
                copy_16(shared + place(row + i * APART, chunk), source + i * APART * stride);
            return;
        }
#pragma unroll 1
        for (int i = 0; i < CHUNKS; ++i, source += APART * stride) {
            const int r = top + i * APART;
            int live = r < rows ? min(CHUNK, columns - left) : 0;
            bool mixed = false;
            if (!whole && live > 0) {
                mixed = !same_block(left, left + live, mask.units);
                if (!mixed && !mask.at(r, left))
                    live = 0;
            }
            unsigned char* to = shared + place(row + i * APART, chunk);
            if (live == CHUNK && vectors && !mixed) {
                copy_16(to, source);
            } else {
#pragma unroll 1
                for (int e = 0; e < CHUNK; ++e)
                    reinterpret_cast<Operand*>(to)[e] = e < live && (!mixed || mask.at(r, left + e)) ? source[e] : Operand(0);
            }
        }
    }
};

typedef Tile<TRANS_A, TILE_M> TileA;
typedef Tile<!TRANS_B, TILE_N> TileB;

// sums += the product of two tiles, whose shares for this warp begin at m and n.
__device__ __forceinline__ void multiply(Sum (&sums)[PARTS_M][PARTS_N][4], const unsigned char* a, const unsigned char* b, int m,
                                         int n)
{
    const int lane = threadIdx.x % 32;
#if ON_TENSOR_CORES
#pragma unroll
    for (int k = 0; k < STEP; k += 16) {
        unsigned int left[PARTS_M][4], right[PARTS_N / 2][4];
#pragma unroll
        for (int i = 0; i < PARTS_M; ++i)
            load_fragments<TRANS_A>(left[i], a + (TRANS_A
                ? TileA::place(k + lane % 8 + lane / 16 * 8, (m + 16 * i) / 8 + lane / 8 % 2)
                : TileA::place(m + 16 * i + lane % 16, k / 8 + lane / 16)));
#pragma unroll
        for (int j = 0; j < PARTS_N / 2; ++j)       // two pieces at once
            load_fragments<!TRANS_B>(right[j], b + (TRANS_B
                ? TileB::place(n + 16 * j + lane % 8 + lane / 16 * 8, k / 8 + lane / 8 % 2)
                : TileB::place(k + lane % 16, (n + 16 * j) / 8 + lane / 16)));
#pragma unroll
        for (int i = 0; i < PARTS_M; ++i)
#pragma unroll
            for (int j = 0; j < PARTS_N; ++j)
                multiply_fragments<OPERAND>(sums[i][j], left[i], &right[j / 2][j % 2 * 2]);
    }
#else
#pragma unroll 4
    for (int k = 0; k < STEP; ++k) {
        Sum left[PARTS_M][2], right[PARTS_N][2];
#pragma unroll
        for (int i = 0; i < 2 * PARTS_M; ++i)
            left[i / 2][i % 2] = TileA::element(a, m + 8 * i + lane / 4, k);
#pragma unroll
        for (int j = 0; j < 2 * PARTS_N; ++j)
            right[j / 2][j % 2] = TileB::element(b, n + j / 2 * 8 + lane % 4 * 2 + j % 2, k);
#pragma unroll
        for (int i = 0; i < PARTS_M; ++i)
#pragma unroll
            for (int j = 0; j < PARTS_N; ++j)
#pragma unroll
                for (int e = 0; e < 4; ++e)
                    sums[i][j][e] = fma(left[i][e / 2], right[j][e % 2], sums[i][j][e]);
    }
#endif
}

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) block_product(
    const Operand* __restrict__ a, long long a_stride, const Operand* __restrict__ b, long long b_stride, REAL* __restrict__ c,
    const REAL* __restrict__ bias, const unsigned char* __restrict__ a_lives, long long a_lives_stride, int a_samples,
    int a_units, const unsigned char* __restrict__ n_lives, long long n_lives_stride, int n_samples, int n_units, REAL scale,
    long long m, long long n, long long a_rows, long long a_columns)
{
    alignas(128) __shared__ unsigned char shared[STAGES * STAGE];
    const Mask a_mask = {a_lives, a_lives_stride, a_samples, a_units};
    const Mask n_mask = {n_lives, n_lives_stride, n_samples, n_units};
    const int depth = static_cast<int>(TRANS_A ? a_rows : a_columns), across = static_cast<int>((n + TILE_N - 1) / TILE_N);
    const int top = static_cast<int>(blockIdx.x) / across * TILE_M, bottom = min(static_cast<int>(m), top + TILE_M);
    const int left = static_cast<int>(blockIdx.x) % across * TILE_N, right = min(static_cast<int>(n), left + TILE_N);
    const int warp = threadIdx.x / 32, warp_m = warp % 2 * (TILE_M / 2), warp_n = warp / 2 * 32;
    const bool a_vectors = (reinterpret_cast<unsigned long long>(a) | a_stride * sizeof(Operand)) % 16 == 0;
    const bool b_vectors = (reinterpret_cast<unsigned long long>(b) | b_stride * sizeof(Operand)) % 16 == 0;

    // Where true, a tile of an operand at a step that is not left out lives as a whole.
    const bool a_whole = !a_lives || (TRANS_A ? a_samples % STEP == 0 && same_block(top, bottom, a_units)
                                              : a_units % STEP == 0 && same_block(top, bottom, a_samples));
    const bool b_whole = !TRANS_A || !n_lives || (n_samples % STEP == 0 && same_block(left, right, n_units));

    // The next step at k or after it in which anything lives; what holds for it holds until `until`.
    int until = 0;
    auto next = [&](int k) {
        while (k >= until && k < depth) {
            const int end = min(k + STEP, depth);
            until = depth;
            bool lives = true;
            if (a_lives) {
                lives = TRANS_A ? a_mask.any(k, end, top, bottom) : a_mask.any(top, bottom, k, end);
                until = end_of_block(k, TRANS_A ? a_samples : a_units);
            }
            if (TRANS_A && n_lives) {
                lives = lives && n_mask.any(k, end, left, right);
                until = min(until, end_of_block(k, n_samples));
            }
            if (!lives)
                k = until;
        }
        return k;
    };

    const bool a_plain = a_vectors && a_whole && top + TILE_M <= m, b_plain = b_vectors && b_whole && left + TILE_N <= n;
    auto load = [&](int stage, int k) {
        unsigned char* tiles = shared + stage * STAGE;
        const bool inside = k + STEP <= depth;
        const int columns = static_cast<int>(n);
        TileA::load(tiles, a, a_stride, static_cast<int>(a_rows), static_cast<int>(a_columns), top, k, a_mask, a_plain && inside,
                    a_whole, a_vectors);
        TileB::load(tiles + TILE_M * 64, b, b_stride, TRANS_B ? columns : depth, TRANS_B ? depth : columns, left, k, n_mask,
                    b_plain && inside, b_whole, b_vectors);
    };

    Sum sums[PARTS_M][PARTS_N][4] = {};
    const bool computed = TRANS_A || n_mask.any(top, bottom, left, right);
    int k = computed ? next(0) : depth, loaded = 0, fill = 0, stage = 0;
    for (int done = 1 - STAGES; done < loaded; ++done) {        // below 0 nothing has come yet
        if (done >= 0) {
            wait_for_copies<STAGES - 2>();
            __syncthreads();    // this stage has come, and nobody still reads the one before it, which is filled now
        }
        const bool more = k < depth;
        if (more) {
            load(fill, k);
            ++loaded;
            fill = fill + 1 < STAGES ? fill + 1 : 0;
        }
        end_copies();
        if (done >= 0) {
            const unsigned char* tiles = shared + stage * STAGE;
            multiply(sums, tiles, tiles + TILE_M * 64, warp_m, warp_n);
            stage = stage + 1 < STAGES ? stage + 1 : 0;
        }
        if (more)
            k = next(k + STEP);     // asks global memory while products are under way
    }

    struct alignas(2 * sizeof(REAL)) Pair {
        REAL value[2];
    };
    const int lane = threadIdx.x % 32, first = left + warp_n + lane % 4 * 2;
    const bool pairs = n % 2 == 0 && reinterpret_cast<unsigned long long>(c) % sizeof(Pair) == 0;
    const bool mixed = !TRANS_A && n_lives && computed
                       && !(same_block(top, bottom, n_samples) && same_block(left, right, n_units));
    int block[PARTS_N][2];
    if (mixed)
#pragma unroll
        for (int j = 0; j < 2 * PARTS_N; ++j)
            block[j / 2][j % 2] = min(first + j / 2 * 8 + j % 2, right - 1) / n_units;
#pragma unroll
    for (int i = 0; i < 2 * PARTS_M; ++i) {
        const int row = top + warp_m + 8 * i + lane / 4;
        if (row >= bottom)
            continue;
        const unsigned char* lives = mixed ? n_lives + row / n_samples * n_lives_stride : nullptr;
        REAL* to = c + row * n;
#pragma unroll
        for (int j = 0; j < PARTS_N; ++j) {
            const int column = first + 8 * j;
            Pair y;
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                y.value[e] = scale * static_cast<REAL>(sums[i / 2][j][i % 2 * 2 + e]);
                if (mixed && !lives[block[j][e]])
                    y.value[e] = 0;
                if (bias && column + e < n)
                    y.value[e] += bias[column + e];
            }
            if (pairs && column < n) {
                *reinterpret_cast<Pair*>(to + column) = y;
            } else {
#pragma unroll
                for (int e = 0; e < 2; ++e)
                    if (column + e < n)
                        to[column + e] = y.value[e];
            }
        }
    }
}
