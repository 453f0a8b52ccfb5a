// Moving between an array and its kept entries. References: Backend.take, put, put_columns, add_block, submatrix, lookup.
//
// Launch: tiles of 32 x 8 threads (common.cuh). Both kept sets are applied in the one pass that copies, so rows and columns
// are gathered without an array in between, and whoever reads the result reads it contiguous. A regular set costs no table.
#include "common.cuh"

// out[i, j] = W[rows(i), cols(j)];  out (n, m)
extern "C" __global__ void take_block(const REAL* __restrict__ W, long long W_stride, KEPT(rows), KEPT(cols),
                                      REAL* __restrict__ out, long long n, long long m)
{
    READ_KEPT(rows);
    READ_KEPT(cols);
    const long long first = FIRST_COLUMN;
    long long source[PER_THREAD];
    FOR_COLUMNS(k)
        source[k] = first + 32 * k < m ? unit(cols, first + 32 * k) : -1;
    FOR_ROWS(i, n) {
        const long long row = unit(rows, i);
        const REAL* w = W + row * W_stride;
        REAL* o = out + i * m + first;
        REAL value[PER_THREAD];
        FOR_COLUMNS(k)
            value[k] = row >= 0 && source[k] >= 0 ? w[source[k]] : REAL(0);
        FOR_COLUMNS(k)
            if (first + 32 * k < m)
                o[32 * k] = value[k];
    }
}

// out[rows(i), cols(j)] = x[i, j];  x (n, m), the rest of out stays as it is
extern "C" __global__ void put_block(const REAL* __restrict__ x, long long x_stride, KEPT(rows), KEPT(cols),
                                     REAL* __restrict__ out, long long out_stride, long long n, long long m)
{
    READ_KEPT(rows);
    READ_KEPT(cols);
    const long long first = FIRST_COLUMN;
    long long target[PER_THREAD];
    FOR_COLUMNS(k)
        target[k] = first + 32 * k < m ? unit(cols, first + 32 * k) : -1;
    FOR_ROWS(i, n) {
        const long long row = unit(rows, i);
        if (row < 0)
            continue;
        const REAL* source = x + i * x_stride + first;
        REAL* o = out + row * out_stride;
        FOR_COLUMNS(k)
            if (target[k] >= 0)
                o[target[k]] = source[32 * k];
    }
}

// out[rows(i), cols(j)] += factor * x[i, j];  no entry of out stands twice in rows x cols, so nothing collides. With places,
// rows may name one row several times: only place places[row] of them counts.
extern "C" __global__ void add_block(const REAL* __restrict__ x, long long x_stride, KEPT(rows), KEPT(cols),
                                     const int* __restrict__ places, REAL* __restrict__ out, long long out_stride,
                                     VARYING(REAL, factor), long long n, long long m)
{
    READ_KEPT(rows);
    READ_KEPT(cols);
    READ_VARYING(REAL, factor);
    const long long first = FIRST_COLUMN;
    long long target[PER_THREAD];
    FOR_COLUMNS(k)
        target[k] = first + 32 * k < m ? unit(cols, first + 32 * k) : -1;
    FOR_ROWS(i, n) {
        const long long row = unit(rows, i);
        if (row < 0 || (places && places[row] != i))
            continue;
        const REAL* source = x + i * x_stride + first;
        REAL* o = out + row * out_stride;
        REAL sum[PER_THREAD];
        FOR_COLUMNS(k)
            if (target[k] >= 0)
                sum[k] = o[target[k]] + factor * source[32 * k];
        FOR_COLUMNS(k)
            if (target[k] >= 0)
                o[target[k]] = sum[k];
    }
}

// out[i, j] = x[where i stands in rows, where j stands in cols], 0 where either is dropped;  out (n, m) is written once,
// not cleared first and written again
extern "C" __global__ void expand(const REAL* __restrict__ x, long long x_stride, KEPT(rows), KEPT(cols),
                                  REAL* __restrict__ out, long long n, long long m)
{
    READ_KEPT(rows);
    READ_KEPT(cols);
    const long long first = FIRST_COLUMN;
    int source[PER_THREAD];
    FOR_COLUMNS(k)
        source[k] = first + 32 * k < m ? place(cols, first + 32 * k) : -1;
    FOR_ROWS(i, n) {
        const int row = place(rows, i);
        REAL* o = out + i * m + first;
        REAL value[PER_THREAD];
        FOR_COLUMNS(k)
            value[k] = row >= 0 && source[k] >= 0 ? x[row * x_stride + source[k]] : REAL(0);
        FOR_COLUMNS(k)
            if (first + 32 * k < m)
                o[32 * k] = value[k];
    }
}

// The tables of a kept set repeated on `times` axes, one after the other: units[j] is its j-th entry, -1 where there is none,
// and places[u] says where entry u stands among them, -1 where it is dropped
extern "C" __global__ void repeat_kept(KEPT(kept), long long* __restrict__ units, int* __restrict__ places, long long count,
                                       long long total, long long times)
{
    READ_KEPT(kept);
    FOR_ELEMENTS(u, times * total) {
        const long long axis = u / total;
        const int j = place(kept, u - axis * total);
        places[u] = j < 0 ? -1 : static_cast<int>(axis * count) + j;
    }
    FOR_ELEMENTS(i, times * count) {
        const long long axis = i / count, u = unit(kept, i - axis * count);
        units[i] = u < 0 ? -1 : axis * total + u;
    }
}
