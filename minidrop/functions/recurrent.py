"""Recurrent networks over whole sequences.

The inputs are multiplied by one `linear` for all steps. The functions here take its result, the gates' share
from outside, (T, N, G H) for T steps, N streams, G gates and H units, and do one product per step for the
state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.autograd import Block, Blocks, Function, Tensor
from minidrop.errors import ShapeError
from minidrop.functions.binary import add
from minidrop.functions.dropout import expand, multiply_mask, scale, take
from minidrop.functions.groups import JoinGroups, SplitGroups, inhabited
from minidrop.functions.hidden_drop import NOTHING, HiddenDrop, gate_rows, kept_mask, step_masks
from minidrop.functions.linear import linear
from minidrop.functions.pieces import gathered
from minidrop.functions.step_weights import StepWeights

if TYPE_CHECKING:
    from minidrop.backend.generic.base import Backend


class Recurrent(Function):
    """What LSTM, GRU and RNN have in common.

    x (T, N, G H): the gates' share from outside; cont (T, N); Wh (G H, H); states (N, H). cont is 0 where a
    sequence begins (the state before it counts as 0), else 1; it has no gradient. If units are absent, x and
    the states come without them (kept sets on their last axes), and so do the results.
    """

    __slots__ = ("drop", "rows", "cont", "reads", "Wh", "Wh_rows", "weights_of_steps", "part", "before")
    kept_rule = "native"
    gates, states = 1, 1

    def __init__(self, drop: HiddenDrop = NOTHING):
        self.drop = drop

    def prepare(self, backend: Backend, x: np.ndarray, cont: np.ndarray, Wh: np.ndarray,
                *states: np.ndarray) -> None:
        """Check shapes and kept sets; remember what the steps need."""
        drop, total = self.drop, Wh.shape[1]
        width = total if drop.units is None else drop.units.count
        self.rows = gate_rows(drop.units, self.gates)
        if cont.ndim != 2 or self.input_kept[1][0] is not None:
            raise ShapeError(f"cont of a recurrent network: expected shape (steps, streams), got "
                             f"{cont.shape}")
        steps, streams = cont.shape
        outside = "the gates' share from outside, x Wx^T + b"
        self._expect(outside, x, 0, (steps, streams, self.gates * width), self.rows)
        if Wh.shape != (self.gates * total, total):
            raise ShapeError(f"expected Wh ({self.gates * total}, {total}), {self.gates} blocks of units x "
                             f"units, got {Wh.shape}")
        for i, state in enumerate(states):
            place = len(self.input_kept) - len(states) + i
            self._expect("a state of a recurrent network", state, place, (streams, width), drop.units)
        self.cont = cont.astype(x.dtype, copy=False)[:, :, None]
        self.reads = self.cont * self._mask(backend, x.dtype, total)
        self.Wh = backend.submatrix(Wh, self.rows, drop.units)
        self.Wh_rows = backend.transposed(self.Wh) if drop.steps is not None else None
        self.weights_of_steps = StepWeights(self.Wh, steps if drop.steps is None else drop.steps.count(None))
        self.part: tuple[Any, list] = None, []      # what a step read, and the rows of Wh_rows that it read
        self.before = backend.empty((steps, streams, width), x.dtype)        # h as the gates read it
        self.output_kept = [(drop.units, 2), *[(drop.units, 1)] * len(states)]

    def _expect(self, what, array, i, shape, kept):
        own, axis = self.input_kept[i]
        own = None if own is not None and own.is_all else own
        if array.shape != shape or own != kept or (own is not None and axis % array.ndim != array.ndim - 1):
            kept, own = ("all units" if one is None else one for one in (kept, own))
            raise ShapeError(f"{what}: expected shape {shape} with {kept} on the last axis, got "
                             f"{array.shape} with {own} on axis {axis}")

    def _mask(self, backend, dtype, total):
        """Return what the gates multiply h by when they read it; broadcasts to (T, N, H)."""
        drop = self.drop
        if drop.mask is not None:
            return backend.asarray(drop.mask, dtype)
        if drop.steps is None:
            return dtype.type(drop.scale)
        return step_masks(backend, drop.steps, self.cont.shape[1], total, drop.scale, dtype)

    def read(self, backend: Backend, t: int, h: np.ndarray) -> np.ndarray:
        """Store what the gates of step t read of the previous h; return its product with Wh^T, (N, G H)."""
        backend.xp.multiply(h, self.reads[t], out=self.before[t])
        parts = self._parts(backend, t)
        if not parts:
            return self.weights_of_steps.multiply(backend, self.before[t], True)
        products = [weights.multiply(backend, backend.take(self.before[t, first:last], kept, 1), False)
                    for first, last, kept, weights in parts]
        return products[0] if len(products) == 1 else backend.concatenate(products)

    def read_gradient(self, backend: Backend, t: int, d: np.ndarray) -> np.ndarray:
        """Return the gradient of the h before step t, given that of the product, d (N, G H)."""
        parts = self._parts(backend, t)
        if not parts:
            gh = self.weights_of_steps.multiply(backend, d, False)
            return backend.xp.multiply(gh, self.reads[t], out=backend.empty(gh.shape, gh.dtype))
        gh = backend.zeros(self.before.shape[1:], d.dtype)
        for first, last, kept, weights in parts:
            backend.put_columns(gh[first:last], kept, weights.multiply(backend, d[first:last], True))
        gh *= self.reads[t]
        return gh

    def _parts(self, backend, t):
        """Return (first, last, Kept, the kept rows of Wh^T) for each group of streams, [] where all is read.

        Gathered once for neighbouring steps that read the same.
        """
        steps = self.drop.steps
        if steps is None or steps[t] is None:
            return []
        if self.part[0] is not steps[t]:
            self.part = None, []        # its buffers are the right sizes for the next
            first, last = t, t      # of the run of steps that read the same
            while first and steps[first - 1] is steps[t]:
                first -= 1
            while last + 1 < len(steps) and steps[last + 1] is steps[t]:
                last += 1
            self.part = steps[t], [
                (begin, end, kept, StepWeights(backend.submatrix(self.Wh_rows, kept, None), last - first + 1))
                for begin, end, kept in self.drop.parts(t, self.before.shape[1])]
        return self.part[1]

    def weight_gradient(self, backend: Backend, d: np.ndarray) -> Block | Blocks:
        """Return gWh from the gradients of all products, d (T, N, G H)."""
        # Not -1: if nothing is kept, a length is 0.
        streams, rows = d.shape[1], d.shape[0] * d.shape[1]
        d, before = d.reshape(rows, d.shape[2]), self.before.reshape(rows, self.before.shape[2])
        self.part = None, []
        if not self.drop.parts_gradient:
            return Block(backend.gemm(d, before, trans_a=True), self.rows, self.drop.units)
        read = {kept: ranges for kept, ranges in self.drop.rows_read(streams).items()
                if kept is None or kept.count}
        products = ((gathered(backend, d, ranges, None), gathered(backend, before, ranges, kept), True, False)
                    for kept, ranges in read.items())
        return Blocks([Block(product, None, kept) for kept, product
                       in zip(read, backend.gemms(products), strict=True)], d.dtype)


class LSTM(Recurrent):
    """LSTM: returns h (T, N, H) and the last h and c, (N, H).

        i f o = sigmoid, g = tanh of x_t + Wh (cont_t h_{t-1})
        c_t = cont_t f c_{t-1} + i g,     h_t = o tanh(c_t)

    Gates are in Caffe's order i f o g. Source: Hochreiter and Schmidhuber 1997, with the forget gate of Gers
    et al. 2000.
    """

    __slots__ = ("activated", "cells", "squashed", "c0")
    gates, states = 4, 2

    def forward(self, backend: Backend, x: np.ndarray, cont: np.ndarray, Wh: np.ndarray, h0: np.ndarray,
                c0: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        self.prepare(backend, x, cont, Wh, h0, c0)
        self.activated = backend.empty(x.shape, x.dtype)
        h, self.cells, self.squashed = (backend.empty(self.before.shape, x.dtype) for _ in range(3))
        last_h, last_c, self.c0 = h0, c0, c0
        for t in range(len(x)):
            product = self.read(backend, t, last_h)
            last_h, last_c = h[t], self.cells[t]
            backend.lstm_step(x[t], product, self._cell_before(t), self.cont[t], self.activated[t], last_c,
                              self.squashed[t], last_h)
        return h, last_h.copy(), last_c.copy()

    def backward(self, backend: Backend, gy: tuple[np.ndarray, np.ndarray | None, np.ndarray | None],
                 wanted: Sequence[bool]) -> tuple:
        gh, g_last_h, g_last_c = gy
        shape, dtype = self.before.shape, self.before.dtype
        d = backend.empty(self.activated.shape, dtype)
        dh = backend.zeros(shape[1:], dtype) if g_last_h is None else g_last_h
        dc = backend.zeros(shape[1:], dtype) if g_last_c is None else g_last_c.copy()
        for t in reversed(range(shape[0])):
            if gh is not None:
                dh = dh + gh[t]
            backend.lstm_step_gradient(self.activated[t], self.squashed[t], self._cell_before(t),
                                       self.cont[t], dh, dc, d[t])
            dh = self.read_gradient(backend, t, d[t])
        return d, None, self.weight_gradient(backend, d) if wanted[2] else None, dh, dc

    def _cell_before(self, t):
        return self.cells[t - 1] if t else self.c0


class GRU(Recurrent):
    """GRU: returns h (T, N, H) and the last h, (N, H).

        r z = sigmoid, n = tanh of x_t + (1, 1, r) (Wh h + bh),     h = cont_t h_{t-1}
        h_t = (1 - z) n + z h

    The reset gate r acts after the product, as in PyTorch: this variant needs one product per step. Gates are
    in the order r z n. The gates read nothing of the dropped part of h, while z carries all of h on. Source:
    Cho et al. 2014.
    """

    __slots__ = ("activated", "carried", "hidden")
    gates = 3

    def forward(self, backend: Backend, x: np.ndarray, cont: np.ndarray, Wh: np.ndarray, bh: np.ndarray,
                h0: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        xp, units = backend.xp, h0.shape[1]
        self.prepare(backend, x, cont, Wh, h0)
        bh = backend.take(bh, self.rows, 0)
        self.activated = backend.empty(x.shape, x.dtype)
        h, self.carried, self.hidden = (backend.empty(self.before.shape, x.dtype) for _ in range(3))
        last = h0
        for t in range(len(x)):
            product = self.read(backend, t, last)
            product += bh
            xp.multiply(last, self.cont[t], out=self.carried[t])
            self.hidden[t] = product[:, 2 * units:]
            rz, n = self.activated[t, :, :2 * units], self.activated[t, :, 2 * units:]
            rz[...] = backend.activate(x[t, :, :2 * units] + product[:, :2 * units], None, "sigmoid", 1)
            r, z = rz[:, :units], rz[:, units:]
            n[...] = backend.activate(x[t, :, 2 * units:] + r * self.hidden[t], None, "tanh", 1)
            h[t] = n + z * (self.carried[t] - n)
            last = h[t]
        return h, last.copy()

    def backward(self, backend: Backend, gy: tuple[np.ndarray, np.ndarray | None],
                 wanted: Sequence[bool]) -> tuple:
        gh, g_last = gy
        steps, streams, units = self.before.shape
        dx = backend.empty(self.activated.shape, self.activated.dtype)
        dp = backend.empty(self.activated.shape, self.activated.dtype)      # of Wh h + bh
        dh = backend.zeros((streams, units), dx.dtype) if g_last is None else g_last
        for t in reversed(range(steps)):
            r, z, n = (self.activated[t, :, k * units:(k + 1) * units] for k in range(3))
            if gh is not None:
                dh = dh + gh[t]
            dn = dh * (1 - z) * (1 - n * n)
            dx[t, :, :units] = dn * self.hidden[t] * r * (1 - r)
            dx[t, :, units:2 * units] = dh * (self.carried[t] - n) * z * (1 - z)
            dx[t, :, 2 * units:] = dn
            dp[t] = dx[t]
            dp[t, :, 2 * units:] *= r
            dh = self.read_gradient(backend, t, dp[t]) + dh * z * self.cont[t]
        gWh = self.weight_gradient(backend, dp) if wanted[2] else None
        gbh = (Block(backend.column_sums(dp.reshape(steps * streams, 3 * units)), self.rows) if wanted[3]
               else None)
        return dx, None, gWh, gbh, dh


class RNN(Recurrent):
    """h_t = tanh(x_t + Wh (cont_t h_{t-1})). Returns h (T, N, H) and the last h, (N, H). Elman 1990."""

    __slots__ = ("h",)

    def forward(self, backend: Backend, x: np.ndarray, cont: np.ndarray, Wh: np.ndarray,
                h0: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.prepare(backend, x, cont, Wh, h0)
        self.h, last = backend.empty(x.shape, x.dtype), h0
        for t in range(len(x)):
            product = self.read(backend, t, last)
            product += x[t]
            last = backend.activate(product, None, "tanh", 1, out=self.h[t])
        return self.h, last.copy()

    def backward(self, backend: Backend, gy: tuple[np.ndarray, np.ndarray | None],
                 wanted: Sequence[bool]) -> tuple[np.ndarray, None, Block | Blocks | None, np.ndarray]:
        gh, g_last = gy
        d = backend.empty(self.h.shape, self.h.dtype)
        dh = backend.zeros(d.shape[1:], d.dtype) if g_last is None else g_last
        for t in reversed(range(len(d))):
            if gh is not None:
                dh = dh + gh[t]
            d[t] = dh * (1 - self.h[t] ** 2)
            dh = self.read_gradient(backend, t, d[t])
        return d, None, self.weight_gradient(backend, d) if wanted[2] else None, dh


def recur(cell: Any, gates: Tensor, cont: Tensor, weights: list[Tensor], states: Any = None,
          drop: HiddenDrop = NOTHING) -> tuple[Tensor, ...]:
    """Return (h, the last states...) of a recurrent network, given the gates' share from outside.

    cell: LSTM, GRU or RNN; gates (T, N, G H), without the rows of absent units (`gate_rows`); weights: the
    parameters that multiply the state; states: (N, H) each, zeros if None. h carries the kept set of
    `drop.units`; the last states are dense. Groups of streams that lack other units each run on their own.
    """
    drops = drop.split()
    if len(drops) > 1:
        return _recur_groups(cell, gates, cont, weights, states, drop.units, drops)
    backend, units = gates.backend, weights[0].shape[1]
    zeros = Tensor(backend.zeros((gates.shape[1], units), gates.dtype), backend=backend)
    states = [zeros if state is None else state for state in states or [None] * cell.states]
    alive = drop.units if drop.units is not None else drop.moving
    read = states if drop.units is None else [take(state, drop.units, 1) for state in states]
    h, *last = cell(drop).apply(gates, cont, *weights, *read)
    if drop.whole:
        h = scale(h, drop.scale) if drop.mask is None else multiply_mask(h, drop.mask)
    if alive is not None:
        xp = backend.xp
        moves = kept_mask(backend, alive, gates.dtype, gates.shape[1])
        same = xp.prod(cont.data.astype(gates.dtype), axis=0)[:, None] * (1 - moves)
        last = [add(expand(new) if drop.units is not None else multiply_mask(new, moves),
                    multiply_mask(old, same))
                for new, old in zip(last, states, strict=True)]
    return h, *last


def _recur_groups(cell, gates, cont, weights, states, units, drops):
    """As `recur` for groups of streams: `drops` has a HiddenDrop for each; `units` is their KeptByGroup."""
    streams, groups = gates.shape[1], len(drops)
    states = states or [None] * cell.states
    split = [SplitGroups(groups, 1).apply(x) for x in (gates, cont)]
    split += [[None] * groups if state is None else SplitGroups(groups, 0).apply(state) for state in states]
    done = [recur(cell, own_gates, own_cont, weights, own, drop)
            for (_, drop), own_gates, own_cont, *own in zip(inhabited(streams, drops), *split, strict=False)]
    h, *last = zip(*done, strict=True)
    return (JoinGroups(units, 1, streams).apply(*h),
            *[JoinGroups(None, 0, streams).apply(*one) for one in last])


def lstm(x: Tensor, cont: Tensor, Wx: Tensor, b: Tensor, Wh: Tensor, h0: Any = None, c0: Any = None,
         drop: HiddenDrop = NOTHING) -> Any:
    """Return (h, last h, last c) of an LSTM over a sequence; states not given are zero. See `LSTM`.

    x (T, N, I), cont (T, N), Wx (4 H, I), b (4 H,), Wh (4 H, H), h0 and c0 (N, H). x may carry a kept set on
    its last axis: then forward and backward read only those columns of Wx.
    """
    gates = linear(x, Wx, b, gate_rows(drop.units, 4))
    return recur(LSTM, gates, cont, [Wh], [h0, c0], drop)


def gru(x: Tensor, cont: Tensor, Wx: Tensor, bx: Tensor, Wh: Tensor, bh: Tensor, h0: Any = None,
        drop: HiddenDrop = NOTHING) -> Any:
    """Return (h, last h) of a GRU over a sequence; a state not given is zero. See `GRU` and `lstm`."""
    return recur(GRU, linear(x, Wx, bx, gate_rows(drop.units, 3)), cont, [Wh, bh], [h0], drop)


def rnn(x: Tensor, cont: Tensor, Wx: Tensor, b: Tensor, Wh: Tensor, h0: Any = None,
        drop: HiddenDrop = NOTHING) -> Any:
    """Return (h, last h) of a simple recurrent network; a state not given is zero. See `RNN`."""
    return recur(RNN, linear(x, Wx, b, drop.units), cont, [Wh], [h0], drop)
