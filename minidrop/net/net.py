"""Net: a network built from its description, with forward, backward, and parameters and blobs by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.backend import get_backend
from minidrop.config import NetConfig, as_net_config, filter_state, load_net
from minidrop.config import minidrop_pb2 as pb
from minidrop.config.numbers import truth
from minidrop.errors import ConfigError, DataError, ShapeError, in_short, nearest
from minidrop.layers import Context, DataLayer
from minidrop.net import parameters as values
from minidrop.net.checks import warn_of_unread_losses
from minidrop.net.drops import NetDrops
from minidrop.net.graph import loss_weights
from minidrop.net.lifetime import Lifetime, OneThread
from minidrop.net.parts import build_part
from minidrop.net.passes import next_share, one_pass
from minidrop.net.planner import plan_compaction
from minidrop.net.prediction import Predicts
from minidrop.net.problems import Problems
from minidrop.net.reshuffle import check_shared, find_reshuffles
from minidrop.net.run import Run
from minidrop.net.show import described
from minidrop.net.weights import Weights

if TYPE_CHECKING:
    from minidrop.autograd import Tensor, Watch
    from minidrop.backend import Backend
    from minidrop.layers.base import Layer
    from minidrop.net.drops import Mode
    from minidrop.net.graph import BlobRef
    from minidrop.patterns.base import Pattern
    from minidrop.patterns.draw import Draw

DTYPES = ("float32", "float64")


class Net(Weights, Predicts, Lifetime):
    """A network in one phase, on one device.

    `source`: a NetConfig, NetParameter, NetSpec, or the path of a network file. `device`: "auto", "cpu",
    "cuda:N" or a Backend. `dtype`: "float32" or "float64". `seed`: everything random follows from it.
    `share`: another Net, whose parameters this one uses where layer and parameter have the same name (a test
    net beside a train net), or {layer: {name: Parameter}}. `precision`: "float32", "tf32", "float16" or
    "bfloat16", to which products on a GPU round their operands; all else stays float32. `fills`: False
    allocates no parameters and states, for a net that is inspected but not run. `handed`: {layer: what it
    hands on} of a net that this one is in other shapes, or {layer: function} of Lambdas. `rank` of `ranks`
    that train together: the net reads its share of each batch; `parts` says what it has. Raises ConfigError.

    `params[layer][name]` is a Parameter (`.data`, `.grad` in Caffe's layout), `blobs[name]` the Tensor of the
    last forward pass, `layers[name]` the Layer, `drop_layers` those that drop, `plan` the planner's
    decisions, `reshuffles` the units that are permuted while a Solver trains the net.

    A Net serves one thread at a time. copy.deepcopy copies it; it cannot be pickled; snapshots save it.
    """

    def __init__(self, source: NetConfig, phase: Any = "TRAIN", device: str | Backend = "auto",
                 dtype: str = "float32", seed: int = 0, level: int = 0, stages: tuple = (), share: Any = None,
                 precision: str = "float32", fills: bool = True, handed: Mapping[str, Any] | None = None,
                 rank: int = 0, ranks: int = 1):
        if phase not in ("TRAIN", "TEST"):
            raise ConfigError(f"unknown phase {phase!r}: expected TRAIN or TEST")
        dtype = getattr(dtype, "__name__", None) or str(dtype)      # np.float32, np.dtype("float32")
        if dtype not in DTYPES:
            raise ConfigError(f"unknown dtype {in_short(dtype)}: expected {' or '.join(DTYPES)}")
        config, mistakes = as_net_config(source), list[ConfigError]()
        self.config = filter_state(config, getattr(pb, phase), level, stages, mistakes)
        self.phase, self.seed, self.dtype = phase, int(seed), dtype
        self.level, self.stages, self.share, self.guard = level, stages, share, OneThread()
        self.backend = get_backend(device, precision)
        if dtype == "float64" and precision != "float32":
            raise ConfigError(f"precision {precision} rounds products of float32 numbers, but dtype is "
                              f"float64; keep one of them")
        context = Context(phase, self.seed, self.dtype, self.backend, config.path, rank, ranks, handed or {})
        problems = Problems(self.config, [line for error in mistakes for line in error.lines])
        self.graph, self.parts = build_part(self.config, context, problems)
        self.reshuffles = find_reshuffles(self.graph, problems)
        shared = share.params if isinstance(share, Net) else share or {}
        if isinstance(share, Net):
            check_shared(self.graph, problems, share.reshuffles)
        values.check_shapes(self.graph, problems, shared)
        values.check_blobs(self.graph, problems, dtype)
        self.plan = plan_compaction(self.graph, self.backend)
        values.check_dropped_weights(self.plan, problems)
        problems.raise_any()
        self.layers = {node.name: node.layer for node in self.graph.nodes}
        if fills:
            self.reset_states()
        self.drop_layers = {node.name: node.layer for node in self.graph.nodes if node.drops}
        if isinstance(share, Net):
            values.warn_of_unshared(self.graph, shared)
        elif share is None:         # others are given their values; and what reads as they do was warned of
            warn_of_unread_losses(self.graph, self.config)
            if phase == "TRAIN" and any(any(loss_weights(node)) for node in self.graph.nodes):
                values.warn_of_unread(self.graph, self.config)
        self.params = values.make_parameters(self.graph, self.config, self.backend, dtype, self.seed, shared,
                                             fills)
        for node in self.graph.nodes:       # the values: a net's description without them is small
            node.config.ClearField("blobs")
        self.drop_sites = {drop.node.name: drop.site for drop in self.plan.drops}
        self.losses = [(ref, weight) for node in self.graph.nodes for ref, weight in loss_weights(node)]
        self.output_refs = self.graph.outputs       # looked up once, as every forward pass needs it
        self.force_backward = self.config.message.force_backward
        self.broken_promises: set[int] = set()      # nodes that turned out to need every unit
        self.detached = {node.index: [i for i, wanted in enumerate(node.config.propagate_down) if not wanted]
                         for node in self.graph.nodes if not all(node.config.propagate_down)}
        self._input_layers = [node.layer for node in self.graph.nodes if node.config.type == "Input"]
        self._data_nodes = [node for node in self.graph.nodes if node.layer.is_data]
        self._other_nodes = [node for node in self.graph.nodes if not node.layer.is_data]
        self._forwards: int | None = 0      # counts forward passes; None after a call of draw_patterns
        self.drops: NetDrops = NetDrops(self.graph, self.plan, self.parts.blobs)
        self.run: Run = Run(self)

    __repr__ = described

    @classmethod
    def from_file(cls, path: str | Path, **options: Any) -> Net:
        """Return the Net of a network file; options as for `Net`."""
        return cls(load_net(path), **options)

    # -- drops -----------------------------------------------------------------------------------------------
    def draw_patterns(self, iteration: int) -> None:
        """Draw the random parts of an iteration: patterns, and the masks of ordinary dropout.

        They stay until the next call. If it is never called, every forward pass draws anew.
        """
        self._forwards = None
        self.drops.draw(iteration, next_share(self))

    def is_dropping(self, layer: Layer) -> bool:
        """Whether the drops of a layer act: in phase TRAIN, unless the mode says otherwise."""
        return self.drops.is_dropping(layer)

    @property
    def draws(self) -> dict[str, Draw]:
        """{layer: Draw} of the iteration drawn last, {} before any, whatever the mode."""
        return self.drops.by_name

    @property
    def patterns(self) -> dict[str, Pattern | None]:
        """{layer: Pattern} as drawn last, None before any draw."""
        found: dict[str, Pattern | None] = dict.fromkeys(self.drop_sites)
        return {**found, **{name: draw.pattern for name, draw in self.draws.items()}}

    def masks(self) -> dict[str, np.ndarray]:
        """Return {layer: mask, scale included, by which dense code would multiply}.

        A mask of units broadcasts over the batch, one of blocks is as large as the blob, one of weights is
        (outputs, inputs).
        """
        return {name: mask.astype(self.dtype) for name, mask in self.drops.masks().items()}

    @property
    def mode(self) -> Mode:
        """The Mode in which the net runs; setting it renews the plan and the draws of every layer."""
        return self.drops.mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        self.drops.mode = mode

    def run_masked_dense(self, masked: bool = True) -> None:
        """Compute every layer in full and multiply by explicit masks: the reference for the plan."""
        masked = truth("run_masked_dense", masked)
        self.mode = replace(self.mode, masked=masked, fused=not masked)

    def set_dropping(self, on: bool) -> None:
        """Turn the drop layers on or off in any phase; in a new net they act in phase TRAIN only."""
        self.mode = replace(self.mode, dropping=truth("set_dropping", on))

    def due_permutations(self, iteration: int) -> Iterator:
        """Yield (parameter, axis, order) for each permutation that `reshuffle_interval` asks for.

        They are due before `iteration`. `order` is an int64 NumPy array; entry order[i] of the axis moves to
        place i. Applying all of them leaves the net the same function up to rounding; a solver must permute
        its history of each parameter in the same way.
        """
        for reshuffle in (one for one in self.reshuffles if one.is_due(iteration)):
            order = reshuffle.order(self.seed, iteration)
            yield from ((self.params[layer][name], axis, order) for layer, name, axis in reshuffle.moves)

    # -- running ---------------------------------------------------------------------------------------------
    @property
    def inputs(self) -> list[str]:
        """The names that `forward` takes: the tops of the Input layers."""
        return [top for layer in self._input_layers for top in layer.shapes]

    @property
    def outputs(self) -> list[str]:
        """The names of the blobs that no layer reads: losses, metrics, scores."""
        return [ref.name for ref in self.output_refs]

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        """Run all layers and return {output name: Tensor}.

        `inputs` are the tops of Input layers, by name; those left out must have been set with `set_inputs`. A
        Tensor's value is `.numpy()`; `float()` works for losses. Errors, such as DataError, name the layer.
        """
        with self.at_work():
            self.run = run = Run(self)
            self._give(inputs)
            self.draw_if_due()
            outputs = run.through(self.graph.nodes, {})
            run.whole = not any(self.is_dropping(layer) for layer in self.drop_layers.values())
            return outputs

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Within this context a pass of this thread runs, on the net's device."""
        with self.guard(), self.backend.active():
            self.guard.note()
            yield

    def draw_if_due(self) -> None:
        """Draw anew, as every forward pass does, unless `draw_patterns` was called."""
        if self._forwards is not None:
            self.drops.draw(self._forwards, next_share(self))
            self._forwards += 1

    def set_inputs(self, **inputs: Tensor | np.ndarray) -> None:
        """Set the inputs, {blob: array}, of later passes, also of a Solver's, unless `forward` has others."""
        with self.guard(), self.backend.active():
            self._give(inputs, stay=True)

    def read(self) -> Any:
        """Run only the data layers and return {BlobRef: Tensor} of their tops, for `compute`."""
        with self.at_work():
            self.run = Run(self)
            self._give({})
            self.run.through(self._data_nodes, {})
            return self.run.tensors

    def compute(self, data: np.ndarray) -> Any:
        """Run all layers except data layers, on tensors as `read` returns them, and return the Run."""
        self.run = Run(self)
        self.draw_if_due()
        self.run.through(self._other_nodes, dict(data))
        return self.run

    def show(self, tensors: dict) -> None:
        """Let blobs and loss refer to `tensors`, the {BlobRef: Tensor} of a repeated pass."""
        self.run = Run(self)
        self.run.tensors, self.run.spent = tensors, True

    def rerun(self) -> dict[str, Tensor]:
        """Run only the layers that drops affect, on the batch of the last `forward`, and return the outputs.

        That `forward` must have run with drops off (see `set_dropping`), so that what it computed above the
        drops is complete and serves every pattern; otherwise DataError is raised. For passes under no_grad.
        Recurrent states begin as in that pass, and stay as it left them.
        """
        before = self.run
        if not before.whole:
            raise DataError("rerun needs a forward pass without drops first: set_dropping(False), forward, "
                            "set_dropping(True)")
        with self.at_work():
            self.run = Run(self)
            return self.run.again(before)

    def _give(self, inputs, stay=False):
        unknown = [name for name in inputs if name not in self.inputs]
        if unknown:
            raise ShapeError(f"the net has no input {unknown[0]!r}{nearest(unknown[0], self.inputs)} "
                             f"(inputs: {', '.join(self.inputs) or 'none, its data layers feed it'})")
        for layer in self._input_layers:
            layer.give({name: inputs[name] for name in layer.shapes if name in inputs}, stay)

    @property
    def blobs(self) -> dict[str, Tensor]:
        """{name: Tensor} of the last forward pass."""
        return self.run.blobs

    def tensor(self, ref: BlobRef) -> Tensor:
        """Return the Tensor of a BlobRef, one version of a blob, from the last forward pass.

        For a version that an epilogue (see planner) skips, this is the next version.
        """
        return self.run.tensors[ref]

    @property
    def loss(self) -> float:
        """The weighted sum of all losses of the last forward pass, as a float (0 without a loss)."""
        self.guard.check()
        return self.run.loss

    def backward(self, scale: float | Sequence[float] = 1.0, watch: Watch | None = None) -> None:
        """Add the gradient of `scale` times the loss to every `grad`, once a forward; see `Run.backward`."""
        self.guard.check()
        with self.guard():
            self.run.backward(scale, watch)

    def first_nonfinite(self) -> tuple[str, str] | None:
        """Return (layer, blob) of the first top of the last pass that is not finite, or None."""
        return self.run.first_nonfinite()

    # -- data ------------------------------------------------------------------------------------------------
    def set_input_arrays(self, data: np.ndarray, labels: Any = None, layer: Any = None) -> None:
        """Set the arrays of the MemoryData layer called `layer`, or of the only one, or raise DataError."""
        found = [one for name, one in self.data_layers.items() if one.takes_arrays and layer in (None, name)]
        if len(found) != 1:
            raise DataError(f"expected one MemoryData layer{f' called {layer!r}' if layer else ''}, the net "
                            f"has {len(found)}")
        found[0].set_arrays(data, labels)

    @property
    def data_layers(self) -> dict[str, DataLayer]:
        """{name: layer} of the layers that read batches; Input layers do not."""
        return {name: layer for name, layer in self.layers.items() if isinstance(layer, DataLayer)}

    @property
    def positions(self) -> dict[str, int]:
        """{data layer: number of batches read}."""
        return {name: layer.position for name, layer in self.data_layers.items()}

    def seek(self, positions: Any) -> None:
        """Set the number of the next batch, as {data layer: number} or as one number for all."""
        for name, layer in self.data_layers.items():
            layer.seek(positions if isinstance(positions, int) else positions.get(name, 0))

    def one_pass(self) -> AbstractContextManager[int]:
        """Return a context in which the data layers read each record once; gives the number of batches.

        See `net.passes.one_pass`.
        """
        return one_pass(self)

    def stop_reading(self) -> None:
        """Stop reader threads; the next batch starts them again."""
        for layer in self.data_layers.values():
            layer.stop_reading()

    def close(self) -> None:
        """Stop reader threads, close files, and free memory."""
        for layer in self.layers.values():
            layer.close()
        self.run = Run(self)
        self.backend.trim()
