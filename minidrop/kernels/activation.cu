// What follows a product: bias, activation, scale. References: Backend.activate, activate_gradient, add_to_rows, relu,
// relu_gradient, put_outputs.
//
// ACTIVATION 0: none, 1: ReLU, 2: sigmoid, 3: tanh. One pass where NumPy's terms need up to five, and for a small net one
// launch instead of them.
#include "common.cuh"

// f(x). ReLU leaves a NaN a NaN, so that a diverging net is noticed; the sigmoid by way of tanh cannot overflow.
__device__ __forceinline__ REAL activation(REAL x)
{
#if ACTIVATION == 1
    return x <= 0 ? REAL(0) : x;
#elif ACTIVATION == 2
    return REAL(0.5) * (tanh(REAL(0.5) * x) + REAL(1));
#elif ACTIVATION == 3
    return tanh(x);
#else
    return x;
#endif
}

// y[i, j] = scale * f(x[i, j] + b[j]);  x, y (n, m), which may be one array; b may be null.
// Launch: tiles of 32 x 8 threads (common.cuh), so that the bias is read once for all rows of a thread.
extern "C" __global__ void activate(const REAL* x, long long x_stride, const REAL* b, long long b_stride, REAL* y,
                                    long long y_stride, REAL scale, long long n, long long m)
{
    const long long first = FIRST_COLUMN;
    REAL bias[PER_THREAD];
    FOR_COLUMNS(k)
        bias[k] = b && first + 32 * k < m ? b[(first + 32 * k) * b_stride] : REAL(0);
    FOR_ROWS(i, n) {
        REAL value[PER_THREAD];         // all are read before the first is written: x and y may be one array
        FOR_COLUMNS(k)
            value[k] = first + 32 * k < m ? x[i * x_stride + first + 32 * k] : REAL(0);
        FOR_COLUMNS(k)
            if (first + 32 * k < m)
                y[i * y_stride + first + 32 * k] = scale * activation(value[k] + bias[k]);
    }
}

// y[i, o, p] = scale * f(x[o, (i, p)] + b[o]): a convolution's product, whose columns are the places of all images, as images.
// b may be null. Launch: tiles of 32 x 8 threads, which read along the columns and write along the places.
extern "C" __global__ void put_outputs(const REAL* __restrict__ x, const REAL* __restrict__ b, long long b_stride,
                                       REAL* __restrict__ y, long long y_stride, REAL scale, long long images,
                                       long long outputs, long long places)
{
    const long long first = FIRST_COLUMN, count = images * places;
    long long target[PER_THREAD];
    FOR_COLUMNS(k) {
        const long long image = (first + 32 * k) / places;
        target[k] = image * y_stride + first + 32 * k - image * places;
    }
    FOR_ROWS(o, outputs) {
        const REAL bias = b ? b[o * b_stride] : REAL(0);
        FOR_COLUMNS(k)
            if (first + 32 * k < count)
                y[target[k] + o * places] = scale * activation(x[o * count + first + 32 * k] + bias);
    }
}

// gx = gy * scale * f'(x), from y = scale * f(x): of n elements. Launch: one thread an element.
extern "C" __global__ void activate_gradient(const REAL* __restrict__ gy, const REAL* __restrict__ y,
                                             REAL* __restrict__ gx, REAL scale, long long n)
{
    FOR_ELEMENTS(i, n) {
#if ACTIVATION == 1
        gx[i] = (scale < 0 ? -y[i] : y[i]) > 0 ? gy[i] * scale : REAL(0);
#elif ACTIVATION == 2
        const REAL f = y[i] / scale;
        gx[i] = gy[i] * scale * f * (REAL(1) - f);
#elif ACTIVATION == 3
        const REAL f = y[i] / scale;
        gx[i] = gy[i] * scale * (REAL(1) - f * f);
#else
        gx[i] = gy[i] * scale;
#endif
    }
}
