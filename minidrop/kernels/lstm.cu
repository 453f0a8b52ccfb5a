// One step of an LSTM. References: Backend.lstm_step, lstm_step_gradient. Gates stand in Caffe's order i f o g.
//
// One thread a unit and stream: it reads its four gates, each of which lies contiguous over the threads of a warp, and writes
// all that the step leaves behind. NumPy's terms need some thirteen passes, and a sequence has dozens of steps.
// Launch: one thread an element of c.
#include "common.cuh"

__device__ __forceinline__ REAL sigmoid(REAL x)
{
    return REAL(0.5) * (tanh(REAL(0.5) * x) + REAL(1));
}

// i f o = sigmoid, g = tanh of x + product;  c = cont f c_before + i g;  h = o tanh(c).
// x, product, activated (streams, 4 units); c_before, c, squashed, h (streams, units); cont (streams,).
extern "C" __global__ void lstm_step(const REAL* __restrict__ x, long long x_stride, const REAL* __restrict__ product,
                                     long long product_stride, const REAL* __restrict__ c_before,
                                     const REAL* __restrict__ cont, REAL* __restrict__ activated, REAL* __restrict__ c,
                                     REAL* __restrict__ squashed, REAL* __restrict__ h, long long streams, long long units)
{
    FOR_ELEMENTS(at, streams * units) {
        const long long n = at / units, j = at - n * units;
        const REAL* a = x + n * x_stride + j;
        const REAL* b = product + n * product_stride + j;
        const REAL i = sigmoid(a[0] + b[0]), f = sigmoid(a[units] + b[units]);
        const REAL o = sigmoid(a[2 * units] + b[2 * units]), g = tanh(a[3 * units] + b[3 * units]);
        const REAL cell = f * (c_before[at] * cont[n]) + i * g, s = tanh(cell);
        REAL* gate = activated + n * 4 * units + j;
        gate[0] = i;
        gate[units] = f;
        gate[2 * units] = o;
        gate[3 * units] = g;
        c[at] = cell;
        squashed[at] = s;
        h[at] = o * s;
    }
}

// From dh and dc: d (streams, 4 units) of the gates' arguments; dc (streams, units) becomes that of c_before.
extern "C" __global__ void lstm_step_gradient(const REAL* __restrict__ activated, const REAL* __restrict__ squashed,
                                              const REAL* __restrict__ c_before, const REAL* __restrict__ cont,
                                              const REAL* __restrict__ dh, REAL* __restrict__ dc, REAL* __restrict__ d,
                                              long long streams, long long units)
{
    const REAL one = 1;
    FOR_ELEMENTS(at, streams * units) {
        const long long n = at / units, j = at - n * units;
        const REAL* gate = activated + n * 4 * units + j;
        const REAL i = gate[0], f = gate[units], o = gate[2 * units], g = gate[3 * units], s = squashed[at];
        const REAL of_h = dh[at], of_c = dc[at] + of_h * o * (one - s * s);
        REAL* out = d + n * 4 * units + j;
        out[0] = of_c * g * i * (one - i);
        out[units] = of_c * (c_before[at] * cont[n]) * f * (one - f);
        out[2 * units] = of_h * s * o * (one - o);
        out[3 * units] = of_c * i * (one - g * g);
        dc[at] = of_c * (f * cont[n]);
    }
}
