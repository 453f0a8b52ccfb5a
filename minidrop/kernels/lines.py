"""Short lines of an image, a vector at a time, as LLVM instructions; see cpu_direct.py.

A compiler's loop takes many numbers at once and the rest one by one: of 28, 14 or 7 places all are the rest.
Here the last vector of a line overlaps the one before, and a line shorter than a vector takes smaller ones.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError

from minidrop.kernels.vectors import at_place, everywhere, intrinsic, load_vector

_WORD = ir.IntType(64)


def _in_vectors(builder, count, width, body):
    """Call body(first place, numbers) for vectors that cover places 0 .. count - 1, some twice, count > 0."""
    if width == 1:
        body(ir.Constant(_WORD, 0), 1)
        return
    whole = ir.Constant(_WORD, width)
    with builder.if_else(builder.icmp_signed(">=", count, whole)) as (long, short):
        with long:
            last = builder.sub(count, whole)
            before, again = builder.block, builder.append_basic_block("vectors")
            after = builder.append_basic_block("last_vector")
            builder.cbranch(builder.icmp_signed("<", ir.Constant(_WORD, 0), last), again, after)
            builder.position_at_end(again)
            place = builder.phi(_WORD)
            place.add_incoming(ir.Constant(_WORD, 0), before)
            body(place, width)
            following = builder.add(place, whole)
            place.add_incoming(following, builder.block)
            builder.cbranch(builder.icmp_signed("<", following, last), again, after)
            builder.position_at_end(after)
            body(last, width)
        with short:
            _in_vectors(builder, count, width // 2, body)


def _line_by_line(source, to, numbers, lanes, result: Callable):
    """Return a signature and code that write result(builder, vector of source, *numbers) to all of a line.

    Raises TypingError for lines of two types: the vectors are not converted.
    """
    if source.dtype != to.dtype:
        raise TypingError(f"a line of {to.dtype} is not written from one of {source.dtype}")

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        lines = [context.make_array(own)(context, builder, one)
                 for own, one in zip(signature.args[:2], args[:2], strict=True)]
        size = to.dtype.bitwidth // 8

        def body(place, width):
            vector = ir.VectorType(context.get_value_type(to.dtype), width)
            read = load_vector(builder, vector, lines[0].data, place, size)
            where = builder.bitcast(at_place(builder, lines[1].data, place), vector.as_pointer())
            builder.store(result(builder, read, *args[2:-1]), where, align=size)

        [count] = cgutils.unpack_tuple(builder, lines[1].shape)
        _in_vectors(builder, count, len(lanes.types), body)
        return context.get_dummy_value()

    return types.void(source, to, *numbers, lanes), code


@intrinsic
def copy_line(context: Any, source: Any, to: Any, lanes: Any) -> Any:
    """to = source, vectors whose numbers lie side by side; `to` has one at least, source as many or more.

    lanes: a tuple as long as a vector of the machine.
    """
    return _line_by_line(source, to, (), lanes, lambda builder, read: read)


@intrinsic
def finish_line(context: Any, source: Any, to: Any, b: Any, relu: Any, scale: Any, lanes: Any) -> Any:
    """to = scale * f(source + b); f = max(., 0) if `relu`, else nothing; other arguments as of `copy_line`.

    The vectors may not overlap.
    """
    def result(builder, read, b, relu, scale):
        b, scale = (everywhere(builder, one, read.type.count) for one in (b, scale))
        total, nothing = builder.fadd(read, b), ir.Constant(read.type, [0.0] * read.type.count)
        least = builder.select(builder.fcmp_ordered("<=", total, nothing), nothing, total)
        return builder.fmul(scale, builder.select(relu, least, total))

    return _line_by_line(source, to, (to.dtype, types.boolean, to.dtype), lanes, result)
