"""Dropout three ways: Bernoulli (ordinary), by a drawn pattern (compact), and by an explicit mask (the oracle)."""

from minidrop.autograd import Function
from minidrop.errors import ShapeError


class Dropout(Function):
    """y = x * m * scale, m ~ Bernoulli(1 - rate) for every element, from (key, element) alone.

    Srivastava et al. 2014, inverted as in Caffe: scale = 1 / (1 - rate) by default, identity in the test phase.
    """

    def __init__(self, rate, key, scale=None):
        self.rate, self.key = rate, key
        self.scale = 1 / (1 - rate) if scale is None else scale

    def forward(self, backend, x):
        y, self.mask = backend.dropout(x, self.rate, self.scale, self.key)
        return y

    def backward(self, backend, gy, wanted):
        return backend.dropout_gradient(gy, self.mask, self.scale)


class Scale(Function):
    """y = factor * x."""

    kept_rule = "same"

    def __init__(self, factor):
        self.factor = factor

    def forward(self, backend, x):
        return backend.xp.multiply(x, x.dtype.type(self.factor), out=backend.empty(x.shape, x.dtype))

    def backward(self, backend, gy, wanted):
        return self.forward(backend, gy)


class Take(Function):
    """Keep only the entries of `axis` in `kept`: dense x -> compact y that carries the set."""

    def __init__(self, kept, axis):
        self.kept, self.axis = kept, axis

    def forward(self, backend, x):
        if self.kept is not None and self.kept.total != x.shape[self.axis]:
            raise ShapeError(f"take: {self.kept} does not fit axis {self.axis} of shape {x.shape}")
        self.output_kept = (self.kept, self.axis)
        return backend.take(x, self.kept, self.axis)

    def backward(self, backend, gy, wanted):
        return backend.put(gy, self.kept, self.axis)


class Expand(Function):
    """Return to full length, zero where dropped: compact x -> dense y. The transpose of `Take`."""

    kept_rule = "native"

    def forward(self, backend, x):
        self.kept, self.axis = self.input_kept[0]
        return backend.put(x, self.kept, self.axis)

    def backward(self, backend, gy, wanted):
        return backend.take(gy, self.kept, self.axis)


class MultiplyMask(Function):
    """y = x * mask for a constant mask that broadcasts."""

    def __init__(self, mask):
        self.mask = mask

    def forward(self, backend, x):
        self.mask = backend.asarray(self.mask, x.dtype)
        return x * self.mask

    def backward(self, backend, gy, wanted):
        return gy * self.mask


def dropout(x, rate, key, scale=None):
    """Return x with every element dropped with probability `rate`, the rest scaled by 1 / (1 - rate)."""
    return x if rate == 0 else Dropout(rate, key, scale).apply(x)


def take(x, kept, axis=1):
    """Return x with only the kept entries of `axis`, carrying `kept`. Equal to x times the 0/1 mask of `kept`."""
    return Take(kept, axis % x.ndim).apply(expand(x))


def expand(x):
    """Return x dense: zeros stand where its kept set drops. x itself where it is dense already."""
    return x if x.kept is None else Expand().apply(x)


def multiply_mask(x, mask):
    """Return x * mask for a constant, broadcasting mask."""
    return MultiplyMask(mask).apply(expand(x))


def approx_dropout(x, site, axis=1):
    """Drop what `site` has drawn from `axis` of x and scale the rest.

    If x already lacks those units (their producer did not compute them) only the scale is left to do; otherwise they are
    gathered. Either way the result carries the kept set, so that the next product is smaller.
    """
    if not site.active:
        return x
    if site.masked:
        shape = [1] * x.ndim
        shape[axis] = -1
        return multiply_mask(x, site.mask().reshape(shape))
    kept, scale = site.kept, site.scale
    if kept is not None and (x.kept != kept or x.kept_axis != axis):
        x = take(x, kept, axis)
    return x if scale == 1 else Scale(scale).apply(x)
