"""Blocks of a convolution in registers, as LLVM instructions; see cpu_direct.py.

Vectors lie along the places. A tap is one entry of the window in one channel: the numbers that it reads for
neighbouring places are neighbours, so that a vector of them is one load, wherever it begins.
"""

from typing import Any

from llvmlite import ir
from numba import types

from minidrop.kernels.vectors import at_place, everywhere, intrinsic, load_vector, loop_over, multiply_add

_WORD, _LANE = ir.IntType(64), ir.IntType(32)


@intrinsic
def add_taps(context: Any, x: Any, offsets: Any, weights: Any, apart: Any, y: Any, stride: Any, depth: Any,
             zero: Any, form: Any) -> Any:
    """y[r, q] = the sum over k < depth of weights[k, r] x[offsets[k] + q], in that order, an FMA a term.

    x, offsets (int64), weights, y: addresses; apart, stride: of the rows of weights and y; depth >= 1; zero:
    a number of their type; form: tuples as long as there are rows, vectors in a row, numbers in a vector.
    """
    rows, vectors, width = (len(one) for one in form.types)
    signature = types.void(*[types.intp] * 7, zero, form)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        real, size = context.get_value_type(zero), zero.bitwidth // 8
        vector = ir.VectorType(real, width)
        x, weights, y = (builder.inttoptr(args[i], real.as_pointer()) for i in (0, 2, 4))
        offsets, apart = builder.inttoptr(args[1], _WORD.as_pointer()), args[3]
        stride, depth = args[5:7]
        fma = multiply_add(builder.module, vector)

        before, k, end = loop_over(builder, depth, "k")
        sums = [[builder.phi(vector) for _ in range(vectors)] for _ in range(rows)]
        own = at_place(builder, x, builder.load(at_place(builder, offsets, k)))
        numbers = [load_vector(builder, vector, own, v * width, size) for v in range(vectors)]
        weights = at_place(builder, weights, builder.mul(k, apart))
        added = []
        for r in range(rows):
            factor = everywhere(builder, builder.load(at_place(builder, weights, r)), width)
            added.append([builder.call(fma, [factor, numbers[v], sums[r][v]]) for v in range(vectors)])
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
def add_places(context: Any, x: Any, offsets: Any, line: Any, x_image: Any, g: Any, y: Any, stride: Any,
               images: Any, lines: Any, places: Any, zero: Any, form: Any) -> Any:
    """y[t, v] += the sum over images, lines r and places q of x[offsets[t] + r line + q] g[(r, q), v].

    Of each image x begins x_image numbers further; g: (images, lines, places, a row of y), without gaps; all
    counts >= 1; other arguments as those of `add_taps`; form: taps, vectors in a row, numbers in a vector.
    All sums stay in registers until the end.
    """
    taps, vectors, width = (len(one) for one in form.types)
    columns = vectors * width
    signature = types.void(*[types.intp] * 10, zero, form)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        real, size = context.get_value_type(zero), zero.bitwidth // 8
        vector = ir.VectorType(real, width)
        x, g, y = (builder.inttoptr(args[i], real.as_pointer()) for i in (0, 4, 5))
        offsets, (line, x_image) = builder.inttoptr(args[1], _WORD.as_pointer()), args[2:4]
        stride, images, lines, places = args[6:10]
        fma = multiply_add(builder.module, vector)
        starts = [builder.load(at_place(builder, offsets, t)) for t in range(taps)]
        nothing = ir.Constant(vector, [0.0] * width)
        loops: list[Any] = []
        outer: Any = [[nothing] * vectors] * taps
        for count, name in ((images, "image"), (lines, "line"), (places, "q")):
            loop = loop_over(builder, count, name)
            sums = [[builder.phi(vector) for _ in range(vectors)] for _ in range(taps)]
            for t in range(taps):
                for v in range(vectors):
                    sums[t][v].add_incoming(outer[t][v], loop[0])
            outer = sums
            loops.append((loop, sums))
            if name == "line":
                image, row = (one[0][1] for one in loops)
                begin = builder.add(builder.mul(image, x_image), builder.mul(row, line))
                reads = [at_place(builder, x, builder.add(start, begin)) for start in starts]
                first = builder.mul(builder.add(builder.mul(image, lines), row), places)
        q = loops[-1][0][1]
        row = at_place(builder, g, builder.mul(builder.add(first, q), ir.Constant(_WORD, columns)))
        numbers = [load_vector(builder, vector, row, v * width, size) for v in range(vectors)]
        added = []
        for t in range(taps):
            factor = everywhere(builder, builder.load(at_place(builder, reads[t], q)), width)
            added.append([builder.call(fma, [factor, numbers[v], sums[t][v]]) for v in range(vectors)])
        for (_, _, end), sums in reversed(loops):
            last = end()
            for t in range(taps):
                for v in range(vectors):
                    sums[t][v].add_incoming(added[t][v], last)
        for t in range(taps):
            to = at_place(builder, y, builder.mul(stride, ir.Constant(_WORD, t)))
            for v in range(vectors):
                total = builder.fadd(load_vector(builder, vector, to, v * width, size), added[t][v])
                place = builder.bitcast(at_place(builder, to, v * width), vector.as_pointer())
                builder.store(total, place, align=size)
        return context.get_dummy_value()

    return signature, code


@intrinsic
def add_dots(context: Any, g: Any, g_row: Any, g_image: Any, x: Any, x_image: Any, offsets: Any, y: Any,
             stride: Any, images: Any, count: Any, zero: Any, form: Any) -> Any:
    """y[r, t] += the sum over n < images, q of g[r g_row + n g_image + q] x[offsets[t] + n x_image + q].

    q runs over `count` vectors, images and count >= 1; other arguments as those of `add_taps`; form: rows,
    taps, numbers in a vector. Each place of a vector is a sum of its own until the end.
    """
    rows, taps, width = (len(one) for one in form.types)
    signature = types.void(*[types.intp] * 10, zero, form)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        real, size = context.get_value_type(zero), zero.bitwidth // 8
        vector = ir.VectorType(real, width)
        g, x, y = (builder.inttoptr(args[i], real.as_pointer()) for i in (0, 3, 6))
        g_row, g_image, x_image = args[1], args[2], args[4]
        offsets, (stride, images, count) = builder.inttoptr(args[5], _WORD.as_pointer()), args[7:10]
        fma = multiply_add(builder.module, vector)
        nothing = ir.Constant(vector, [0.0] * width)
        starts = [builder.load(at_place(builder, offsets, t)) for t in range(taps)]

        before, n, end_images = loop_over(builder, images, "image")
        carried = [[builder.phi(vector) for _ in range(taps)] for _ in range(rows)]
        lines = [at_place(builder, g, builder.add(builder.mul(n, g_image),
                                                  builder.mul(g_row, ir.Constant(_WORD, r))))
                 for r in range(rows)]
        image = at_place(builder, x, builder.mul(n, x_image))
        reads = [at_place(builder, image, start) for start in starts]
        outside, v, end = loop_over(builder, count, "q")
        sums = [[builder.phi(vector) for _ in range(taps)] for _ in range(rows)]
        place = builder.mul(v, ir.Constant(_WORD, width))
        factors = [load_vector(builder, vector, line, place, size) for line in lines]
        added = [[None] * taps for _ in range(rows)]
        for t in range(taps):
            numbers = load_vector(builder, vector, reads[t], place, size)
            for r in range(rows):
                added[r][t] = builder.call(fma, [factors[r], numbers, sums[r][t]])
        inner = end()
        outer = end_images()
        for r in range(rows):
            row = at_place(builder, y, builder.mul(stride, ir.Constant(_WORD, r)))
            for t in range(taps):
                sums[r][t].add_incoming(carried[r][t], outside)
                sums[r][t].add_incoming(added[r][t], inner)
                carried[r][t].add_incoming(nothing, before)
                carried[r][t].add_incoming(added[r][t], outer)
                to = at_place(builder, row, t)
                builder.store(builder.fadd(builder.load(to), _sum(builder, added[r][t])), to)
        return context.get_dummy_value()

    return signature, code


def _sum(builder, vector):
    """Return the sum of the numbers of a vector, halves added to each other."""
    width = vector.type.count
    while width > 1:
        width //= 2
        halves = [builder.shuffle_vector(vector, vector, ir.Constant(
            ir.VectorType(_LANE, width), list(range(begin, begin + width)))) for begin in (0, width)]
        vector = builder.fadd(*halves)
    return builder.extract_element(vector, _LANE(0))
