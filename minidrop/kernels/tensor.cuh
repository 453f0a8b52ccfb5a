// Tensor cores and asynchronous copies, behind a few functions; tests/kernels/emulate.h has them for the host.
//
// A fragment is a warp's share of a small matrix of 16-bit numbers, two to a register (PTX ISA, mma.m16n8k16). With group =
// lane / 4 and pair = lane % 4, a lane holds
//   of A (16 x 16, row by row)       a[0] rows group, a[1] rows group + 8: columns 2 pair, 2 pair + 1; a[2], a[3]: 8 columns on
//   of B (16 x 8, column by column)  b[0] column group: rows 2 pair, 2 pair + 1; b[1]: 8 rows on
//   of C (16 x 8, float)             c[0], c[1] row group: columns 2 pair, 2 pair + 1; c[2], c[3]: row group + 8
#ifndef MINIDROP_TENSOR
#define MINIDROP_TENSOR

#define FLOAT16 1
#define BFLOAT16 2

#ifndef EMULATED

#define HAS_TENSOR_CORES(type) (__CUDA_ARCH__ >= 800 || (__CUDA_ARCH__ >= 750 && (type) == FLOAT16))

__device__ __forceinline__ unsigned int shared_address(const void* place)
{
    return static_cast<unsigned int>(__cvta_generic_to_shared(place));
}

// The bits of the number of 16 bits nearest to x, to even where halfway; NaN stays NaN.
template <int type>
__device__ __forceinline__ unsigned short half_bits(float x)
{
    if (type == FLOAT16) {
        unsigned short bits;
        asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
        return bits;
    }
#if __CUDA_ARCH__ >= 800
    unsigned short nearest;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(nearest) : "f"(x));
    return nearest;
#else
    const unsigned int bits = __float_as_uint(x);
    return x != x ? 0x7FC0 : (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
#endif
}

// Four matrices of 8 x 8: lane 8 i + r says where row r of matrix i lies, 16 bytes. Of matrix i, or of its transpose, a lane
// gets row group, columns 2 pair and 2 pair + 1, into to[i].
template <bool transposed>
__device__ __forceinline__ void load_fragments(unsigned int (&to)[4], const void* row)
{
    if (transposed)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(shared_address(row)) : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(shared_address(row)) : "memory");
}

// c += A B.
template <int type>
__device__ __forceinline__ void multiply_fragments(float (&c)[4], const unsigned int (&a)[4], const unsigned int* b)
{
#if __CUDA_ARCH__ >= 800
    if (type == FLOAT16)
        asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    else
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
#pragma unroll
    for (int half = 0; half < 2; ++half)        // these have columns of A and rows of B in eights
        asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[2 * half]), "r"(a[2 * half + 1]), "r"(b[half]));
#endif
}

// Copy 16 bytes, both places on a multiple of 16, to shared memory. They are there after `wait_for_copies` and a barrier.
__device__ __forceinline__ void copy_16(void* to, const void* from)
{
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" : : "r"(shared_address(to)), "l"(from) : "memory");
#else
    *static_cast<int4*>(to) = *static_cast<const int4*>(from);
#endif
}

// End a set of copies; a set may be empty.
__device__ __forceinline__ void end_copies()
{
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" : : : "memory");
#endif
}

// Wait until all sets but the last `under_way` are there.
template <int under_way>
__device__ __forceinline__ void wait_for_copies()
{
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" : : "n"(under_way) : "memory");
#endif
}

#endif
#endif
