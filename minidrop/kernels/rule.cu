// An update rule: its elementwise formula for new weights and histories. Reference: Backend.rule_update.
//
//     g = grad_scale * gW + decay * R(W);   W, a, b = formula(W, g, a, b, n0, n1, ...);   R(W) = sign(W) if l1 else W
//
// The macro FORMULA is the formula of a rule in C (kernels/formulas.py): it sets W, A and B, so there is a variant of this
// file for each rule. gW is compact and read as in update.cu: no dense gradient is written, weights and histories are read
// once and written once. A rule with one history array has null as b. The numbers of an iteration, grad_scale and *trouble
// may stand in device memory as there. They are rounded to REAL before anything is computed of them.
#include "common.cuh"

#define NUMBERS                                                                                                          \
    VARYING(double, n0), VARYING(double, n1), VARYING(double, n2), VARYING(double, n3), VARYING(double, n4),             \
    VARYING(double, n5), VARYING(double, n6), VARYING(double, n7)
#define READ_NUMBER(name) REAL(name##_at ? *name##_at : name##_value)
#define READ_NUMBERS                                                                                                     \
    const Numbers numbers = {READ_NUMBER(grad_scale), decay, l1, READ_NUMBER(n0), READ_NUMBER(n1), READ_NUMBER(n2),       \
                             READ_NUMBER(n3), READ_NUMBER(n4), READ_NUMBER(n5), READ_NUMBER(n6), READ_NUMBER(n7)}

struct Numbers {
    REAL grad_scale, decay;
    int l1;
    REAL n0, n1, n2, n3, n4, n5, n6, n7;
};

__device__ __forceinline__ void apply(REAL& W, REAL g, REAL& A, REAL& B, const Numbers& numbers)
{
    const REAL w = W, a = A, b = B, n0 = numbers.n0, n1 = numbers.n1, n2 = numbers.n2, n3 = numbers.n3, n4 = numbers.n4,
               n5 = numbers.n5, n6 = numbers.n6, n7 = numbers.n7;
    g = g * numbers.grad_scale;
    if (numbers.decay != 0)
        g = g + (numbers.l1 ? (w == w ? REAL((w > 0) - (w < 0)) : w) : w) * numbers.decay;
    FORMULA
}

// Update what one thread has of a row of W and histories; arguments as of update.cu's.
__device__ __forceinline__ void update(REAL* __restrict__ W, REAL* __restrict__ a, REAL* __restrict__ b,
                                       const REAL* __restrict__ g, const int source[PER_THREAD], long long left,
                                       const Numbers& numbers)
{
    REAL w[PER_THREAD], first[PER_THREAD], second[PER_THREAD], gradient[PER_THREAD];
    FOR_COLUMNS(k) {
        w[k] = 32 * k < left ? W[32 * k] : REAL(0);
        first[k] = 32 * k < left ? a[32 * k] : REAL(0);
        second[k] = b && 32 * k < left ? b[32 * k] : REAL(0);
        gradient[k] = source[k] >= 0 ? g[source[k]] : REAL(0);
    }
    FOR_COLUMNS(k) {
        apply(w[k], gradient[k], first[k], second[k], numbers);
        if (32 * k < left) {
            W[32 * k] = w[k];
            a[32 * k] = first[k];
            if (b)
                b[32 * k] = second[k];
        }
    }
}

// All rows of W, a and b (n, m); rows and cols say where g's row and column of an entry are.
extern "C" __global__ void rule_update(REAL* __restrict__ W, REAL* __restrict__ a, REAL* __restrict__ b,
                                       const REAL* __restrict__ g, long long g_stride, KEPT(rows), KEPT(cols),
                                       VARYING(double, grad_scale), NUMBERS, REAL decay, int l1, const int* trouble,
                                       long long n, long long m)
{
    if (trouble && *trouble)
        return;
    READ_KEPT(rows);
    READ_KEPT(cols);
    READ_NUMBERS;
    const int none[PER_THREAD] = {-1, -1, -1, -1};
    const long long first = FIRST_COLUMN;
    int source[PER_THREAD];
    OF_COLUMNS(place, cols, m, source);
    FOR_ROWS(i, n) {
        const int row = place(rows, i);
        const long long at = i * m + first;
        if (row >= 0)
            update(W + at, a + at, b ? b + at : b, g + row * g_stride, source, m - first, numbers);
        else
            update(W + at, a + at, b ? b + at : b, g, none, m - first, numbers);
    }
}

// Only the given rows of W, a and b (.., m): row rows(i) has row i of g, i < n. Where g is null these rows have no gradient.
extern "C" __global__ void rule_update_rows(REAL* __restrict__ W, REAL* __restrict__ a, REAL* __restrict__ b,
                                            const REAL* __restrict__ g, long long g_stride, KEPT(rows), KEPT(cols),
                                            VARYING(double, grad_scale), NUMBERS, REAL decay, int l1, const int* trouble,
                                            long long n, long long m)
{
    if (trouble && *trouble)
        return;
    READ_KEPT(rows);
    READ_KEPT(cols);
    READ_NUMBERS;
    const long long first = FIRST_COLUMN;
    int source[PER_THREAD];
    OF_COLUMNS(place, cols, m, source);
    FOR_COLUMNS(k)
        source[k] = g ? source[k] : -1;
    FOR_ROWS(i, n) {
        const long long row = unit(rows, i), at = row * m + first;
        if (row < 0)
            continue;
        update(W + at, a + at, b ? b + at : b, g + i * g_stride, source, m - first, numbers);
    }
}
