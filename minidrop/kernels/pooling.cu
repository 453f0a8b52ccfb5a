// One number for each window of each plane of images. References: Backend.max_pool, max_pool_gradient, mean_pool,
// mean_pool_gradient.
//
// Planes are the channels of all images, one after the other, and windows have no holes: their dilation is 1. Gradients are
// gathered (window.cuh). Launch: one thread an element of the result.
#include "common.cuh"
#include "window.cuh"

// The end of the window at a place in an axis of `length` entries that begins `before` entries before the image.
__device__ __forceinline__ int end_of(const Side& side, int begin, int length)
{
    return begin + side.size < length ? begin + side.size : length;
}

// How many entries of the window lie in the padded image.
__device__ __forceinline__ int part_of(const Side& side, int place)
{
    const int begin = place * side.stride;
    return end_of(side, begin, side.length + 2 * side.pad) - begin;
}

// y[plane, p] = the largest entry of the window at p that lies in the image, the first of equal ones, a NaN before all others;
// index[plane, p] = line * width + column of it.  -inf and -1 where there is none.
extern "C" __global__ void max_pool(const REAL* __restrict__ x, REAL* __restrict__ y, int* __restrict__ index, WINDOW,
                                    long long planes, IMAGE)
{
    READ_WINDOW;
    FOR_ELEMENTS(i, planes * lines * places) {
        const Spot at = spot_of(i, h.places, w.places);
        const REAL* plane = x + at.image * height * width;
        const int top = begin_at(h, at.line), left = begin_at(w, at.column);
        const int bottom = end_of(h, top, h.length), right = end_of(w, left, w.length);
        REAL largest = -REAL(1) / REAL(0);
        int place = -1;
        for (int line = top < 0 ? 0 : top; line < bottom; ++line)
            for (int column = left < 0 ? 0 : left; column < right; ++column) {
                const int own = line * w.length + column;
                const REAL value = plane[own];
                if (place < 0 || value > largest || (value != value && largest == largest)) {
                    largest = value;
                    place = own;
                }
            }
        y[i] = largest;
        index[i] = place;
    }
}

// gx[plane, i] = the sum of gy[plane, p] over the windows p whose index is i.
extern "C" __global__ void max_pool_gradient(const REAL* __restrict__ gy, const int* __restrict__ index,
                                             REAL* __restrict__ gx, WINDOW, long long planes, IMAGE)
{
    READ_WINDOW;
    const Meeting step_h = between_meetings(h), step_w = between_meetings(w);
    FOR_ELEMENTS(i, planes * height * width) {
        const Spot at = spot_of(i, h.length, w.length);
        const Meeting line = first_meeting(h, at.line), column = first_meeting(w, at.column);
        const long long plane = at.image * lines * places;
        const int own = at.line * w.length + at.column;
        REAL sum = 0;
        FOR_MEETINGS(down, p, h, line, step_h) {
            FOR_MEETINGS(right, q, w, column, step_w) {
                const long long j = plane + p * places + q;
                if (index[j] == own)
                    sum += gy[j];
            }
        }
        gx[i] = sum;
    }
}

// y[plane, p] = the sum of the window at p, divided by the size of its part in the padded image.
extern "C" __global__ void mean_pool(const REAL* __restrict__ x, REAL* __restrict__ y, WINDOW, long long planes, IMAGE)
{
    READ_WINDOW;
    FOR_ELEMENTS(i, planes * lines * places) {
        const Spot at = spot_of(i, h.places, w.places);
        const REAL* plane = x + at.image * height * width;
        const int top = begin_at(h, at.line), left = begin_at(w, at.column);
        const int bottom = end_of(h, top, h.length), right = end_of(w, left, w.length);
        REAL sum = 0;
        for (int line = top < 0 ? 0 : top; line < bottom; ++line)
            for (int column = left < 0 ? 0 : left; column < right; ++column)
                sum += plane[line * w.length + column];
        y[i] = sum / (part_of(h, at.line) * part_of(w, at.column));
    }
}

// gx[plane, i] = the sum over the windows p that i lies in of gy[plane, p], divided as in mean_pool.
extern "C" __global__ void mean_pool_gradient(const REAL* __restrict__ gy, REAL* __restrict__ gx, WINDOW, long long planes,
                                              IMAGE)
{
    READ_WINDOW;
    const Meeting step_h = between_meetings(h), step_w = between_meetings(w);
    FOR_ELEMENTS(i, planes * height * width) {
        const Spot at = spot_of(i, h.length, w.length);
        const Meeting line = first_meeting(h, at.line), column = first_meeting(w, at.column);
        const long long plane = at.image * lines * places;
        REAL sum = 0;
        FOR_MEETINGS(down, p, h, line, step_h) {
            FOR_MEETINGS(right, q, w, column, step_w)
                sum += gy[plane + p * places + q] / (part_of(h, p) * part_of(w, q));
        }
        gx[i] = sum;
    }
}
