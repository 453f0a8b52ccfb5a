// Windows that slide over the lines and columns of images: minidrop/backend/window.py.
#ifndef MINIDROP_WINDOW
#define MINIDROP_WINDOW

// Of a window, and of images height x width over which it has lines x places; READ_WINDOW makes the sides h and w of them.
#define WINDOW int size_h, int size_w, int stride_h, int stride_w, int pad_h, int pad_w, int dilation_h, int dilation_w
#define IMAGE long long height, long long width, long long lines, long long places
#define READ_WINDOW \
    const Side h = {size_h, stride_h, pad_h, dilation_h, static_cast<int>(height), static_cast<int>(lines)}; \
    const Side w = {size_w, stride_w, pad_w, dilation_w, static_cast<int>(width), static_cast<int>(places)}

// What both have on one axis: `length` entries of an image, `places` of the window.
struct Side {
    int size, stride, pad, dilation, length, places;
};

// Which entry of the image the first of the window at `place` reads; from `length` on, and below 0, there is none.
__device__ __forceinline__ int begin_at(const Side& side, int place) { return place * side.stride - side.pad; }

__device__ __forceinline__ bool lies_in(const Side& side, int at)
{
    return static_cast<unsigned int>(at) < static_cast<unsigned int>(side.length);
}

// Number j of images of lines x columns, one after the other.
struct Spot {
    long long image;
    int line, column;
};

__device__ __forceinline__ Spot spot_of(long long j, int lines, int columns)
{
    const long long each = static_cast<long long>(lines) * columns, image = j / each;
    const unsigned int rest = static_cast<unsigned int>(j - image * each), line = rest / columns;
    const Spot spot = {image, static_cast<int>(line), static_cast<int>(rest - line * columns)};
    return spot;
}

// Sums over the windows that read entry `at` of an image are gathered: whoever owns the entry asks each entry of the window
// at which place it reads it. No two threads write to one place, and the order of the sum is that of the window's entries.
struct Meeting {
    int entry, place;
};

// The first entry of the window of which some place reads `at`, and that place; past the end of the window, or below 0, where
// there is none.
__device__ __forceinline__ Meeting first_meeting(const Side& side, int at)
{
    at += side.pad;
    const int beyond = at - (side.places - 1) * side.stride;        // so far behind the last place's begin
    int entry = beyond > 0 ? (beyond + side.dilation - 1) / side.dilation : 0;
    int distance = at - entry * side.dilation;
    while (entry < side.size && distance > 0 && distance % side.stride) {
        ++entry;
        distance -= side.dilation;
    }
    const Meeting found = {entry, distance < 0 ? -1 : distance / side.stride};
    return found;
}

// How much further the next entry is, and by how much its place lies before.
__device__ __forceinline__ Meeting between_meetings(const Side& side)
{
    int divisor = side.dilation;
    for (int rest = side.stride; rest;) {
        const int next = divisor % rest;
        divisor = rest;
        rest = next;
    }
    const Meeting step = {side.stride / divisor, side.dilation / divisor};
    return step;
}

#define FOR_MEETINGS(k, p, side, first, step) \
    for (int k = (first).entry, p = (first).place; k < (side).size && p >= 0; k += (step).entry, p -= (step).place)

// The columns of a thread (common.cuh), of which there are `count`, one after the other: gathering for all four at a time would
// make the machine code four times as large.
#define FOR_EACH_COLUMN(j, count) _Pragma("unroll 1") for (long long j = FIRST_COLUMN, end_##j = j + 32 * PER_THREAD; \
                                                           j < end_##j && j < (count); j += 32)

#endif
