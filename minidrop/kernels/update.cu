// The solver's update. Reference: Backend.sgd_update.
//
//     history = momentum * history + (rate * g + decay * R(W));   W -= history;   R(W) = sign(W) if l1 else W
//
// g is the compact gradient: it is read where rows and columns are kept, everything else has none, and no dense gradient is
// ever written. At small batches this pass over weights and history is the floor of a step: each is read once and written
// once. Launch: tiles of 32 x 8 threads (common.cuh).
#include "common.cuh"

__device__ __forceinline__ void update(REAL& w, REAL& h, REAL gradient, REAL rate, REAL momentum, REAL decay, int l1)
{
    const REAL weight = w;
    const REAL r = l1 ? REAL((weight > 0) - (weight < 0)) : weight;
    const REAL change = momentum * h + (rate * gradient + decay * r);
    h = change;
    w = weight - change;
}

// All rows of W, history (n, m); rows and cols say where g's row and column of an entry are.
extern "C" __global__ void sgd_update(REAL* __restrict__ W, REAL* __restrict__ history, const REAL* __restrict__ g,
                                      long long g_stride, KEPT(rows), KEPT(cols), VARYING(REAL, rate),
                                      VARYING(REAL, momentum), VARYING(REAL, decay), int l1, long long n, long long m)
{
    READ_KEPT(rows);
    READ_KEPT(cols);
    READ_VARYING(REAL, rate);
    READ_VARYING(REAL, momentum);
    READ_VARYING(REAL, decay);
    const long long first = FIRST_COLUMN;
    int source[PER_THREAD];
    FOR_COLUMNS(k)
        source[k] = first + 32 * k < m ? place(cols, first + 32 * k) : -1;
    FOR_ROWS(i, n) {
        const int row = place(rows, i);
        FOR_COLUMNS(k) {
            const long long at = i * m + first + 32 * k;
            if (first + 32 * k < m)
                update(W[at], history[at], row >= 0 && source[k] >= 0 ? g[row * g_stride + source[k]] : REAL(0), rate,
                       momentum, decay, l1);
        }
    }
}

// Only the given rows of W, history (.., m): row rows(i) has row i of g, i < n. For a gradient in several blocks, each with
// rows of its own. Where g is null these rows have no gradient.
extern "C" __global__ void sgd_update_rows(REAL* __restrict__ W, REAL* __restrict__ history, const REAL* __restrict__ g,
                                           long long g_stride, KEPT(rows), KEPT(cols), VARYING(REAL, rate),
                                           VARYING(REAL, momentum), VARYING(REAL, decay), int l1, long long n, long long m)
{
    READ_KEPT(rows);
    READ_KEPT(cols);
    READ_VARYING(REAL, rate);
    READ_VARYING(REAL, momentum);
    READ_VARYING(REAL, decay);
    const long long first = FIRST_COLUMN;
    int source[PER_THREAD];
    FOR_COLUMNS(k)
        source[k] = g && first + 32 * k < m ? place(cols, first + 32 * k) : -1;
    FOR_ROWS(i, n) {
        const long long row = unit(rows, i);
        FOR_COLUMNS(k) {
            const long long at = row * m + first + 32 * k;
            if (first + 32 * k < m)
                update(W[at], history[at], source[k] >= 0 ? g[i * g_stride + source[k]] : REAL(0), rate, momentum, decay, l1);
        }
    }
}
