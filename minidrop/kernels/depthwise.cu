// Convolution of each channel with filters of its own, `outputs / channels` of them. References: Backend.convolve_each,
// convolve_each_image_gradient, convolve_each_weight_gradient.
//
// A filter is too small for a product of matrices: each thread computes its sums from the images themselves.
#include "common.cuh"
#include "window.cuh"

#define SUMMANDS 256      // threads of a block of convolve_each_weight_gradient

// y[n, o, p] = the sum over k of W[o, k] x[n, o / factor, p stride + k dilation - pad];  W (outputs, entries)
// Launch: tiles of 32 x 8 threads, a row an output, a column a place of an image.
extern "C" __global__ void convolve_each(const REAL* __restrict__ x, long long x_stride, const REAL* __restrict__ W,
                                         REAL* __restrict__ y, long long y_stride, WINDOW, long long images,
                                         long long channels, long long outputs, IMAGE)
{
    READ_WINDOW;
    const long long first = FIRST_COLUMN, each = lines * places, count = images * each, image = height * width;
    const unsigned int factor = static_cast<unsigned int>(outputs / channels);
    long long source[PER_THREAD], target[PER_THREAD];
    int top[PER_THREAD], left[PER_THREAD];
    FOR_COLUMNS(k) {
        const long long j = first + 32 * k;
        const Spot at = spot_of(j < count ? j : count - 1, h.places, w.places);
        top[k] = begin_at(h, at.line);
        left[k] = begin_at(w, at.column);
        source[k] = at.image * x_stride + top[k] * width + left[k];
        target[k] = at.image * y_stride + at.line * places + at.column;
    }
    FOR_ROWS(o, outputs) {
        const REAL* plane = x + static_cast<unsigned int>(o) / factor * image;
        const REAL* weight = W + o * h.size * w.size;
        REAL sum[PER_THREAD];
        FOR_COLUMNS(k)
            sum[k] = 0;
        for (int down = 0; down < h.size * h.dilation; down += h.dilation)
            for (int right = 0; right < w.size * w.dilation; right += w.dilation, ++weight)
                FOR_COLUMNS(k)
                    if (lies_in(h, top[k] + down) && lies_in(w, left[k] + right))
                        sum[k] += *weight * plane[source[k] + down * width + right];
        FOR_COLUMNS(k)
            if (first + 32 * k < count)
                y[target[k] + o * each] = sum[k];
    }
}

// gx[n, c, i] = the sum of W[o, k] gy[n, o, p] over the outputs o of channel c and all k and p with
// i = p stride + k dilation - pad, gathered.  Launch: tiles of 32 x 8 threads, a row a channel, a column an entry of an image.
extern "C" __global__ void convolve_each_image_gradient(const REAL* __restrict__ W, const REAL* __restrict__ gy,
                                                        long long gy_stride, REAL* __restrict__ gx, long long gx_stride,
                                                        WINDOW, long long images, long long channels, long long outputs,
                                                        IMAGE)
{
    READ_WINDOW;
    const long long each = lines * places, image = height * width;
    const int factor = static_cast<int>(outputs / channels), entries = h.size * w.size;
    const Meeting step_h = between_meetings(h), step_w = between_meetings(w);
    FOR_EACH_COLUMN(j, images * image) {
        const Spot at = spot_of(j, h.length, w.length);
        const Meeting line = first_meeting(h, at.line), column = first_meeting(w, at.column);
        FOR_ROWS(c, channels) {
            const REAL* weight = W + c * factor * entries;
            const REAL* own = gy + at.image * gy_stride + c * factor * each;
            REAL sum = 0;
            FOR_MEETINGS(down, p, h, line, step_h) {
                FOR_MEETINGS(right, q, w, column, step_w) {
                    REAL part = 0;
                    for (int o = 0; o < factor; ++o)
                        part += weight[o * entries + down * w.size + right] * own[o * each + p * places + q];
                    sum += part;
                }
            }
            gx[at.image * gx_stride + c * image + at.line * width + at.column] = sum;
        }
    }
}

// gW[o, k] = the sum over n and p of gy[n, o, p] x[n, o / factor, p stride + k dilation - pad].
// Launch: a block of SUMMANDS threads for each number of gW. A thread adds every SUMMANDS-th summand, then the threads' sums are
// added up pairwise: the order depends on the shapes alone.
extern "C" __global__ void convolve_each_weight_gradient(const REAL* __restrict__ x, long long x_stride,
                                                         const REAL* __restrict__ gy, long long gy_stride,
                                                         REAL* __restrict__ gW, WINDOW, long long images, long long channels,
                                                         long long outputs, long long entries, IMAGE)
{
    READ_WINDOW;
    __shared__ REAL part[SUMMANDS];
    const long long each = lines * places, count = images * each, o = blockIdx.x / entries;
    const int entry = static_cast<int>(blockIdx.x - o * entries), line = entry / w.size;
    const int down = line * h.dilation, right = (entry - line * w.size) * w.dilation;
    x += o / (outputs / channels) * height * width;
    gy += o * each;
    REAL sum = 0;
    for (long long j = threadIdx.x; j < count; j += SUMMANDS) {
        const Spot at = spot_of(j, h.places, w.places);
        const int i = begin_at(h, at.line) + down, k = begin_at(w, at.column) + right;
        if (lies_in(h, i) && lies_in(w, k))
            sum += gy[at.image * gy_stride + at.line * places + at.column] * x[at.image * x_stride + i * width + k];
    }
    part[threadIdx.x] = sum;
    __syncthreads();
    for (int half = SUMMANDS / 2; half; half /= 2) {
        if (threadIdx.x < half)
            part[threadIdx.x] += part[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0)
        gW[blockIdx.x] = part[0];
}
