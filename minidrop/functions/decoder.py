"""An LSTM that looks up a memory at every step: the decoder of a translation model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.autograd import Block, Function, Tensor
from minidrop.errors import ShapeError
from minidrop.functions.dropout import expand, take
from minidrop.functions.groups import JoinGroups, SplitGroups, inhabited
from minidrop.functions.hidden_drop import NOTHING, HiddenDrop
from minidrop.functions.memory import SCORES, Memory
from minidrop.functions.recurrent import LSTM
from minidrop.functions.step_weights import StepWeights
from minidrop.kept import KeptByGroup

if TYPE_CHECKING:
    from minidrop.backend import Backend

BATCH = ("x", "memory", "keys", "mask")
STATES = ("fed", "h", "c")
"""The states of a decoder: what the step before returned, and those of its LSTM."""


class Decoder(LSTM):
    """An LSTM with attention: see `decode`. One step is `step`; forward calls it for each.

    Of the inputs, named by `names`, x (T, N, 4 H) is the gates' share from outside, memory (S, N, M), keys
    (S, N, K) what states are compared with, mask (S, N), and the states are (N, H). With `feeds` it returns
    y (T, N, H), otherwise the context (T, N, M) and the state (T, N, H) that y is made of; then the weights
    (T, N, S) and the last states. Kept sets: x, h and c lack the units that `drop` lacks, memory any of its
    entries, and keys, where they are compared with units, those units.
    """

    __slots__ = ("score", "feeds", "read_memory", "matrices", "hidden", "fed", "read_state", "reads_out",
                 "weights", "contexts", "made", "memory_kept")

    def __init__(self, score: str = "GENERAL", feeds: bool = True, drop: HiddenDrop = NOTHING):
        super().__init__(drop)
        self.score, self.feeds = score, feeds

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the inputs, in their order."""
        return ("x", "cont", "Wh", "memory", "keys", "mask", *("Wq", "v") * (self.score == "ADDITIVE"),
                *("Wf", "Wm", "Wo", "fed") * self.feeds, "h", "c")

    # -- forward ---------------------------------------------------------------------------------------------
    def forward(self, backend: Backend, *arrays: np.ndarray) -> tuple:
        given = dict(zip(self.names, arrays, strict=True))
        x, h, c = (given[name] for name in ("x", "h", "c"))
        self.prepare(backend, x, given["cont"], given["Wh"], h, c)
        self._prepare_memory(backend, given)
        steps, streams, _ = self.before.shape
        places, entries = given["memory"].shape[0], given["memory"].shape[2]
        self.activated = backend.empty(x.shape, x.dtype)
        self.hidden, self.cells, self.squashed, self.read_state = (
            backend.empty(self.before.shape, x.dtype) for _ in range(4))
        self.weights = backend.empty((steps, streams, places), x.dtype)
        self.contexts = backend.empty((steps, streams, entries), x.dtype)
        self.c0, fed = c, given.get("fed")
        if self.feeds:
            self.made = backend.empty((steps, streams, given["Wh"].shape[1]), x.dtype)
            self.fed = backend.empty(self.made.shape, x.dtype)
        for t in range(steps):
            h, c, fed = self.step(backend, t, x[t], h, c, fed)
        whole, own, memory = (None, 1), (self.drop.units, 2), (self.memory_kept, 2)
        last = h.copy(), c.copy()
        kept_last = [(self.drop.units, 1)] * 2
        if fed is not None:
            self.output_kept = [whole, whole, whole, *kept_last]
            return self.made, self.weights, fed.copy(), *last
        self.output_kept = [memory, own, whole, *kept_last]
        return self.contexts, self.read_state, self.weights, *last

    def step(self, backend: Backend, t: int, x: np.ndarray, h: np.ndarray, c: np.ndarray,
             fed: np.ndarray | None) -> tuple:
        """Do step t on its input x (N, 4 H) and the states before it, and return those after it."""
        product = self.read(backend, t, h)
        if self.feeds:
            self.fed[t] = fed
            product += self.matrices["Wf"].multiply(backend, self.fed[t], True)
        h, c, context = self.hidden[t], self.cells[t], self.contexts[t]
        before = self._cell_before(t)
        backend.lstm_step(x, product, before, self.cont[t], self.activated[t], c, self.squashed[t], h)
        read = backend.xp.multiply(h, self.reads_out[t], out=self.read_state[t])
        self.weights[t] = self.read_memory.weights(read)
        self.read_memory.context(self.weights[t], context)
        if self.feeds:
            y = self.matrices["Wm"].multiply(backend, context, True)
            y += self.matrices["Wo"].multiply(backend, read, True)
            fed = backend.xp.tanh(y, out=self.made[t])
        return h, c, fed

    def _prepare_memory(self, backend, given):
        """Check what belongs to the memory, and bring it into the form that steps read."""
        memory, keys, mask = (given[name] for name in ("memory", "keys", "mask"))
        (steps, streams, _), total = self.before.shape, given["Wh"].shape[1]
        kept = dict(zip(self.names, self.input_kept, strict=True))
        self.memory_kept = kept["memory"][0]
        units = self.drop.units
        if memory.ndim != 3 or memory.shape[1] != streams or mask.shape != memory.shape[:2]:
            raise ShapeError(f"decoder: expected a memory (places, streams, entries) of {streams} streams, "
                             f"and its mask (places, streams), got {memory.shape} and {mask.shape}")
        width = given["Wq"].shape[0] if self.score == "ADDITIVE" else self.before.shape[2]
        wanted = None if self.score == "ADDITIVE" else units
        if keys.shape != (*memory.shape[:2], width) or kept["keys"][0] != wanted:
            raise ShapeError(f"decoder: expected keys {(*memory.shape[:2], width)}, got {keys.shape}")
        shapes = {"Wq": (width, total), "v": (width,), "Wf": (4 * total, total), "Wo": (total, total)}
        for name in (name for name in shapes if name in given and given[name].shape != shapes[name]):
            raise ShapeError(f"decoder: expected {name} {shapes[name]}, got {given[name].shape}")
        rows_cols = {"Wq": (None, units), "Wf": (self.rows, None), "Wm": (None, self.memory_kept),
                     "Wo": (None, units)}
        self.matrices = {name: StepWeights(backend.submatrix(given[name], *rows_cols[name]), steps)
                         for name in rows_cols if name in given}
        self.read_memory = Memory(backend, self.score, memory, keys, mask, self.matrices.get("Wq"),
                                  given.get("v"))
        factor = self._mask_of_top(backend, memory.dtype)
        self.reads_out = backend.xp.broadcast_to(factor, self.before.shape)

    def _mask_of_top(self, backend, dtype):
        """Return what the scores and the result multiply h by; broadcasts to (T, N, H)."""
        if not self.drop.whole:
            return backend.asarray(np.ones((1, 1, 1)), dtype)
        mask = self.drop.mask if self.drop.mask is not None else np.full((1, 1, 1), self.drop.scale)
        return backend.asarray(mask, dtype)

    # -- backward --------------------------------------------------------------------------------------------
    def backward(self, backend: Backend, gy: tuple, wanted: Sequence[bool]) -> tuple:
        shape, dtype = self.before.shape, self.before.dtype
        (gmade, gcontext, gread, gweights), (gfed, gh, gc) = self._given(gy)
        d = backend.empty(self.activated.shape, dtype)
        dz: Any = backend.empty(self.made.shape, dtype) if self.feeds else None
        contexts = backend.empty(self.contexts.shape, dtype)
        dh = backend.zeros(shape[1:], dtype) if gh is None else gh
        dc = backend.zeros(shape[1:], dtype) if gc is None else gc.copy()
        memory = self.read_memory
        memory.begin_backward(shape[0])
        for t in reversed(range(shape[0])):
            if self.feeds:
                g = gfed if gmade is None else gmade[t] if gfed is None else gmade[t] + gfed
                dz[t] = 0 if g is None else g * (1 - self.made[t] ** 2)
                contexts[t] = self.matrices["Wm"].multiply(backend, dz[t], False)
                part = self.matrices["Wo"].multiply(backend, dz[t], False)
            else:
                contexts[t] = 0 if gcontext is None else gcontext[t]
                part = 0 if gread is None else gread[t]
            part = part + memory.gradient(t, self.read_state[t], self.weights[t], contexts[t],
                                          None if gweights is None else gweights[t])
            dh = dh + part * self.reads_out[t]
            backend.lstm_step_gradient(self.activated[t], self.squashed[t], self._cell_before(t),
                                       self.cont[t], dh, dc, d[t])
            dh = self.read_gradient(backend, t, d[t])
            if self.feeds:
                gfed = self.matrices["Wf"].multiply(backend, d[t], False)
        found = {"x": d, "h": dh, "c": dc, "fed": gfed, "Wh": self.weight_gradient(backend, d)}
        found |= memory.gradients(self.weights, contexts, self.read_state, self.drop.units)
        if self.feeds:
            found["Wf"] = Block(_product(backend, d, self.fed), self.rows, None)
            found["Wm"] = Block(_product(backend, dz, self.contexts), None, self.memory_kept)
            found["Wo"] = Block(_product(backend, dz, self.read_state), None, self.drop.units)
        return tuple(found.get(name) if want else None for name, want in zip(self.names, wanted, strict=True))

    def _given(self, gy):
        """Return the gradients of (made, contexts, read state, weights), and of the last states."""
        if self.feeds:
            made, weights, *last = gy
            return (made, None, None, weights), last
        context, read, weights, *last = gy
        return (None, context, read, weights), (None, *last)


def _product(backend, a, b):
    """Return the sum over all steps of a^T b, from (T, N, A) and (T, N, B)."""
    return backend.gemm(a.reshape(a.shape[0] * a.shape[1], a.shape[2]),
                        b.reshape(b.shape[0] * b.shape[1], b.shape[2]), trans_a=True)


def decode(x: Tensor, memory: Tensor, keys: Tensor, mask: Tensor, weights: Mapping[str, Tensor],
           states: Mapping[str, Tensor], score: str = "GENERAL", feeds: bool = True,
           drop: HiddenDrop = NOTHING) -> dict[str, Tensor]:
    """Return {"y" or "context" and "state", "weights", "fed" (if it feeds), "h", "c"} of a decoder.

        h_t, c_t = LSTM(x_t + Wf y_{t-1}, h_{t-1}, c_{t-1})
        a_t = softmax of the scores of h_t over the places where mask is not 0,    context_t = sum_s a_ts m_s
        y_t = tanh(Wm context_t + Wo h_t)

    x (T, N, 4 H): the gates' share from outside, without the rows of absent units; memory (S, N, M); keys:
    what scores compare h with (GENERAL, DOT), or what is added to Wq h (ADDITIVE: v tanh(keys + Wq h));
    weights: Wh, with ADDITIVE Wq and v, and if it `feeds` Wf, Wm and Wo. Without feeding y is left to the
    caller: it is a product of all steps at once. states: h and c (N, H), and fed, which is y_{-1}.

    Source: Luong, Pham and Manning 2015, arXiv 1508.04025; ADDITIVE: Bahdanau, Cho and Bengio 2015.
    """
    if score not in SCORES:
        raise ShapeError(f"decoder: expected a score out of {SCORES}, got {score!r}")
    steps, streams = x.shape[:2]
    cont = Tensor(x.backend.xp.ones((steps, streams), x.dtype), backend=x.backend)
    drops = drop.split()
    if isinstance(memory.kept, KeptByGroup):
        if len(drops) == 1 and drop.mask is None:
            drops = drops * len(memory.kept.sets)
        elif len(drops) != len(memory.kept.sets):
            memory = expand(memory)
    grouped = len(drops) > 1 or isinstance(memory.kept, KeptByGroup)
    inputs = {"x": x, "cont": cont, "memory": memory, "keys": keys, "mask": mask, **states, **weights}
    if not grouped:
        return _decoded(inputs, score, feeds, drop)
    return _by_groups(inputs, score, feeds, drop.units, drops, streams)


def _decoded(inputs, score, feeds, drop):
    function = Decoder(score, feeds, drop)
    results = function.apply(*[inputs[name] for name in function.names])
    names = ("y", "weights", "fed", "h", "c") if feeds else ("context", "state", "weights", "h", "c")
    return dict(zip(names, results, strict=True))


def _by_groups(inputs, score, feeds, units, drops, streams):
    """As `_decoded` for groups of streams, each with a HiddenDrop of its own; `units`: their KeptByGroup."""
    groups = len(drops)
    shared = {name: value for name, value in inputs.items() if name not in (*BATCH, *STATES, "cont")}
    split = {name: SplitGroups(groups, 0 if name in STATES else 1).apply(value)
             for name, value in inputs.items() if name not in shared}
    parts = [_decoded({**shared, **{name: values[i] for name, values in split.items()}}, score, feeds, own)
             for i, (_, own) in enumerate(inhabited(streams, drops))]
    kept = dict.fromkeys(("h", "c", "state"), units) if isinstance(units, KeptByGroup) else {}
    if isinstance(inputs["memory"].kept, KeptByGroup):
        kept["context"] = inputs["memory"].kept
    return {name: JoinGroups(kept.get(name), 0 if name in STATES else 1, streams)
            .apply(*[part[name] for part in parts]) for name in parts[0]}


class MeanOfPlaces(Function):
    """The mean of a memory (S, N, M) over the places where mask (S, N) is not 0; 0 where there is none."""

    __slots__ = ("shares",)
    kept_rule = "native"

    def forward(self, backend: Backend, memory: np.ndarray, mask: np.ndarray) -> np.ndarray:
        xp, (kept, _) = backend.xp, self.input_kept[0]
        counts = (mask != 0).astype(memory.dtype)
        self.shares = (counts / xp.maximum(counts.sum(axis=0), memory.dtype.type(1)))[:, :, None]
        self.output_kept = kept, 1
        return (memory * self.shares).sum(axis=0)

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> tuple:
        return gy * self.shares, None


def mean_of_places(memory: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of each stream's memory (S, N, M) over the places that are not padding, (N, M)."""
    return MeanOfPlaces().apply(memory, mask)


def zero_state(x: Tensor, units: int, kept: Any = None) -> Tensor:
    """Return a state of zeros (N, units) for x (T, N, ...), without the units that are absent."""
    zeros = Tensor(x.backend.zeros((x.shape[1], units), x.dtype), backend=x.backend)
    return zeros if kept is None else take(zeros, kept, 1)
