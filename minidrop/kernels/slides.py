"""Windows that slide over a line, a vector of places at a time, as LLVM instructions; see cpu_pool.py."""

from typing import Any

from llvmlite import ir
from numba import types

from minidrop.kernels.vectors import at_place, everywhere, intrinsic, load_vector, loop_over

STEPS = 3           # the most numbers that two places may lie apart
_WORD, _LANE = ir.IntType(64), ir.IntType(32)


def _every(builder, vector, pointer, step, size):
    """Load number 0, step, 2 step, ... of those at `pointer`; as many vectors are read as `step` says."""
    width, found = vector.count, None
    for part in range(step):
        numbers = load_vector(builder, vector, pointer, part * width, size)
        inside = [width + lane * step - part * width if 0 <= lane * step - part * width < width else lane
                  for lane in range(width)]
        mask = ir.Constant(ir.VectorType(_LANE, width), inside)
        found = builder.shuffle_vector(numbers if found is None else found, numbers, mask)
    return found


@intrinsic
def largest_taps(context: Any, x: Any, offsets: Any, shifts: Any, taps: Any, line: Any, inside: Any,
                 left: Any, y: Any, index: Any, zero: Any, step: Any, lanes: Any) -> Any:
    """y[c] = the largest x[offsets[k] + c step]; index[c] = line + left + c step + shifts[k], of the first k.

    The first NaN is larger than all others. Where nothing is larger than -infinity, index[c] =
    inside + max(left + c step, 0). x, offsets, shifts (both int64), y, index (int32): addresses; zero: a
    number of y's type; step, lanes: tuples as long as the step and as a vector, which is written whole.
    """
    steps, width = len(step.types), len(lanes.types)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        real, size = context.get_value_type(zero), zero.bitwidth // 8
        vector, places = ir.VectorType(real, width), ir.VectorType(_LANE, width)
        x, y = (builder.inttoptr(args[i], real.as_pointer()) for i in (0, 7))
        offsets, shifts = (builder.inttoptr(args[i], _WORD.as_pointer()) for i in (1, 2))
        taps = args[3]
        line, inside, left = (everywhere(builder, builder.trunc(args[i], _LANE), width) for i in (4, 5, 6))
        left = builder.add(left, ir.Constant(places, [lane * steps for lane in range(width)]))
        zeros = ir.Constant(places, [0] * width)
        at = builder.add(line, left)
        start = builder.add(inside, builder.select(builder.icmp_signed(">", left, zeros), left, zeros))
        before, k, end = loop_over(builder, taps, "tap")
        best, found = builder.phi(vector), builder.phi(places)
        best.add_incoming(ir.Constant(vector, [float("-inf")] * width), before)
        found.add_incoming(start, before)
        own = at_place(builder, x, builder.load(at_place(builder, offsets, k)))
        numbers = _every(builder, vector, own, steps, size)
        shift = builder.trunc(builder.load(at_place(builder, shifts, k)), _LANE)
        place = builder.add(at, everywhere(builder, shift, width))
        larger = builder.and_(builder.fcmp_unordered(">", numbers, best),
                              builder.fcmp_ordered("ord", best, best))
        chosen = builder.select(larger, numbers, best), builder.select(larger, place, found)
        last = end()
        best.add_incoming(chosen[0], last)
        found.add_incoming(chosen[1], last)
        builder.store(chosen[0], builder.bitcast(y, vector.as_pointer()), align=size)
        builder.store(chosen[1], builder.inttoptr(args[8], places.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 9, zero, step, lanes), code


@intrinsic
def sum_taps(context: Any, x: Any, offsets: Any, taps: Any, y: Any, zero: Any, step: Any, lanes: Any) -> Any:
    """y[c] = the sum over k < taps of x[offsets[k] + c step], in that order; arguments as `largest_taps`."""
    steps, width = len(step.types), len(lanes.types)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        real, size = context.get_value_type(zero), zero.bitwidth // 8
        vector = ir.VectorType(real, width)
        x, y = (builder.inttoptr(args[i], real.as_pointer()) for i in (0, 3))
        offsets = builder.inttoptr(args[1], _WORD.as_pointer())
        before, k, end = loop_over(builder, args[2], "tap")
        total = builder.phi(vector)
        total.add_incoming(ir.Constant(vector, [0.0] * width), before)
        own = at_place(builder, x, builder.load(at_place(builder, offsets, k)))
        added = builder.fadd(total, _every(builder, vector, own, steps, size))
        total.add_incoming(added, end())
        builder.store(added, builder.bitcast(y, vector.as_pointer()), align=size)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 4, zero, step, lanes), code
