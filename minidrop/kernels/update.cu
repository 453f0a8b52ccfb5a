// The solver's update. Reference: Backend.sgd_update.
//
//     history = momentum * history + (rate * g + decay * R(W));   W -= history;   R(W) = sign(W) if l1 else W
//
// g is the compact gradient: it is read where rows and columns are kept, everything else has none, and no dense gradient is
// ever written. At small batches this pass over weights and history is the floor of a step: each is read once and written
// once. Launch: tiles of 32 x 8 threads (common.cuh).
//
// rate = lr * grad_scale, and decay is the weight decay times lr, of numbers rounded to REAL first: here, not by the caller,
// because lr and grad_scale may stand in device memory. Where *trouble is not 0 nothing changes: a captured step that met
// something wrong is found out later, and done again.
#include "common.cuh"

#define READ_STEP                                                                                                        \
    READ_VARYING(double, lr);                                                                                            \
    READ_VARYING(double, grad_scale);                                                                                    \
    READ_VARYING(REAL, momentum);                                                                                        \
    READ_VARYING(REAL, decay);                                                                                           \
    const Step step = {REAL(lr) * REAL(grad_scale), momentum, REAL(lr) * decay, l1}

struct Step {
    REAL rate, momentum, decay;
    int l1;
};

// Update what one thread has of a row of W and history, `left` of its columns from `first` on. source[k] is where their
// gradient stands in the row g, -1 where it has none. All is read before the first of it is used, so that a warp waits for
// memory once and not four times.
__device__ __forceinline__ void update(REAL* __restrict__ W, REAL* __restrict__ history, const REAL* __restrict__ g,
                                       const int source[PER_THREAD], long long left, const Step& step)
{
    REAL w[PER_THREAD], h[PER_THREAD], gradient[PER_THREAD];
    FOR_COLUMNS(k) {
        w[k] = 32 * k < left ? W[32 * k] : REAL(0);
        h[k] = 32 * k < left ? history[32 * k] : REAL(0);
        gradient[k] = source[k] >= 0 ? g[source[k]] : REAL(0);
    }
    FOR_COLUMNS(k) {
        const REAL r = step.l1 && w[k] == w[k] ? REAL((w[k] > 0) - (w[k] < 0)) : w[k];      // NaN stays NaN
        const REAL change = step.momentum * h[k] + (step.rate * gradient[k] + step.decay * r);
        if (32 * k < left) {
            history[32 * k] = change;
            W[32 * k] = w[k] - change;
        }
    }
}

// All rows of W, history (n, m); rows and cols say where g's row and column of an entry are.
extern "C" __global__ void sgd_update(REAL* __restrict__ W, REAL* __restrict__ history, const REAL* __restrict__ g,
                                      long long g_stride, KEPT(rows), KEPT(cols), VARYING(double, lr),
                                      VARYING(double, grad_scale), VARYING(REAL, momentum), VARYING(REAL, decay),
                                      int l1, const int* trouble, long long n, long long m)
{
    if (trouble && *trouble)
        return;
    READ_KEPT(rows);
    READ_KEPT(cols);
    READ_STEP;
    const int none[PER_THREAD] = {-1, -1, -1, -1};
    const long long first = FIRST_COLUMN;
    int source[PER_THREAD];
    OF_COLUMNS(place, cols, m, source);
    FOR_ROWS(i, n) {
        const int row = place(rows, i);
        const long long at = i * m + first;
        if (row >= 0)
            update(W + at, history + at, g + row * g_stride, source, m - first, step);
        else
            update(W + at, history + at, g, none, m - first, step);
    }
}

// Only the given rows of W, history (.., m): row rows(i) has row i of g, i < n. For a gradient in several blocks, each with
// rows of its own. Where g is null these rows have no gradient.
extern "C" __global__ void sgd_update_rows(REAL* __restrict__ W, REAL* __restrict__ history, const REAL* __restrict__ g,
                                           long long g_stride, KEPT(rows), KEPT(cols), VARYING(double, lr),
                                           VARYING(double, grad_scale), VARYING(REAL, momentum), VARYING(REAL, decay),
                                           int l1, const int* trouble, long long n, long long m)
{
    if (trouble && *trouble)
        return;
    READ_KEPT(rows);
    READ_KEPT(cols);
    READ_STEP;
    const long long first = FIRST_COLUMN;
    int source[PER_THREAD];
    OF_COLUMNS(place, cols, m, source);
    FOR_COLUMNS(k)
        source[k] = g ? source[k] : -1;
    FOR_ROWS(i, n) {
        const long long row = unit(rows, i), at = row * m + first;
        if (row < 0)
            continue;
        update(W + at, history + at, g + i * g_stride, source, m - first, step);
    }
}

// W[rows(i), cols(j)] -= lr * grad_scale * g[i, j]: the update without momentum and decay. What has no gradient is not
// touched. g (n, m); places as in add_block (take.cu).
extern "C" __global__ void subtract_block(REAL* __restrict__ W, long long W_stride, const REAL* __restrict__ g,
                                          long long g_stride, KEPT(rows), KEPT(cols), const int* __restrict__ places,
                                          VARYING(double, lr), VARYING(double, grad_scale), const int* trouble, long long n,
                                          long long m)
{
    if (trouble && *trouble)
        return;
    READ_KEPT(rows);
    READ_KEPT(cols);
    READ_VARYING(double, lr);
    READ_VARYING(double, grad_scale);
    const REAL rate = REAL(lr) * REAL(grad_scale);
    const long long first = FIRST_COLUMN;
    long long target[PER_THREAD];
    OF_COLUMNS(unit, cols, m, target);
    FOR_ROWS(i, n) {
        const long long row = unit(rows, i);
        if (row < 0 || (places && places[row] != i))
            continue;
        const REAL* gradient = g + i * g_stride + first;
        REAL* w = W + row * W_stride;
        REAL value[PER_THREAD];
        FOR_COLUMNS(k)
            if (target[k] >= 0)
                value[k] = w[target[k]] - rate * gradient[32 * k];
        FOR_COLUMNS(k)
            if (target[k] >= 0)
                w[target[k]] = value[k];
    }
}
