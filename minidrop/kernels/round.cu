// Operands of a product on their way to 16 bits. Reference: Backend.round_block.
//
// Gathered, scaled and rounded in one pass: what a product in lower precision reads is written once, and nothing in between.
// Macros: OPERAND, FLOAT16 or BFLOAT16; REAL is float. Launch: tiles of 32 x 8 threads (common.cuh).
#include "common.cuh"
#include "tensor.cuh"

typedef unsigned short Operand;

// out[i, j] = factor * W[rows(i), cols(j)], rounded to the nearest number of 16 bits, to even where halfway;  out (n, m)
extern "C" __global__ void round_block(const REAL* __restrict__ W, long long W_stride, KEPT(rows), KEPT(cols),
                                       Operand* __restrict__ out, long long out_stride, REAL factor, long long n, long long m)
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
        Operand* o = out + i * out_stride + first;
        REAL value[PER_THREAD];
        FOR_COLUMNS(k)
            value[k] = row >= 0 && source[k] >= 0 ? w[source[k]] : REAL(0);
        FOR_COLUMNS(k)
            if (first + 32 * k < m)
                o[32 * k] = half_bits<OPERAND>(factor * value[k]);
    }
}
