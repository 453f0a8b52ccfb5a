"""Prediction: what a net computes for records that are given to it, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.autograd import no_grad
from minidrop.config import NetConfig
from minidrop.data.transform import Transform
from minidrop.errors import ConfigError, DataError, ShapeError, nearest
from minidrop.net.deploy import Deployment, deployment, described

if TYPE_CHECKING:
    from minidrop.net.net import Net

Batch = Mapping[str, Any]       # {input: array (records, ...), or a list of images of different sizes}


class Predictor:
    """Computes the outputs of a Deployment for batches of records: in phase TEST, nothing dropped.

    make(config) returns the Net that does it, whose dtype is `dtype`; it is built at the first batch, which
    says what shape records have, and again where later ones have another. What a record gives depends on the
    others by rounding alone. `net` is that Net, None before.
    """

    def __init__(self, deployed: Deployment, make: Callable[[NetConfig], Net], dtype: str = "float32"):
        self.deployed, self.net, self._make, self._dtype = deployed, None, make, dtype
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._transforms: dict[str, tuple[tuple[int, ...], Transform]] = {}

    def batches(self, batches: Iterable[Batch]) -> Iterator[dict[str, np.ndarray]]:
        """Yield {output: array (records, ...)} of each batch.

        A batch that is smaller than the first one is filled up, so that all passes have one shape. Raises
        ShapeError where arrays do not fit the net, DataError for what are no records of numbers.
        """
        size = 0
        for batch in batches:
            count = self._count(batch)
            size = max(size, count)
            arrays = {name: self._prepared(name, batch[name]) for name in self.deployed.inputs}
            net = self._net_for({name: (size, *array.shape[1:]) for name, array in arrays.items()})
            with net.guard(wait=True), no_grad():
                net.forward(**{name: _filled(array, size) for name, array in arrays.items()})
                found = {name: net.blobs[name].numpy() for name in self.deployed.outputs}
            for name, values in found.items():
                if values.shape[:1] != (size,):
                    raise ShapeError(f"{net.config.where()}: output {name!r}: expected a row for each of the "
                                     f"{size} records, got shape {values.shape}; name another output")
            yield {name: values[:count] for name, values in found.items()}

    def close(self) -> None:
        """Free the net's memory."""
        if self.net is not None:
            self.net.close()
        self.net, self._shapes = None, {}

    def _count(self, batch):
        """Return how many records a batch has; raises DataError, ShapeError."""
        inputs = self.deployed.inputs
        for name in [*inputs, *batch]:
            if name not in batch or name not in inputs:
                wanted = ", ".join(map(repr, inputs))
                raise DataError(f"{self.deployed.config.where()}: expected arrays for {wanted}, got "
                                f"{', '.join(map(repr, batch)) or 'none'}{nearest(name, inputs)}")
        counts = {name: len(batch[name]) for name in inputs}
        if len(set(counts.values())) != 1:
            raise ShapeError(f"expected as many records of each input, got {counts}")
        count = next(iter(counts.values()))
        if not count:
            raise DataError("expected at least one record, got none")
        return count

    def _prepared(self, name, records):
        """Return the array that a data layer would have made of records."""
        given = self.deployed.inputs[name]
        if isinstance(records, np.ndarray) and records.dtype.kind not in "biuf":
            raise DataError(f"input {name!r}: expected numbers, got an array of {records.dtype}")
        if not given.transformed:
            return np.asarray(records)
        if given.layer.type == "WindowData":
            self._check_windows(name, records, given.layer.transform_param.crop_size)
        shape = tuple(np.shape(records[0]))
        if name not in self._transforms or self._transforms[name][0] != shape:
            settings = type(given.layer.transform_param)()
            settings.CopyFrom(given.layer.transform_param)
            settings.mirror = False         # it would depend on the place of a record
            config = self.deployed.config
            try:
                made = Transform(settings, shape, self._dtype, config_path=config.path, encoded=True)
            except ConfigError as error:
                raise type(error)(f"{config.where()}: layer {given.layer.name!r}: {error}") from None
            self._transforms[name] = shape, made
        return self._transforms[name][1](records)

    @staticmethod
    def _check_windows(name, records, side):
        """Raise ShapeError for what is no window as WindowData scales it, whose middle would be cut out."""
        for record in records:
            if tuple(np.shape(record)[1:]) != (side, side):
                raise ShapeError(f"input {name!r}: WindowData gives windows of images, scaled to {side} x "
                                 f"{side}, got {' x '.join(map(str, np.shape(record)[1:]))}; cut the windows "
                                 f"out and scale them (of images that are windows `minidrop predict` has "
                                 f"--size {side},{side}; caffe.Detector cuts windows out)")

    def _net_for(self, shapes):
        if shapes != self._shapes:
            self.close()
            net = self._make(self.deployed.with_shapes(shapes))
            for node in net.graph.nodes:
                remembers = bool(node.layer.state_shapes())
                if remembers or any(fact.mixes_samples for fact in node.passes):
                    does = "remembers the records before" if remembers else "mixes the records of a batch"
                    net.close()
                    raise ConfigError(f"{net.config.where(node.index)}: layer {node.name!r} "
                                      f"({node.config.type}) {does}, so that no record stands alone; run the "
                                      f"net with forward")
            self.net, self._shapes = net, shapes
        return self.net


def _filled(array, size):
    """Return an array of `size` records: the last one repeated at the end."""
    missing = size - len(array)
    return np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) if missing else array


class Predicts:
    """The part of Net that predicts."""

    def predict(self: Any, x: np.ndarray | Batch, batch_size: int = 0,
                outputs: str | Sequence[str] = ()) -> np.ndarray | dict[str, np.ndarray]:
        """Return what the net computes for records x, as NumPy arrays (records, ...).

        x: an array (records, ...) as the data layer reads them, before its transform_param, which is applied;
        of a net with several inputs {input: array}. outputs: the name of a blob, or of several; by default
        what losses and metrics judge, a SoftmaxWithLoss by the probabilities BLOB_prob, and what no layer
        reads. With one output the array is returned, else {output: array}. batch_size: records at a time, 0:
        as the description says, or 64.

        Runs in phase TEST, whatever the net's phase, in a net of its own that shares the weights: drops,
        positions in the data, blobs and states of this one stay as they are. See `deployment` for what it
        consists of. Raises ConfigError and DataError, and ShapeError where x does not fit the weights.
        """
        names = [outputs] if isinstance(outputs, str) else list(outputs)
        # The rules have been applied: what is here is the net, in any phase.
        config = described(self.config, zip(self.config.message.layer, self.config.origins, strict=True))
        deployed = deployment(config, names, self.level, self.stages)
        size = batch_size or deployed.batch_size
        if size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
        if not isinstance(x, Mapping):
            if len(deployed.inputs) != 1:
                raise DataError(f"{self.config.where()}: the net has the inputs "
                                f"{', '.join(map(repr, deployed.inputs))}; give {{input: array}}")
            x = {next(iter(deployed.inputs)): x}
        arrays = {name: value if isinstance(value, np.ndarray) else np.asarray(value)
                  for name, value in x.items()}
        for name, array in arrays.items():
            if not array.ndim:
                raise ShapeError(f"input {name!r}: expected an array (records, ...), got a single number")
        count = max(map(len, arrays.values()), default=0)
        pieces = ({name: array[begin:begin + size] for name, array in arrays.items()}
                  for begin in range(0, max(count, 1), size))
        predictor = Predictor(deployed, self._sharing, self.dtype)
        try:
            parts = list(predictor.batches(pieces))
        finally:
            predictor.close()
        found = {name: np.concatenate([part[name] for part in parts]) for name in deployed.outputs}
        return found[deployed.outputs[0]] if len(found) == 1 else found

    def _sharing(self: Any, config: NetConfig) -> Net:
        """Return a net of phase TEST with this one's weights."""
        return type(self)(config, "TEST", self.backend, self.dtype, self.seed, self.level, self.stages, self)
