"""The operations that may differ between devices, written once in `xp`.

Every generic method here is the reference: a device overrides one only where a measurement says so, and the
backends-agree tests compare the override with it.
"""

import math
from contextlib import nullcontext

import numpy as np

from minidrop.errors import CaptureError, ShapeError
from minidrop.kept import Kept

PRECISIONS = ("float32", "tf32", "float16", "bfloat16")


class Backend:
    """Arrays and products on one device. `xp` is its array module (NumPy or CuPy); `name` is "cpu" or "cuda:N".

    `precision`, one of PRECISIONS: what products of float32 arrays round their operands to; float64 is never rounded.
    """

    name = "generic"
    precision = "float32"
    xp = np
    reads_grids = False     # has kernels that look into BlockGrids on the device
    captures = False        # whether `capture` can do anything
    capturing = False       # True while work is captured, or done as if it were: the host looks at nothing
    trouble = None          # while capturing: an array of one int32, not 0 once something was wrong

    # -- arrays ------------------------------------------------------------------------------------------------------
    def empty(self, shape, dtype):
        """Return an uninitialised C-contiguous array."""
        return self.xp.empty(shape, dtype)

    def zeros(self, shape, dtype):
        """Return an array of zeros."""
        out = self.empty(shape, dtype)
        out.fill(0)
        return out

    def asarray(self, x, dtype=None):
        """Return `x` (host array, device array or nested lists) as an array of this device."""
        return self.xp.asarray(x, dtype)

    def to_host(self, x):
        """Return `x` as a NumPy array."""
        return np.asarray(x)

    def active(self):
        """Return a context in which new arrays and work belong to this device, whatever the thread used before."""
        return nullcontext()

    def concatenate(self, arrays, axis=0):
        """Return arrays joined along `axis`, each written into its place: a list of addresses would go to the device first."""
        axis %= arrays[0].ndim
        shape = list(arrays[0].shape)
        shape[axis] = sum(x.shape[axis] for x in arrays)
        out, first = self.empty(tuple(shape), arrays[0].dtype), 0
        for x in arrays:
            last = first + x.shape[axis]
            out[(slice(None),) * axis + (slice(first, last),)] = x
            first = last
        return out

    def trim(self):
        """Give memory that is held for reuse back to the system."""

    def in_chunks(self, work, rows, columns, itemsize):
        """Call work(first, last) until all rows 0 .. rows-1 of a matrix have been in one call: here in one.

        A device may have a reason for smaller pieces, in any order and at the same time.
        """
        work(0, rows)

    def synchronize(self):
        """Wait until all work given to the device is done."""

    def describe(self):
        """Return one line for people: the device and what computes on it."""
        return self.name

    def pinned(self, x):
        """Return a host array as one that `upload` can copy while the host goes on; threads may call it.

        It may be the same array. It must not change any more once it has been given to `upload`.
        """
        return x

    def upload(self, owner, arrays):
        """Return the arrays of a batch on this device; types stay, and what is there already is not copied.

        What is returned holds until eight later uploads of the same `owner`, any object that can be referred to weakly.
        """
        return [self.asarray(x) for x in arrays]

    def send(self, target, source):
        """Copy a host array to an array of this device like it, in the order of all other work.

        `source` lies in memory that `pinned` returned, and must not change before the copy is done, which nobody waits for.
        """
        target[...] = self.asarray(source)

    def fetch(self, x):
        """Return an object whose get() returns the content that x has now on the host; a device copies meanwhile."""
        return _Fetched(self.to_host(x).copy())

    def refuse(self, wrong, error):
        """Raise the exception error() where an entry of the bool array `wrong` is True.

        A step that is being captured cannot look: it notes on the device that something is wrong, and whoever replays it
        looks later (see solver.captured).
        """
        if bool(wrong.any()):
            raise error()

    def capture(self, work):
        """Return what work() gives the device to do as a graph: `launch()` does it, as often as wanted. CaptureError."""
        raise CaptureError(f"{self.name} captures nothing")

    # -- products ----------------------------------------------------------------------------------------------------
    def gemm(self, a, b, trans_a=False, trans_b=False):
        """Return op(a) op(b) for matrices, op(m) = m or m^T."""
        a = a.T if trans_a else a
        b = b.T if trans_b else b
        return self.xp.matmul(a, b, out=self.empty((a.shape[0], b.shape[1]), a.dtype))

    def gemms(self, products):
        """Yield gemm(*product) for each (a, b, trans_a, trans_b), in order. A device may take them all at once."""
        for one in products:
            yield self.gemm(*one)

    def operand(self, x):
        """Return a matrix in the form in which several products read it best: for them alone."""
        return x

    def scaled(self, x, factor):
        """Return factor * x, for products and for others; `x` itself where the factor is 1."""
        return x if factor == 1 else self.xp.multiply(x, x.dtype.type(factor), out=self.empty(x.shape, x.dtype))

    def thin_gemm(self, a, b, trans_b=False):
        """Return a op(b), as `gemm`, where `a` has few rows; the result's memory may run along its columns."""
        return self.gemm(a, b, trans_b=trans_b)

    def add_to_rows(self, y, b):
        """y += b for every row of a matrix, in place."""
        y += b

    def column_sums(self, x):
        """Return the sum of the rows of a matrix: (rows, columns) -> (columns,)."""
        return x.sum(axis=0)

    # -- products of blocks --------------------------------------------------------------------------------------------
    def block_products(self, dtype):
        """Whether `block_product` is how this device best leaves out dead blocks; else what lives is gathered."""
        return False

    def block_mask(self, grid):
        """Return which blocks live on this device, as the array `lives` of a BlockGrid: for reading only."""
        if grid.lives_at is not None:
            return grid.lives_at
        if self.capturing:
            raise CaptureError("which blocks live is drawn on the host in every iteration; a captured step needs it on the "
                               "device (BlockGrid.lives_at)")
        return self.asarray(grid.lives)

    def block_product(self, a, b, trans_a=False, trans_b=False, a_grid=None, n_grid=None, scale=1, bias=None):
        """Return scale * op(a) op(b) + bias (b and bias as in `gemm` and `add_to_rows`), dead blocks counting as zeros.

        a_grid: BlockGrid of `a`, stored as (samples, units) whatever trans_a. n_grid: of what has the same samples and the
        result's columns: the result itself, whose dead blocks are the bias, or with trans_a, where samples are summed, b.
        None: all lives. Not both trans_a and trans_b. Raises ShapeError.
        """
        check_block_product(a, b, trans_a, trans_b, a_grid, n_grid)
        a = self._masked(a, a_grid)
        if trans_a:
            y = self.gemm(a, self._masked(b, n_grid), True, trans_b)
        else:
            y = self._masked(self.gemm(a, b, False, trans_b), n_grid)
        y = self.scaled(y, scale)
        if bias is not None:
            self.add_to_rows(y, bias)
        return y

    def _masked(self, x, grid):
        """Return a matrix with zeros where blocks are dead."""
        if grid is None:
            return x
        rows, columns = (self.xp.arange(n) // size for n, size in zip(x.shape, (grid.block_samples, grid.block_units),
                                                                      strict=True))
        return self.xp.where(self.block_mask(grid)[rows[:, None], columns] != 0, x, x.dtype.type(0))

    def multiply_blocks(self, x, grid, scale):
        """Return x (samples, units, rest) times `scale` where blocks live, times 0 where they are dead."""
        rows, columns = (self.xp.arange(n) // size for n, size in zip(x.shape, (grid.block_samples, grid.block_units),
                                                                      strict=False))
        factors = self.block_mask(grid)[rows[:, None], columns].astype(x.dtype) * x.dtype.type(scale)
        return self.xp.multiply(x, factors[:, :, None], out=self.empty(x.shape, x.dtype))

    # -- kept sets ---------------------------------------------------------------------------------------------------
    def take(self, x, kept, axis):
        """Return only the kept entries of `axis`; all of `x` where `kept` is None."""
        if kept is None:
            return x
        return x[self._at(kept, axis, x.ndim)]

    def put(self, x, kept, axis):
        """Return `x` with `axis` at full length, zero where it is not kept: the transpose of `take`."""
        if kept is None:
            return x
        shape = list(x.shape)
        shape[axis] = kept.total
        out = self.zeros(tuple(shape), x.dtype)
        out[self._at(kept, axis, x.ndim)] = x
        return out

    def put_columns(self, out, kept, x):
        """out[:, kept] = x for matrices; the other columns stay as they are (None: all)."""
        out[:, slice(None) if kept is None else self._index(kept)] = x

    def add_block(self, out, rows, cols, x):
        """out[rows, cols] += x for two kept sets of a matrix (None: all); a vector has at most one. `x` may be any array
        of `out`'s size where both are None."""
        if rows is None and cols is None:
            out += x.reshape(out.shape)
            return
        at = [slice(None) if kept is None else self._index(kept) for kept in (rows, cols)]
        if out.ndim == 1:
            at = [at[1] if rows is None else at[0]]
        elif not any(isinstance(index, slice) for index in at):
            at[0] = at[0][:, None]      # two lists: crossed, not paired
        out[tuple(at)] += x

    def submatrix(self, W, rows, cols):
        """Return W[rows, cols] for two kept sets (None: all), for products and `scaled` alone: devices may gather later."""
        return self.take(self.take(W, rows, 0), cols, 1)

    def round_block(self, W, rows, cols, factor, kind, out):
        """out = the bits of factor * W[rows, cols] as "float16" or "bfloat16": float32 -> uint16.

        To the nearest, to even where halfway; NaN stays NaN.
        """
        xp = self.xp
        x = xp.ascontiguousarray(Backend.scaled(self, Backend.submatrix(self, W, rows, cols), factor))
        if kind == "float16":
            out[...] = x.astype(np.float16).view(np.uint16)
            return
        bits = x.view(np.uint32)
        bits = ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)
        out[...] = xp.where(xp.isnan(x), np.uint16(0x7FC0), bits)

    def lookup(self, W, ids, cols):
        """Return W[ids][:, cols]: ids any row numbers in an int64 array, repeated or not, cols a kept set (None: all)."""
        return self.take(W[ids], cols, 1)

    def table_gradient(self, x, ids, rows):
        """Return (g, kept): the sum of what each row of a table has got, where row ids[i] has got x[i]; kept are rows of it.

        ids: int64 (places,) of 0 .. rows-1, x (places, columns). What one row gets from several places is added in their
        order. `kept` may be a `TableKept`, which only a device knows.
        """
        ids = self.to_host(ids)
        order = np.argsort(ids, kind="stable")      # stable: the places of one row stay in their order
        ordered = ids[order]
        starts = np.flatnonzero(np.diff(ordered, prepend=-1))
        return self.sum_groups(x, order, starts), Kept.of(ordered[starts], rows)

    def sum_groups(self, x, order, starts):
        """Return the sums of groups of rows of a matrix, the same for every call with the same arguments.

        Group i are the rows order[starts[i]:starts[i + 1]], the last goes to the end: (rows, columns) -> (groups, columns).
        `order` and `starts` are int64 arrays on the host; no group is empty.
        """
        xp = self.xp
        if not len(starts):
            return self.zeros((0, x.shape[1]), x.dtype)
        return xp.add.reduceat(x[xp.asarray(order)], xp.asarray(starts), axis=0)

    def multiply_groups(self, x, ends, factors):
        """Return x (rows, features, rest) times the factors (groups, features) of each row's group.

        Group i has the rows ends[i - 1] .. ends[i] - 1; `ends` are host integers, the last is the number of rows.
        """
        y, first = self.empty(x.shape, x.dtype), 0
        for last, factor in zip(ends, factors, strict=True):
            self.xp.multiply(x[first:last], factor[:, None], out=y[first:last])
            first = last
        return y

    def _index(self, kept):
        return kept.index

    def _at(self, kept, axis, ndim):
        return (slice(None),) * (axis % ndim) + (self._index(kept),)

    # -- activations ---------------------------------------------------------------------------------------------------
    def relu(self, x):
        """Return max(x, 0)."""
        return self.xp.maximum(x, 0, out=self.empty(x.shape, x.dtype))

    def relu_gradient(self, gy, y):
        """Return gy where y = relu(x) is above 0, else 0."""
        return self.activate_gradient(gy, y, "relu", 1)

    def activate(self, x, b, activation, scale, out=None):
        """Return scale * f(x + b): activation "none", "relu", "sigmoid" or "tanh" names f; b (columns,) or None.

        `out`: where to write it, x itself or an array like it.
        """
        xp, number = self.xp, x.dtype.type
        y = self.empty(x.shape, x.dtype) if out is None else out
        if b is not None:
            x = xp.add(x, b, out=y)
        if activation == "relu":
            xp.maximum(x, 0, out=y)
        elif activation == "sigmoid":
            xp.tanh(xp.multiply(x, number(0.5), out=y), out=y)
            y *= number(0.5)
            y += number(0.5)
        elif activation == "tanh":
            xp.tanh(x, out=y)
        elif b is None and x is not y:
            y[...] = x
        if scale != 1:
            y *= number(scale)
        return y

    def activate_gradient(self, gy, y, activation, scale):
        """Return gy * scale * f'(x) from y = scale * f(x); scale is not 0 where f is "sigmoid" or "tanh"."""
        number = gy.dtype.type
        if activation == "relu":
            gx = self.xp.multiply(gy, (y if scale > 0 else -y) > 0, out=self.empty(gy.shape, gy.dtype))
            if scale != 1:
                gx *= number(scale)
            return gx
        if activation == "none":
            return self.xp.multiply(gy, number(scale), out=self.empty(gy.shape, gy.dtype))
        f = y if scale == 1 else y / number(scale)
        gx = gy if scale == 1 else gy * number(scale)
        return gx * f * (1 - f) if activation == "sigmoid" else gx * (1 - f * f)

    # -- loss ----------------------------------------------------------------------------------------------------------
    def cross_entropy(self, x, label, probability):
        """Write softmax of the rows of x (rows, classes) to `probability` and return ln of each label's, (rows,).

        x may be `probability`; label: int64 (rows,). A probability below the smallest normal number counts as that.
        """
        xp, smallest = self.xp, np.finfo(x.dtype).tiny
        logarithm = self.empty(x.shape[:1], x.dtype)

        def rows(first, last):
            part, p = x[first:last], probability[first:last]
            xp.subtract(part, part.max(axis=1, keepdims=True), out=p)
            xp.exp(p, out=p)
            p /= p.sum(axis=1, keepdims=True)
            logarithm[first:last] = xp.log(xp.maximum(p[xp.arange(last - first), label[first:last]], smallest))

        self.in_chunks(rows, *x.shape, x.dtype.itemsize)
        return logarithm

    def cross_entropy_gradient(self, probability, label, factor):
        """probability = (probability - onehot(label)) * factor, in place; factor: one number, or (rows, 1), as an array."""
        def rows(first, last):
            p = probability[first:last]
            p[self.xp.arange(last - first), label[first:last]] -= 1
            p *= factor[first:last] if factor.ndim else factor

        self.in_chunks(rows, *probability.shape, probability.dtype.itemsize)

    # -- recurrent networks ------------------------------------------------------------------------------------------
    def transposed(self, W):
        """Return W^T as a C-contiguous array."""
        out = self.empty(W.shape[::-1], W.dtype)
        out[...] = W.T
        return out

    def lstm_step(self, x, product, c_before, cont, activated, c, squashed, h):
        """One step of an LSTM; writes the gates i f o g after their functions, c, tanh(c) and h.

        x, product (N, 4 H): the gates' shares from outside and from the state; c_before (N, H); cont (N, 1) of 0 and 1.
        i f o = sigmoid, g = tanh;  c = cont f c_before + i g;  h = o tanh(c).
        """
        xp, units = self.xp, c.shape[1]
        xp.add(x, product, out=activated)
        ifo, g = activated[:, :3 * units], activated[:, 3 * units:]
        ifo[...] = sigmoid(xp, ifo)
        xp.tanh(g, out=g)
        i, f, o = (ifo[:, k * units:(k + 1) * units] for k in range(3))
        xp.multiply(f, c_before * cont, out=c)
        c += i * g
        xp.tanh(c, out=squashed)
        xp.multiply(o, squashed, out=h)

    def lstm_step_gradient(self, activated, squashed, c_before, cont, dh, dc, d):
        """The gradient of `lstm_step` from dh and dc, of h and c: writes d of the gates' shares; dc becomes c_before's."""
        units = dh.shape[1]
        i, f, o, g = (activated[:, k * units:(k + 1) * units] for k in range(4))
        dc += dh * o * (1 - squashed * squashed)
        d[:, :units] = dc * g * i * (1 - i)
        d[:, units:2 * units] = dc * (c_before * cont) * f * (1 - f)
        d[:, 2 * units:3 * units] = dh * squashed * o * (1 - o)
        d[:, 3 * units:] = dc * i * (1 - g * g)
        dc *= f * cont

    # -- dropout -----------------------------------------------------------------------------------------------------
    def dropout(self, x, rate, scale, key):
        """Return (y, mask): y = x * mask * scale with mask ~ Bernoulli(1 - rate), element i drawn from (key, i) alone.

        `mask` is for `dropout_gradient`: a 0/1 array, or what can be made one with `to_host`.
        Philox4x32-10 (Salmon et al. 2011), counter i // 4, word i % 4: the same mask on every device.
        """
        xp = self.xp
        words = _words(xp, x.size, key).reshape(x.shape)
        mask = words >= xp.uint64(dropout_threshold(rate))
        return (x * mask * x.dtype.type(scale)).astype(x.dtype, copy=False), mask

    def dropout_gradient(self, gy, mask, scale):
        """Return gy * mask * scale."""
        gx = self.xp.multiply(gy, mask, out=self.empty(gy.shape, gy.dtype))
        gx *= gy.dtype.type(scale)
        return gx

    def gaussian(self, shape, dtype, key):
        """Return numbers of N(0, 1), number i drawn from (key, i) alone; the same for all dtypes, to rounding.

        Box and Muller 1958 on the words of `dropout`: words 2k and 2k + 1 make u and v = (word + 1) / 2**32 in (0, 1], and
        numbers 2k and 2k + 1 are sqrt(-2 ln u) times cos and sin of 2 pi v. None is beyond sqrt(64 ln 2) = 6.66.
        """
        xp, size = self.xp, math.prod(shape)
        # In float64 whatever the dtype: a u near 1, rounded to float32, would lose most digits of its logarithm.
        uniform = ((_words(xp, size + size % 2, key).astype(np.float64) + 1) * 2.0**-32).reshape(-1, 2)
        radius, angle = xp.sqrt(-2 * xp.log(uniform[:, 0])), 2 * math.pi * uniform[:, 1]
        pairs = xp.stack([radius * xp.cos(angle), radius * xp.sin(angle)], axis=1)
        return pairs.reshape(-1)[:size].reshape(shape).astype(dtype)

    # -- solver ------------------------------------------------------------------------------------------------------
    def sgd_update(self, W, history, blocks, lr, momentum, decay, l1, grad_scale):
        """history = momentum * history + lr * (grad_scale * gW + decay * R(W));  W -= history. In place.

        `blocks` is the gradient as a list of `Block`s (see autograd.tensor); R(W) = sign(W) if `l1` else W. Without momentum
        nobody reads the history; without decay either, it is left as it is, and so are the weights that have no gradient.
        For captured steps `lr` and `grad_scale` may be float64 arrays (1,), and nothing changes where `trouble` is set.
        """
        xp = self.xp
        if not momentum and not decay:
            for block in blocks:
                block.add_to(self, W, -lr * grad_scale)
            return
        history *= momentum
        if decay:
            history += (lr * decay) * (xp.sign(W) if l1 else W)
        for block in blocks:
            block.add_to(self, history, lr * grad_scale)
        W -= history

    def keep_if_well(self, target, new):
        """target[...] = new, unless `trouble` is set on the device: then `target` stays as it is."""
        target[...] = new

    def sum_of_squares(self, *arrays):
        """Return the sum of the squares of all elements of some arrays as a host float; the device is waited for once."""
        return float(self.squares(*arrays))

    def squares(self, *arrays):
        """As `sum_of_squares`, but the float64 stays on the device, shape (): nobody waits for it."""
        total = self.xp.zeros((), np.float64)
        for array in arrays:
            flat = array.reshape(-1)
            total = total + self.xp.dot(flat, flat)
        return total


class _Fetched:
    def __init__(self, x):
        self.get = lambda: x


def check_block_product(a, b, trans_a, trans_b, a_grid, n_grid):
    """Raise ShapeError where the arguments of `block_product` do not fit each other."""
    depth, columns = b.shape[::-1] if trans_b else b.shape
    if trans_a and trans_b or a.shape[0 if trans_a else 1] != depth:
        raise ShapeError(f"block_product: a {a.shape}{' transposed' * trans_a} times b {b.shape}{' transposed' * trans_b} is "
                         f"no product that it knows")
    for grid, units in ((a_grid, a.shape[1]), (n_grid, columns)):
        if grid is not None:
            grid.check(a.shape[0], units)


def sigmoid(xp, x):
    """1 / (1 + exp(-x)), which does not overflow."""
    return 0.5 * (xp.tanh(0.5 * x) + 1)


def dropout_threshold(rate):
    """The 32-bit word from which on an element is kept: P(word < threshold) = rate."""
    return min(round(rate * 2.0**32), 2**32 - 1)


def _words(xp, count, key):
    """The first `count` random words of a key, as uint64."""
    blocks = xp.arange(-(-count // 4), dtype=np.uint64)
    return xp.stack(_philox(xp, blocks, key), axis=1).reshape(-1)[:count]


def _philox(xp, blocks, key):
    """Philox4x32-10 of the counters (block, 0, 0) as four uint64 arrays of 32-bit words."""
    low32, shift = xp.uint64(0xFFFFFFFF), xp.uint64(32)
    c0, c1 = blocks & low32, blocks >> shift
    c2 = c3 = xp.zeros_like(blocks)
    k0, k1 = key & 0xFFFFFFFF, key >> 32
    for _ in range(10):
        product0, product1 = xp.uint64(0xD2511F53) * c0, xp.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = ((product1 >> shift) ^ c1 ^ xp.uint64(k0), product1 & low32,
                          (product0 >> shift) ^ c3 ^ xp.uint64(k1), product0 & low32)
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c0, c1, c2, c3


