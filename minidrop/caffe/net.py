"""Net by pycaffe's names, over minidrop's Net."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np

from minidrop.autograd import Parameter
from minidrop.caffe import mode
from minidrop.caffe.blobs import NetBlob, ParameterBlob
from minidrop.errors import ConfigError, DataError, ShapeError
from minidrop.layers import PythonLayer
from minidrop.layers.python import Python
from minidrop.net import Layerwise
from minidrop.net import Net as Core

TRAIN, TEST = 0, 1
_PHASES = {TRAIN: "TRAIN", TEST: "TEST", "TRAIN": "TRAIN", "TEST": "TEST"}


class LayerView:
    """A layer of a net: `type`, `name`, and its parameters as `blobs`.

    Of a Python layer a net shows the instance of the class that the file names.
    """

    def __init__(self, name: str, type: str, blobs: list[ParameterBlob]):
        self.name, self.type, self.blobs = name, type, blobs


class Net:
    """A net: Net(file, phase), Net(file, weights, phase) or Net(file, phase, weights=file).

    phase: TRAIN or TEST. weights: None for none. It is made on the device and from the seed that are set (see
    `set_mode_gpu`, `set_random_seed`). `core` is the minidrop Net that does the work.
    """

    def __init__(self, network_file: Any, *arguments: Any, phase: Any = None, weights: Any = None,
                 level: int = 0, stages: Sequence[str] | None = None):
        for argument in arguments:
            if isinstance(argument, int | str) and argument in _PHASES and phase is None:
                phase = argument
            elif isinstance(argument, str | os.PathLike) and weights is None:
                weights = argument
            elif argument is None:
                continue
            else:
                raise ConfigError(f"Net takes a network file, a phase (TRAIN or TEST) and a file of weights, "
                                  f"got {argument!r} too")
        if not isinstance(phase, int | str) or phase not in _PHASES:
            raise ConfigError(f"Net needs a phase, caffe.TRAIN or caffe.TEST, got {phase!r}")
        self._wrap(Core(network_file, _PHASES[phase], mode.device(), seed=mode.seed() or 0, level=level,
                        stages=tuple(stages or ())))
        if weights is not None:
            self.copy_from(weights)

    @classmethod
    def of(cls, core: Core) -> Net:
        """Return a net by these names over a minidrop Net."""
        net = cls.__new__(cls)
        net._wrap(core)
        return net

    def _wrap(self, core):
        self.core = core
        self.layerwise = Layerwise(core)
        self.gradients_of_step: dict[Parameter, Any] = {}    # arrays, or functions that make them

    # -- what there is ---------------------------------------------------------------------------------------
    @property
    def blobs(self) -> dict[str, NetBlob]:
        """{name: blob} in the order in which they are written."""
        return {name: NetBlob(self.layerwise, name) for name in self._blob_names}

    @property
    def params(self) -> dict[str, list[ParameterBlob]]:
        """{layer: its parameters} of the layers that have any."""
        return {node.name: self._parameters(node) for node in self.core.graph.nodes if node.layer.params}

    def _parameters(self, node):
        return [ParameterBlob(own, self._of_step) for own in node.layer.params.values()]

    @property
    def layers(self) -> list[LayerView | PythonLayer]:
        """The layers in order."""
        return [node.layer.instance() if isinstance(node.layer, Python) else
                LayerView(node.name, node.config.type, self._parameters(node))
                for node in self.core.graph.nodes]

    @property
    def layer_dict(self) -> dict[str, LayerView | PythonLayer]:
        """{name: layer}."""
        return dict(zip(self._layer_names, self.layers, strict=True))

    @property
    def inputs(self) -> list[str]:
        """The names of the blobs that `forward` takes."""
        return self.core.inputs

    @property
    def outputs(self) -> list[str]:
        """The names of the blobs that no layer reads."""
        return self.core.outputs

    @property
    def top_names(self) -> dict[str, list[str]]:
        """{layer: the names of its tops}."""
        return {node.name: [ref.name for ref in node.tops] for node in self.core.graph.nodes}

    @property
    def bottom_names(self) -> dict[str, list[str]]:
        """{layer: the names of its bottoms}."""
        return {node.name: [ref.name for ref in node.bottoms] for node in self.core.graph.nodes}

    @property
    def blob_loss_weights(self) -> dict[str, float]:
        """{blob: its weight in the loss}, 0 for most."""
        weights = {ref.name: weight for ref, weight in self.core.losses}
        return {name: weights.get(name, 0.0) for name in self._blob_names}

    @property
    def _blob_names(self):
        return list(dict.fromkeys(ref.name for ref in self.core.graph.writer))

    @property
    def _layer_names(self):
        return [node.name for node in self.core.graph.nodes]

    # As numbers among _blob_names, by which tools that convert or count nets walk them.
    @property
    def _blobs(self):
        return list(self.blobs.values())

    @property
    def _inputs(self):
        return self._numbers(self.inputs)

    @property
    def _outputs(self):
        return self._numbers(self.outputs)

    def _bottom_ids(self, layer):
        return self._numbers(ref.name for ref in self.core.graph.nodes[layer].bottoms)

    def _top_ids(self, layer):
        return self._numbers(ref.name for ref in self.core.graph.nodes[layer].tops)

    def _numbers(self, names):
        number = {name: i for i, name in enumerate(self._blob_names)}
        return [number[name] for name in names]

    def _of_step(self, parameter: Parameter) -> Any:
        """Return the gradient of a solver's last step, one array that may be changed; None: none is known."""
        found = self.gradients_of_step.get(parameter)
        if callable(found):
            with parameter.backend.active():
                found = self.gradients_of_step[parameter] = found().copy()
        return found

    def take_gradients_of_step(self) -> None:
        """Let what `diff` shows since a solver's last step be the gradients of the parameters."""
        for parameter in list(self.gradients_of_step):
            if parameter.grad is None:
                parameter.accumulate(self._of_step(parameter))
        self.gradients_of_step.clear()

    # -- passes ----------------------------------------------------------------------------------------------
    def forward(self, blobs: Sequence[str] | None = None, start: str | None = None, end: str | None = None,
                **inputs: Any) -> dict[str, Any]:
        """Run the layers from `start` to `end` and return {output: its array}, those of `blobs` too.

        Outputs are the tops of `end` where it is given. inputs: the arrays of all inputs, or none, of as many
        records as the net's batches have. Raises ShapeError for one that does not fit its blob.
        """
        self._fill(inputs, self.inputs, "inputs", lambda blob: blob.data)
        self.layerwise.forward(start, end)
        names = self.outputs if end is None else self.top_names[end]
        return {name: self.layerwise.value(name).data for name in [*names, *(blobs or ())]}

    def backward(self, diffs: Sequence[str] | None = None, start: str | None = None, end: str | None = None,
                 **gradients: Any) -> dict[str, Any]:
        """Run the layers from `start` back to `end` and return {input: its gradient}, those of `diffs` too.

        Inputs are the bottoms of `end` where it is given. gradients: those of all outputs, or none, which
        leaves them as they are. Gradients of parameters are added to what their diffs hold.
        """
        self._fill(gradients, self.outputs, "outputs", lambda blob: blob.diff)
        self.gradients_of_step.clear()
        self.layerwise.backward(start, end)
        names = self.inputs if end is None else self.bottom_names[end]
        return {name: self._blob(name).diff for name in [*names, *(diffs or ())]}

    def forward_all(self, blobs: Sequence[str] | None = None, **inputs: Any) -> dict[str, np.ndarray]:
        """Run `forward` on inputs of any number of records, batch by batch; returns arrays on the host."""
        return self._all([*self.outputs, *(blobs or ())], (), blobs, None, inputs, {})[0]

    def forward_backward_all(self, blobs: Sequence[str] | None = None, diffs: Sequence[str] | None = None,
                             **arrays: Any) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Run `forward` and `backward` batch by batch; returns ({blob: array}, {blob: gradient}).

        arrays: those of inputs and gradients of outputs, of any number of records.
        """
        gradients = {name: array for name, array in arrays.items() if name in self.outputs}
        inputs = {name: array for name, array in arrays.items() if name not in gradients}
        outputs, backward = [*self.outputs, *(blobs or ())], [*self.inputs, *(diffs or ())]
        return self._all(outputs, backward, blobs, diffs, inputs, gradients)

    def _all(self, outputs, backward, blobs, diffs, inputs, gradients):
        found: list[dict[str, list]] = [{name: [] for name in outputs}, {name: [] for name in backward}]
        for batch, seeds in zip_longest(self._batches(inputs), self._batches(gradients), fillvalue={}):
            results = [self.forward(blobs=blobs, **batch)]
            if backward:
                results.append(self.backward(diffs=diffs, **seeds))
            for parts, arrays in zip(found, results, strict=False):
                for name, array in arrays.items():
                    parts[name].append(self.core.backend.to_host(array).copy())
        count = len(next(iter((inputs or gradients).values()), ()))
        return [{name: _joined(arrays, count) for name, arrays in parts.items()} for parts in found]

    def _batches(self, arrays: dict[str, Any]) -> Iterator[dict[str, np.ndarray]]:
        """Yield batches of the size of the first blob, the last one filled up with zeros."""
        if not arrays:
            return
        arrays = {name: np.asarray(array) for name, array in arrays.items()}
        counts = {array.shape[:1] for array in arrays.values()}
        if len(counts) > 1 or () in counts:
            raise ShapeError(f"expected arrays of one number of records, got shapes "
                             f"{', '.join(str(array.shape) for array in arrays.values())}")
        (count,), size = counts.pop(), self._blob(self._blob_names[0]).shape[0]
        for begin in range(0, count, size):
            yield {name: _filled(array[begin:begin + size], size) for name, array in arrays.items()}

    def _blob(self, name):
        return NetBlob(self.layerwise, name)

    def _fill(self, arrays, expected, what, target_of):
        """Write arrays to blobs, which must be all that are expected.

        As in pycaffe an array of as many records is spread over the axes of the blob, as NumPy does it: (1,)
        over (1, 1).
        """
        if not arrays:
            return
        if set(arrays) != set(expected):
            raise DataError(f"expected arrays for all {what} of the net or for none: {', '.join(expected)}; "
                            f"got {', '.join(arrays)}")
        backend = self.core.backend
        for name, array in arrays.items():
            target = target_of(self._blob(name))
            with backend.active():
                array = backend.asarray(array, target.dtype)
                if array.shape != target.shape and not _spreads(array.shape, target.shape):
                    raise ShapeError(f"blob {name!r} has shape {target.shape}, the array for it "
                                     f"{tuple(array.shape)}; net.blobs[{name!r}].reshape(...) changes it")
                target[...] = array

    def reshape(self) -> None:
        """Fit all blobs to the shapes of the inputs; the parameters stay."""
        self.layerwise.reshape()

    def set_input_arrays(self, data: Any, labels: Any) -> None:
        """Set what the net's MemoryData layer reads: data (records, channels, height, width), and labels."""
        self.core.set_input_arrays(data, labels)

    def clear_param_diffs(self) -> None:
        """Set the gradients of all parameters to zero."""
        self.gradients_of_step.clear()
        self.core.clear_grads()

    def close(self) -> None:
        """Stop reader threads, complete what HDF5Output layers write, and free memory."""
        self.core.close()

    # -- weights ---------------------------------------------------------------------------------------------
    def copy_from(self, weights: Any, skip_mismatched: bool = False) -> None:
        """Copy the weights of files, with commas between, to the layers of the same name; see `core`.

        skip_mismatched, which pycaffe has not: what does not fit stays as it is, which is logged.
        """
        self.core.load_weights(weights, skip_mismatched)

    load_hdf5 = copy_from

    def share_with(self, other: Net) -> None:
        """Use the very weights of the layers that another net has under the same names."""
        self.core.share_weights(other.core)

    def save(self, path: str | os.PathLike) -> None:
        """Write the weights as a .caffemodel, whatever the name."""
        self.core.save(path, format=".caffemodel")

    def save_hdf5(self, path: str | os.PathLike, write_diff: bool = False) -> None:
        """Write the weights as HDF5, whatever the name, with gradients if wanted."""
        self.core.save(path, write_diff, ".h5")


def _spreads(shape, target):
    """Return whether NumPy spreads an array over a shape with as many records."""
    try:
        return shape[:1] == target[:1] != () and np.broadcast_shapes(shape, target) == tuple(target)
    except ValueError:
        return False


def _filled(array, size):
    """Return records, filled up with zeros to `size`."""
    missing = size - len(array)
    return np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)]) if missing else array


def _joined(arrays, count):
    """Return arrays of batches as one, without what the last was filled up with; single numbers as a list."""
    if not arrays or not arrays[0].ndim:
        return np.array(arrays)
    whole = np.concatenate(arrays)
    return whole[:count] if count else whole
