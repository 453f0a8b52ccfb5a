"""Recurrent networks over whole sequences: one product for all inputs, one a step for the state."""

import math

from minidrop.autograd import Block, Function, Tensor
from minidrop.errors import ShapeError


class Recurrent(Function):
    """What LSTM, GRU and RNN have in common: x (T, N, I), cont (T, N), Wx (G H, I), b (G H,), Wh (G H, H), then the states.

    cont is 0 where a step begins a sequence (the state before it counts as 0), else 1; it has no gradient. Where x carries
    a kept set on its last axis only those columns of Wx are read, forward and backward.
    """

    kept_rule = "native"
    gates = 1

    def prepare(self, backend, x, cont, Wx, Wh):
        """Check shapes and remember operands; returns x Wx^T as (T, N, G H)."""
        kept, axis = self.input_kept[0]
        if x.ndim != 3 or cont.shape != x.shape[:2]:
            raise ShapeError(f"expected x (steps, streams, inputs) and cont (steps, streams), got {x.shape} and {cont.shape}")
        if kept is not None and axis % 3 != 2:
            raise ShapeError(f"x of shape {x.shape} carries a kept set on axis {axis}; only the last axis can")
        inputs = x.shape[2] if kept is None else kept.total
        units = Wh.shape[1]
        if Wx.shape != (self.gates * units, inputs) or Wh.shape[0] != self.gates * units:
            raise ShapeError(f"expected Wx ({self.gates * units}, {inputs}) and Wh ({self.gates * units}, {units}) for x with "
                             f"{inputs} inputs, got {Wx.shape} and {Wh.shape}")
        self.kept, self.cont, self.Wh, self.shape = kept, cont.astype(x.dtype, copy=False)[:, :, None], Wh, x.shape
        self.x = x.reshape(math.prod(x.shape[:2]), x.shape[2])
        self.Wx = backend.submatrix(Wx, None, kept)
        return backend.gemm(self.x, self.Wx, trans_b=True).reshape(*x.shape[:2], self.gates * units)

    def input_gradients(self, backend, gates, wanted):
        """Return (gx, gWx) from the gradient of x Wx^T, (T N, G H)."""
        gx = backend.gemm(gates, self.Wx).reshape(self.shape) if wanted[0] else None
        gWx = Block(backend.gemm(gates, self.x, trans_a=True), None, self.kept) if wanted[2] else None
        return gx, gWx


class LSTM(Recurrent):
    """i f o = sigmoid, g = tanh of Wx x_t + b + Wh (cont_t h_{t-1});  c_t = cont_t f c_{t-1} + i g;  h_t = o tanh(c_t).

    Gates stand in Caffe's order i f o g. Returns h (T, N, H) and the last h and c, (N, H). Hochreiter and Schmidhuber 1997,
    with the forget gate of Gers et al. 2000.
    """

    gates = 4

    def forward(self, backend, x, cont, Wx, b, Wh, h0, c0):
        xp = backend.xp
        gates = self.prepare(backend, x, cont, Wx, Wh)
        gates += b
        units = Wh.shape[1]
        h = backend.empty((*x.shape[:2], units), x.dtype)
        before, cells, squashed = (backend.empty(h.shape, x.dtype) for _ in range(3))
        last_h, last_c = h0, c0
        for t in range(len(x)):
            xp.multiply(last_h, self.cont[t], out=before[t])
            gates[t] += backend.gemm(before[t], Wh, trans_b=True)
            ifo, g = gates[t, :, :3 * units], gates[t, :, 3 * units:]
            ifo[...] = sigmoid(xp, ifo)
            xp.tanh(g, out=g)
            i, f, o = (ifo[:, k * units:(k + 1) * units] for k in range(3))
            xp.multiply(i, g, out=cells[t])
            cells[t] += f * (last_c * self.cont[t])
            xp.tanh(cells[t], out=squashed[t])
            xp.multiply(o, squashed[t], out=h[t])
            last_h, last_c = h[t], cells[t]
        self.activated, self.before, self.cells, self.squashed, self.c0 = gates, before, cells, squashed, c0
        return h, last_h.copy(), last_c.copy()

    def backward(self, backend, gy, wanted):
        gh, g_last_h, g_last_c = gy
        units, cont = self.Wh.shape[1], self.cont
        steps, streams = self.cells.shape[:2]
        d = backend.empty(self.activated.shape, self.activated.dtype)
        dh = backend.zeros((streams, units), d.dtype) if g_last_h is None else g_last_h
        dc = backend.zeros((streams, units), d.dtype) if g_last_c is None else g_last_c
        for t in reversed(range(steps)):
            i, f, o, g = (self.activated[t, :, k * units:(k + 1) * units] for k in range(4))
            if gh is not None:
                dh = dh + gh[t]
            c_before = (self.cells[t - 1] if t else self.c0) * cont[t]
            dc = dc + dh * o * (1 - self.squashed[t] ** 2)
            d[t, :, :units] = dc * g * i * (1 - i)
            d[t, :, units:2 * units] = dc * c_before * f * (1 - f)
            d[t, :, 2 * units:3 * units] = dh * self.squashed[t] * o * (1 - o)
            d[t, :, 3 * units:] = dc * i * (1 - g * g)
            dh = backend.gemm(d[t], self.Wh) * cont[t]
            dc = dc * f * cont[t]
        flat = d.reshape(steps * streams, 4 * units)
        gx, gWx = self.input_gradients(backend, flat, wanted)
        gb = backend.column_sums(flat) if wanted[3] else None
        gWh = backend.gemm(flat, self.before.reshape(steps * streams, units), trans_a=True) if wanted[4] else None
        return gx, None, gWx, gb, gWh, dh, dc


class GRU(Recurrent):
    """r z = sigmoid, n = tanh of Wx x_t + bx + (1, 1, r) (Wh h + bh);  h_t = (1 - z) n + z h, where h = cont_t h_{t-1}.

    The reset gate r acts after the product (the variant that needs one product a step; PyTorch's). Gates stand in the order
    r z n. Returns h (T, N, H) and the last h, (N, H). Cho et al. 2014.
    """

    gates = 3

    def forward(self, backend, x, cont, Wx, bx, Wh, bh, h0):
        xp = backend.xp
        gates = self.prepare(backend, x, cont, Wx, Wh)
        gates += bx
        units = Wh.shape[1]
        h = backend.empty((*x.shape[:2], units), x.dtype)
        before, hidden = backend.empty(h.shape, x.dtype), backend.empty(h.shape, x.dtype)
        last = h0
        for t in range(len(x)):
            xp.multiply(last, self.cont[t], out=before[t])
            product = backend.gemm(before[t], Wh, trans_b=True)
            product += bh
            rz, n = gates[t, :, :2 * units], gates[t, :, 2 * units:]
            rz += product[:, :2 * units]
            rz[...] = sigmoid(xp, rz)
            r, z = rz[:, :units], rz[:, units:]
            hidden[t] = product[:, 2 * units:]
            n += r * hidden[t]
            xp.tanh(n, out=n)
            h[t] = n + z * (before[t] - n)
            last = h[t]
        self.activated, self.before, self.hidden = gates, before, hidden
        return h, last.copy()

    def backward(self, backend, gy, wanted):
        gh, g_last = gy
        steps, streams, units = self.before.shape
        dx = backend.empty(self.activated.shape, self.activated.dtype)      # of Wx x + bx
        dp = backend.empty(self.activated.shape, self.activated.dtype)      # of Wh h + bh
        dh = backend.zeros((streams, units), dx.dtype) if g_last is None else g_last
        for t in reversed(range(steps)):
            r, z, n = (self.activated[t, :, k * units:(k + 1) * units] for k in range(3))
            if gh is not None:
                dh = dh + gh[t]
            dn = dh * (1 - z) * (1 - n * n)
            dx[t, :, :units] = dn * self.hidden[t] * r * (1 - r)
            dx[t, :, units:2 * units] = dh * (self.before[t] - n) * z * (1 - z)
            dx[t, :, 2 * units:] = dn
            dp[t] = dx[t]
            dp[t, :, 2 * units:] *= r
            dh = (backend.gemm(dp[t], self.Wh) + dh * z) * self.cont[t]
        flat, flat_p = (d.reshape(steps * streams, 3 * units) for d in (dx, dp))
        gx, gWx = self.input_gradients(backend, flat, wanted)
        gWh = backend.gemm(flat_p, self.before.reshape(steps * streams, units), trans_a=True) if wanted[4] else None
        return (gx, None, gWx, backend.column_sums(flat) if wanted[3] else None, gWh,
                backend.column_sums(flat_p) if wanted[5] else None, dh)


class RNN(Recurrent):
    """h_t = tanh(Wx x_t + b + Wh (cont_t h_{t-1})). Returns h (T, N, H) and the last h, (N, H). Elman 1990."""

    def forward(self, backend, x, cont, Wx, b, Wh, h0):
        h = self.prepare(backend, x, cont, Wx, Wh)
        h += b
        before, last = backend.empty(h.shape, x.dtype), h0
        for t in range(len(x)):
            backend.xp.multiply(last, self.cont[t], out=before[t])
            h[t] += backend.gemm(before[t], Wh, trans_b=True)
            backend.xp.tanh(h[t], out=h[t])
            last = h[t]
        self.h, self.before = h, before
        return h, last.copy()

    def backward(self, backend, gy, wanted):
        gh, g_last = gy
        steps, streams, units = self.h.shape
        d = backend.empty(self.h.shape, self.h.dtype)
        dh = backend.zeros((streams, units), d.dtype) if g_last is None else g_last
        for t in reversed(range(steps)):
            if gh is not None:
                dh = dh + gh[t]
            d[t] = dh * (1 - self.h[t] ** 2)
            dh = backend.gemm(d[t], self.Wh) * self.cont[t]
        flat = d.reshape(steps * streams, units)
        gx, gWx = self.input_gradients(backend, flat, wanted)
        gWh = backend.gemm(flat, self.before.reshape(steps * streams, units), trans_a=True) if wanted[4] else None
        return gx, None, gWx, backend.column_sums(flat) if wanted[3] else None, gWh, dh


def sigmoid(xp, x):
    """1 / (1 + exp(-x)), which does not overflow."""
    return 0.5 * (xp.tanh(0.5 * x) + 1)


def lstm(x, cont, Wx, b, Wh, h0=None, c0=None):
    """Return (h, last h, last c) of an LSTM over a sequence; states are zero where they are not given. See `LSTM`."""
    h0, c0 = _state(x, Wh, h0), _state(x, Wh, c0)
    return LSTM().apply(x, cont, Wx, b, Wh, h0, c0)


def gru(x, cont, Wx, bx, Wh, bh, h0=None):
    """Return (h, last h) of a GRU over a sequence; the state is zero where it is not given. See `GRU`."""
    return GRU().apply(x, cont, Wx, bx, Wh, bh, _state(x, Wh, h0))


def rnn(x, cont, Wx, b, Wh, h0=None):
    """Return (h, last h) of a simple recurrent network over a sequence; the state is zero where it is not given. See `RNN`."""
    return RNN().apply(x, cont, Wx, b, Wh, _state(x, Wh, h0))


def _state(x, Wh, state):
    if state is not None:
        return state
    backend = x.backend
    return Tensor(backend.zeros((x.shape[1], Wh.shape[1]), x.dtype), backend=backend)
