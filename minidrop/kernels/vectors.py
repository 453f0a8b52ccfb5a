"""What Numba lacks, as LLVM instructions: a block of a product in registers, and words that threads share.

The vectors are as wide as the machine's registers, 512 bits with AVX-512 and 256 with AVX2 and FMA; elsewhere
`lanes` is 0, and nobody calls what computes vectors.
"""

from collections.abc import Callable
from typing import Any

import numba
import numba.extending
import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.core.codegen import get_host_cpu_features  # those that NUMBA_ENABLE_AVX leaves

intrinsic: Any = numba.extending.intrinsic      # whose callers leave out the context
_WORD, _LANE = ir.IntType(64), ir.IntType(32)
_AHEAD = 64         # how many rows of a panel the next ones are fetched before they are read: 4 to 12 KiB


def _bits():
    """Return the width of the vectors that Numba compiles for, 0 without fused multiply and add."""
    features, name = numba.config.CPU_FEATURES, numba.config.CPU_NAME
    if features is None:        # of another processor than this one little is known
        features = ("+avx2,+fma" if name == "haswell" else get_host_cpu_features() if name in (None, "host")
                    else "")
    found = {name[1:] for name in features.split(",") if name.startswith("+")}
    if numba.config.DISABLE_JIT:
        return 0
    if not binding.get_process_triple().startswith(("x86_64", "i686")) or "fma" not in found:
        return 0
    return 512 if {"avx512f", "avx512vl"} <= found else 256 if "avx2" in found else 0


BITS = _bits()


def lanes(dtype: Any) -> int:
    """Return how many numbers of float32 or float64 a vector has, 0 where there are none."""
    return BITS // (8 * np.dtype(dtype).itemsize)


def at_place(builder: Any, pointer: Any, place: Any) -> Any:
    """Return pointer + place, a value or an int."""
    return builder.gep(pointer, [place if isinstance(place, ir.Value) else ir.Constant(_WORD, place)])


def multiply_add(module: Any, vector: Any) -> Any:
    """Return LLVM's fused multiply and add of vectors of float or double."""
    bits = 32 if isinstance(vector.element, ir.FloatType) else 64
    return cgutils.get_or_insert_function(module, ir.FunctionType(vector, [vector] * 3),
                                          f"llvm.fma.v{vector.count}f{bits}")


def loop_over(builder: Any, count: Any, name: str) -> tuple[Any, Any, Callable[[], Any]]:
    """Begin a loop over 0 .. count - 1, count >= 1; return (the block before it, its counter, its end).

    What it carries are phis, made before anything else; the end returns the block that comes back.
    """
    before, inside = builder.block, builder.append_basic_block(name)
    builder.branch(inside)
    builder.position_at_end(inside)
    counter = builder.phi(_WORD)
    counter.add_incoming(ir.Constant(_WORD, 0), before)

    def end():
        last, after = builder.block, builder.append_basic_block(name + "_end")
        following = builder.add(counter, ir.Constant(_WORD, 1))
        counter.add_incoming(following, last)
        builder.cbranch(builder.icmp_signed("<", following, count), inside, after)
        builder.position_at_end(after)
        return last

    return before, counter, end


def load_vector(builder: Any, vector: Any, pointer: Any, place: Any, size: int) -> Any:
    """Load a vector of numbers of `size` bytes, wherever it begins."""
    return builder.load(builder.bitcast(at_place(builder, pointer, place), vector.as_pointer()), align=size)


def everywhere(builder: Any, value: Any, width: int) -> Any:
    """Return a vector of one value."""
    undefined = ir.Constant(ir.VectorType(value.type, width), ir.Undefined)
    one = builder.insert_element(undefined, value, _LANE(0))
    return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(_LANE, width), [0] * width))


@intrinsic
def add_products(context: Any, a: Any, a_row: Any, a_step: Any, panel: Any, y: Any, stride: Any, depth: Any,
                 ahead: Any, pace: Any, zero: Any, form: Any) -> Any:
    """y[r, c] = the sum over k < depth of a[r, k] panel[k, c], in the order of k, each term by one FMA.

    a, panel, y: addresses; a_row, a_step: from a[r, k] to a[r + 1, k] and a[r, k + 1], in numbers; stride: of
    the rows of y; depth >= 1; zero: a number of their type; ahead: an address that is needed soon, from where
    on `pace` bytes are fetched meanwhile for each k;
    form: tuples as long as there are rows, vectors in a row, and numbers in a vector. All sums stay in
    registers.
    """
    rows, vectors, width = (len(one) for one in form.types)
    columns = vectors * width
    signature = types.void(*[types.intp] * 9, zero, form)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        real, size = context.get_value_type(zero), zero.bitwidth // 8
        vector = ir.VectorType(real, width)
        a, panel, y = (builder.inttoptr(args[i], real.as_pointer()) for i in (0, 3, 4))
        (a_row, a_step), (stride, depth, ahead, pace) = args[1:3], args[5:9]
        fma = multiply_add(builder.module, vector)
        byte = ir.IntType(8).as_pointer()
        fetch = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.VoidType(), [byte, *[_LANE] * 3]), "llvm.prefetch.p0i8")
        starts = [at_place(builder, a, builder.mul(a_row, ir.Constant(_WORD, r))) for r in range(rows)]

        before, k, end = loop_over(builder, depth, "k")
        sums = [[builder.phi(vector) for _ in range(vectors)] for _ in range(rows)]
        a_k = builder.mul(k, a_step)
        panel_k = at_place(builder, panel, builder.mul(k, ir.Constant(_WORD, columns)))
        for line in range(max(1, columns * size // 64)):
            place = at_place(builder, panel_k, _AHEAD * columns + line * 64 // size)
            builder.call(fetch, [builder.bitcast(place, byte), _LANE(0), _LANE(3), _LANE(1)])
        place = builder.inttoptr(builder.add(ahead, builder.mul(k, pace)), byte)
        builder.call(fetch, [place, _LANE(0), _LANE(2), _LANE(1)])
        weights = [load_vector(builder, vector, panel_k, v * width, size) for v in range(vectors)]
        added = []
        for r in range(rows):
            factor = everywhere(builder, builder.load(at_place(builder, starts[r], a_k)), width)
            added.append([builder.call(fma, [factor, weights[v], sums[r][v]]) for v in range(vectors)])
        last = end()
        for r in range(rows):
            row = at_place(builder, y, builder.mul(stride, ir.Constant(_WORD, r)))
            for v in range(vectors):
                sums[r][v].add_incoming(ir.Constant(vector, [0.0] * width), before)
                sums[r][v].add_incoming(added[r][v], last)
                place = builder.bitcast(at_place(builder, row, v * width), vector.as_pointer())
                builder.store(added[r][v], place, align=size)
        return context.get_dummy_value()

    return signature, code


@intrinsic
def transpose_square(context: Any, source: Any, apart: Any, to: Any, stride: Any, zero: Any,
                     lanes: Any) -> Any:
    """to[j, i] = source[i, j], as many rows and columns as the tuple `lanes` is long.

    source, to: addresses; apart, stride: of their rows; zero: a number of their type.
    """
    width = len(lanes.types)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        real, size = context.get_value_type(zero), zero.bitwidth // 8
        vector = ir.VectorType(real, width)
        source, to = (builder.inttoptr(args[i], real.as_pointer()) for i in (0, 2))

        def place(start, step, i):
            row = at_place(builder, start, builder.mul(step, ir.Constant(_WORD, i)))
            return builder.bitcast(row, vector.as_pointer())

        rows = [builder.load(place(source, args[1], i), align=size) for i in range(width)]
        far = 1
        while far < width:      # rows i and i + far exchange the entries that differ in this bit
            upper = [j if not j & far else width + j - far for j in range(width)]
            lower = [j + far if not j & far else width + j for j in range(width)]
            masks = [ir.Constant(ir.VectorType(_LANE, width), mask) for mask in (upper, lower)]
            for i in range(width):
                if not i & far:
                    pair = rows[i], rows[i + far]
                    rows[i], rows[i + far] = (builder.shuffle_vector(*pair, mask) for mask in masks)
            far *= 2
        for i in range(width):
            builder.store(rows[i], place(to, args[3], i), align=size)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp, types.intp, zero, lanes), code


@intrinsic
def copy_vector(context: Any, source: Any, to: Any, zero: Any, lanes: Any) -> Any:
    """Copy as many numbers as the tuple `lanes` is long from one address to another."""
    width = len(lanes.types)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        real = context.get_value_type(zero)
        vector, size = ir.VectorType(real, width), zero.bitwidth // 8
        source, to = (builder.inttoptr(one, vector.as_pointer()) for one in args[:2])
        builder.store(builder.load(source, align=size), to, align=size)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, zero, lanes), code


@intrinsic
def pointer(context: Any, address: Any, zero: Any) -> Any:
    """Return an address as a pointer to numbers of the type of `zero`, for numba.carray."""
    signature = types.CPointer(zero)(types.intp, zero)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(zero).as_pointer())

    return signature, code


def _float_of_bits(context: Any, bits: Any) -> Any:
    """Return the float32 that has the bits of an int32."""
    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), code


def _or_plain(code, plain):
    return plain if numba.config.DISABLE_JIT else intrinsic(code)


float_of_bits: Any = _or_plain(_float_of_bits, lambda bits: bits.view(np.float32))


# -- words of an int64 array that several threads read and write, in one order for all of them ---------------
def _word(context, builder, signature, args):
    array = context.make_array(signature.args[0])(context, builder, args[0])
    return at_place(builder, array.data, args[1])


@intrinsic
def add(context: Any, words: Any, place: Any, number: Any) -> Any:
    """words[place] += number; return what it was before."""
    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", _word(context, builder, signature, args), args[2], "seq_cst")

    return types.int64(words, types.intp, types.int64), code


@intrinsic
def load(context: Any, words: Any, place: Any) -> Any:
    """Return words[place]; nothing that follows is read before."""
    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load_atomic(_word(context, builder, signature, args), "seq_cst", 8)

    return types.int64(words, types.intp), code


@intrinsic
def store(context: Any, words: Any, place: Any, number: Any) -> Any:
    """words[place] = number, after all that was written before."""
    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store_atomic(args[2], _word(context, builder, signature, args), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(words, types.intp, types.int64), code


@intrinsic
def swap(context: Any, words: Any, place: Any, expected: Any, number: Any) -> Any:
    """words[place] = number if it is `expected`; return whether it was."""
    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        found = builder.cmpxchg(_word(context, builder, signature, args), args[2], args[3], "seq_cst",
                                "seq_cst")
        return builder.extract_value(found, 1)

    return types.boolean(words, types.intp, types.int64, types.int64), code


@intrinsic
def give_way(context: Any) -> Any:
    """Let another thread have the core, if one waits for it."""
    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_LANE, []), "sched_yield")
        builder.call(function, [])
        return context.get_dummy_value()

    return types.void(), code


@intrinsic
def pause(context: Any) -> Any:
    """Let the other thread of a core go first, in a loop that waits."""
    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.VoidType(), []),
                                                  "llvm.x86.sse2.pause")
        builder.call(function, [])
        return context.get_dummy_value()

    return types.void(), code


@intrinsic
def ticks(context: Any) -> Any:
    """Return the processor's counter of ticks."""
    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_WORD, []),
                                                  "llvm.readcyclecounter")
        return builder.call(function, [])

    return types.int64(), code
