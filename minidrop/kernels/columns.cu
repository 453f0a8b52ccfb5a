// The windows of images as a matrix, for convolution as a product, and back. References: Backend.columns, add_columns.
//
// Images are read, and written, where they are: their distance is an argument, so that a range of channels of a batch needs no
// copy. Where a thread's columns of the matrix, or its entries of an image, lie is found once; the rows, or channels, that it
// walks through add the same number for all threads of a warp.
#include "common.cuh"
#include "window.cuh"

// out[(c, k), (n, p)] = x[n, c, p stride + k dilation - pad], 0 outside of the image;
// out (channels entries, images lines places). Launch: tiles of 32 x 8 threads.
extern "C" __global__ void columns(const REAL* __restrict__ x, long long x_stride, REAL* __restrict__ out, WINDOW,
                                   long long images, long long channels, long long entries, IMAGE)
{
    READ_WINDOW;
    const long long first = FIRST_COLUMN, across = images * lines * places, image = height * width;
    long long source[PER_THREAD];
    int top[PER_THREAD], left[PER_THREAD];
    FOR_COLUMNS(k) {
        const long long column = first + 32 * k;
        const Spot at = spot_of(column < across ? column : across - 1, h.places, w.places);
        top[k] = begin_at(h, at.line);
        left[k] = begin_at(w, at.column);
        source[k] = at.image * x_stride + top[k] * width + left[k];
    }
    FOR_ROWS(i, channels * entries) {
        const long long channel = i / entries;
        const int entry = static_cast<int>(i - channel * entries), line = entry / w.size;
        const int down = line * h.dilation, right = (entry - line * w.size) * w.dilation;
        const long long further = channel * image + down * width + right;
        REAL value[PER_THREAD];
        FOR_COLUMNS(k)
            value[k] = lies_in(h, top[k] + down) && lies_in(w, left[k] + right) ? x[source[k] + further] : REAL(0);
        FOR_COLUMNS(k)
            if (first + 32 * k < across)
                out[i * across + first + 32 * k] = value[k];
    }
}

// out[n, c, i] = the sum of x[(c, k), (n, p)] over all k and p with i = p stride + k dilation - pad, k in order;
// x (channels entries, images lines places). Launch: tiles of 32 x 8 threads, a row a channel, a column an entry of an image.
extern "C" __global__ void add_columns(const REAL* __restrict__ x, REAL* __restrict__ out, long long out_stride, WINDOW,
                                       long long images, long long channels, long long entries, IMAGE)
{
    READ_WINDOW;
    const long long image = height * width, across = images * lines * places;
    const Meeting step_h = between_meetings(h), step_w = between_meetings(w);
    FOR_EACH_COLUMN(j, images * image) {
        const Spot at = spot_of(j, h.length, w.length);
        const Meeting line = first_meeting(h, at.line), column = first_meeting(w, at.column);
        FOR_ROWS(c, channels) {
            const REAL* own = x + c * entries * across + at.image * lines * places;
            REAL sum = 0;
            FOR_MEETINGS(down, p, h, line, step_h) {
                FOR_MEETINGS(right, q, w, column, step_w)
                    sum += own[(down * w.size + right) * across + p * places + q];
            }
            out[at.image * out_stride + c * image + at.line * width + at.column] = sum;
        }
    }
}
