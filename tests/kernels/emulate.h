// Just enough of CUDA C++ to run a kernel on the host: blocks one after the other, and the threads of a block as contexts
// that take turns at barriers. Nothing runs at the same time, so a run gives the same result every time; which thread goes
// first can be turned round, so that a missing barrier shows in one of the two orders.
//
// A kernel file is compiled together with this header, a line EMULATE(kernel) for each kernel, by any C++17 compiler.
#undef _FORTIFY_SOURCE         // its longjmp takes the way to another thread's stack for a mistake

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#include <setjmp.h>
#include <ucontext.h>

#define EMULATED
#define __global__ static
#define __device__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __shared__ static       // blocks follow one another, so they can use the same memory

struct Index {
    unsigned int x, y, z;
};
static Index threadIdx, blockIdx, blockDim, gridDim;

using std::exp;
using std::fma;
using std::log;
using std::log1p;
using std::min;
using std::sqrt;
using std::tanh;

template <class T> static T cospi(T x) { return std::cos(T(3.14159265358979323846L) * x); }
template <class T> static T sinpi(T x) { return std::sin(T(3.14159265358979323846L) * x); }

static unsigned int __umulhi(unsigned int a, unsigned int b)
{
    return static_cast<unsigned int>(static_cast<std::uint64_t>(a) * b >> 32);
}

namespace emulation {

enum Stage { running, at_block_barrier, at_warp_barrier, done };

constexpr std::size_t STACK = 64 * 1024;

// A context is entered once and serves one block after the other. From then on _setjmp and _longjmp switch, which ask the
// system for nothing; swapcontext, which does so every time, would take most of a run.
struct Thread {
    ucontext_t context;
    jmp_buf place;
    bool begun = false;
    Index index;
    Stage stage;
    std::unique_ptr<char[]> stack{new char[STACK]};
};

static std::vector<std::unique_ptr<Thread>> threads;        // at least as many as a block has
static std::size_t current;
static jmp_buf scheduler;
static std::vector<double> exchanged;      // one place a thread; a double holds every float
static std::vector<std::array<unsigned int, 6>> fragments;      // one place a thread
static std::vector<const unsigned char*> rows;
static void (*body)(void*);
static void* body_arguments;

static void wait(Stage stage)
{
    Thread& thread = *threads[current];
    thread.stage = stage;
    if (!_setjmp(thread.place))
        _longjmp(scheduler, 1);
}

static void start()
{
    for (;;) {
        body(body_arguments);
        wait(done);
    }
}

// Let a thread run to its next barrier, or to its end.
static void resume(Thread& thread)
{
    if (_setjmp(scheduler))
        return;
    if (thread.begun)
        _longjmp(thread.place, 1);
    thread.begun = true;
    setcontext(&thread.context);
}

static std::unique_ptr<Thread> new_thread()
{
    std::unique_ptr<Thread> thread(new Thread);
    getcontext(&thread->context);
    thread->context.uc_stack.ss_sp = thread->stack.get();
    thread->context.uc_stack.ss_size = STACK;
    thread->context.uc_link = nullptr;
    makecontext(&thread->context, start, 0);
    return thread;
}

// Let the threads first .. last-1 go on if all of them wait at this barrier. One that has ended never arrives: false.
static bool release(std::size_t first, std::size_t last, Stage stage, bool& any)
{
    std::size_t waiting = 0;
    for (std::size_t i = first; i < last; ++i)
        waiting += threads[i]->stage == stage;
    if (waiting && waiting < last - first)
        return false;
    for (std::size_t i = first; i < last && waiting; ++i)
        threads[i]->stage = running;
    any |= waiting > 0;
    return true;
}

// Run one block. Returns 0, or 1 where some threads wait for others that never come.
static int run_block(bool backwards)
{
    const std::size_t count = blockDim.x * blockDim.y;
    for (std::size_t i = 0; i < count; ++i) {
        const unsigned int n = static_cast<unsigned int>(i);
        threads[i]->index = {n % blockDim.x, n / blockDim.x % blockDim.y, n / blockDim.x / blockDim.y};
        threads[i]->stage = running;
    }
    for (;;) {
        for (std::size_t i = 0; i < count; ++i) {
            current = backwards ? count - 1 - i : i;
            if (threads[current]->stage == running) {
                threadIdx = threads[current]->index;
                resume(*threads[current]);
            }
        }
        bool any = false;
        for (std::size_t warp = 0; warp < count; warp += 32)
            release(warp, warp + 32 < count ? warp + 32 : count, at_warp_barrier, any);
        if (!any)
            release(0, count, at_block_barrier, any);
        if (!any) {
            for (std::size_t i = 0; i < count; ++i)
                if (threads[i]->stage != done) {
                    threads.clear();        // they are in the midst of this kernel
                    return 1;
                }
            return 0;
        }
    }
}

// Run one block whose kernel has no barrier: its threads are plain calls.
static int run_plainly(bool backwards)
{
    const unsigned int count = blockDim.x * blockDim.y * blockDim.z;
    for (unsigned int i = 0; i < count; ++i) {
        const unsigned int n = backwards ? count - 1 - i : i;
        threadIdx = {n % blockDim.x, n / blockDim.x % blockDim.y, n / blockDim.x / blockDim.y};
        body(body_arguments);
    }
    return 0;
}

template <class... A, std::size_t... I> static void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>)
{
    kernel(*static_cast<A*>(arguments[I])...);
}

template <class... A> static void call(void (*kernel)(A...), void** arguments)
{
    call(kernel, arguments, std::index_sequence_for<A...>());
}

// shape: grid x, y, block x, y.  BARRIERS says whether the file has any.
static int run(void (*one)(void*), void** arguments, const unsigned int* shape, int backwards)
{
    gridDim = {shape[0], shape[1], 1};
    blockDim = {shape[2], shape[3], 1};
    body = one;
    body_arguments = arguments;
    if (BARRIERS) {
        const std::size_t count = blockDim.x * blockDim.y;
        while (threads.size() < count)
            threads.push_back(new_thread());
        exchanged.assign(count, 0);
        fragments.resize(count);
        rows.resize(count);
    }
    const unsigned int blocks = gridDim.x * gridDim.y;
    for (unsigned int i = 0; i < blocks; ++i) {
        const unsigned int n = backwards ? blocks - 1 - i : i;
        blockIdx = {n % gridDim.x, n / gridDim.x, 0};
        if (BARRIERS ? run_block(backwards) : run_plainly(backwards))
            return 1;
    }
    return 0;
}

}  // namespace emulation

static void __attribute__((unused)) __syncthreads() { emulation::wait(emulation::at_block_barrier); }

template <class T> static T __shfl_xor_sync(unsigned int, T value, int lanes)
{
    const std::size_t mine = emulation::current;
    emulation::exchanged[mine] = value;
    emulation::wait(emulation::at_warp_barrier);
    const T other = static_cast<T>(emulation::exchanged[mine ^ static_cast<std::size_t>(lanes)]);
    emulation::wait(emulation::at_warp_barrier);       // until all have read
    return other;
}

// What tensor.cuh has for a GPU: see there. Copies come at once.
#define HAS_TENSOR_CORES(type) 1

namespace emulation {

static float of_half(unsigned int bits, int type)
{
    float value;
    if (type == 2) {        // BFLOAT16
        bits <<= 16;
        std::memcpy(&value, &bits, 4);
        return value;
    }
    const unsigned int size = (bits & 0x7FFF) << 13;        // exponent and fraction in the places of a float's
    std::memcpy(&value, &size, 4);
    value = size < 0x0F800000 ? value * 0x1p112f : size > 0x0F800000 ? NAN : INFINITY;
    return bits >> 15 ? -value : value;
}

// Number `place` of two in a register.
static unsigned int half_of(unsigned int bits, int place) { return bits >> (16 * place) & 0xFFFF; }

}  // namespace emulation

template <int type> static unsigned short half_bits(float x)
{
    unsigned int bits;
    std::memcpy(&bits, &x, 4);
    if (type == 2)
        return std::isnan(x) ? 0x7FC0 : (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
    const unsigned int sign = bits >> 16 & 0x8000;
    const float size = std::fabs(x);
    if (std::isnan(x))
        return 0x7FFF;
    if (size >= 65520)
        return sign | 0x7C00;
    if (size == 0)
        return sign;
    int exponent;
    std::frexp(size, &exponent);
    const int step = std::max(exponent, -13) - 11;      // the distance of its neighbours is 2^step
    const float steps = std::nearbyint(std::ldexp(size, -step));        // to even
    return sign | static_cast<unsigned int>(steps + (std::max(exponent, -13) + 13) * 1024);
}

template <bool transposed> static void load_fragments(unsigned int (&to)[4], const void* row)
{
    using namespace emulation;
    const std::size_t mine = current, warp = mine / 32 * 32, group = (mine - warp) / 4, pair = (mine - warp) % 4;
    if (reinterpret_cast<std::size_t>(row) % 16)
        std::abort();
    rows[mine] = static_cast<const unsigned char*>(row);
    wait(at_warp_barrier);
    for (std::size_t i = 0; i < 4; ++i) {
        unsigned short numbers[2];
        for (std::size_t e = 0; e < 2; ++e) {
            const std::size_t from = transposed ? 2 * pair + e : group, column = transposed ? group : 2 * pair + e;
            std::memcpy(&numbers[e], rows[warp + 8 * i + from] + 2 * column, 2);
        }
        std::memcpy(&to[i], numbers, 4);
    }
    wait(at_warp_barrier);       // until all have read
}

template <int type> static void multiply_fragments(float (&c)[4], const unsigned int (&a)[4], const unsigned int* b)
{
    using namespace emulation;
    const std::size_t mine = current, warp = mine / 32 * 32, group = (mine - warp) / 4, pair = (mine - warp) % 4;
    fragments[mine] = {a[0], a[1], a[2], a[3], b[0], b[1]};
    wait(at_warp_barrier);
    for (std::size_t i = 0; i < 4; ++i) {
        const std::size_t lower = i / 2, column = 2 * pair + i % 2;
        for (std::size_t k = 0; k < 16; ++k) {
            const std::size_t owner = k % 8 / 2;
            const unsigned int left = fragments[warp + 4 * group + owner][lower + k / 8 * 2];
            const unsigned int right = fragments[warp + 4 * column + owner][4 + k / 8];
            c[i] += of_half(half_of(left, k % 2), type) * of_half(half_of(right, k % 2), type);
        }
    }
    wait(at_warp_barrier);
}

static void copy_16(void* to, const void* from)
{
    if ((reinterpret_cast<std::size_t>(to) | reinterpret_cast<std::size_t>(from)) % 16)
        std::abort();
    std::memcpy(to, from, 16);
}

static void end_copies() {}

template <int under_way> static void wait_for_copies() {}

#define EMULATE(kernel) \
    extern "C" int run_##kernel(void** arguments, const unsigned int* shape, int backwards) \
    { \
        return emulation::run([](void* given) { emulation::call(kernel, static_cast<void**>(given)); }, arguments, shape, \
                              backwards); \
    }
