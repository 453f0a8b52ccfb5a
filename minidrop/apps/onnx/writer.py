"""The ONNX graph that layers are written to: nodes, constants, names; and which function writes a type."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.errors import MinidropError
from minidrop.net import BlobRef
from minidrop.registry import Registry

if TYPE_CHECKING:
    from onnx import NodeProto

Length = int | tuple[int, int]      # fixed, or one that grows: (its length, that for a batch twice as large)
Shape = tuple[Length, ...]

_writers: Registry[Callable] = Registry("layer type that can be exported")


class NotExportable(MinidropError):
    """A layer has no equivalent in ONNX; the message says why."""


def exports(*types: str) -> Callable:
    """Return a decorator for the function that writes layers of these types to an ONNX graph.

    It is called as function(to, layer, *bottoms) and returns the tops: `to` is a LayerWriter, `layer` the
    Layer after `setup`, bottoms and tops are names of ONNX values, one top or a list of them. It raises
    NotExportable where settings have no equivalent.
    """
    def decorate(function: Callable) -> Callable:
        for name in types:
            _writers.register(name)(function)
        return function
    return decorate


def exported_types() -> list[str]:
    """Return the layer types that have a function, sorted."""
    return _writers.names()


def writer_of(layer_type: str) -> Callable | None:
    """Return the function that writes layers of a type, None if there is none."""
    return _writers.get(layer_type) if layer_type in _writers else None


class GraphWriter:
    """The nodes and the constants of one ONNX graph.

    parameters: {name: array (float32)}, which the graph holds under these names. `names` is what blobs are
    called, {BlobRef: name}, and `values` which ONNX value each is: a blob that is the same as another shares
    its value.
    """

    def __init__(self, parameters: dict[str, np.ndarray]):
        self.parameters = parameters
        self.nodes: list[NodeProto] = []
        self.names: dict[BlobRef, str] = {}
        self.values: dict[BlobRef, str] = {}
        self.constants: dict[str, np.ndarray] = {}
        self._known: dict[Any, str] = {}        # names of constants by their content, of nodes by their kind
        self._names: set[str] = set(parameters)

    def new_name(self, wanted: str) -> str:
        """Return a name that nothing has: `wanted`, or that with a number."""
        name, number = wanted, 1
        while name in self._names:
            number += 1
            name = f"{wanted}.{number}"
        self._names.add(name)
        return name

    def add(self, op: str, inputs: Sequence[str], outputs: Sequence[str], name: str,
            **attributes: Any) -> None:
        """Add a node."""
        from onnx import helper

        self.nodes.append(helper.make_node(op, list(inputs), list(outputs), name=name, **attributes))

    def constant(self, array: np.ndarray, name: str) -> str:
        """Return the name of a constant; small equal ones are stored once."""
        key = (array.dtype.str, array.shape, array.tobytes()) if array.size <= 64 else name
        if key not in self._known:
            self._known[key] = self.new_name(name)
            self.constants[self._known[key]] = array
        return self._known[key]

    def parameter(self, name: str, shape: tuple[int, ...]) -> str:
        """Return the name of a parameter as a constant of a shape, which has as many entries."""
        array = self.parameters[name].reshape(shape)
        key = "parameter", name, shape
        if key not in self._known:
            # Under its own name in the shape that is asked for first, which as a rule is the only one.
            own = name if name not in self.constants else self.new_name(name)
            self.constants[own], self._known[key] = array, own
        return self._known[key]

    def transposed(self, name: str) -> str:
        """Return the name of the transpose of a constant, made once for all that read it."""
        key = "transposed", name
        if key not in self._known:
            self._known[key] = self.new_name(f"{name}/transposed")
            self.add("Transpose", [name], [self._known[key]], self._known[key], perm=[1, 0])
        return self._known[key]

    def needed(self, outputs: Iterable[str]) -> tuple[list, list[str]]:
        """Return (the nodes that outputs are computed from, in order; the names of all that they read)."""
        wanted, found = set(outputs), []
        for node in reversed(self.nodes):
            if wanted & set(node.output):
                wanted.update(node.input)
                found.append(node)
        return found[::-1], sorted(wanted)


class LayerWriter:
    """Writes the nodes of one layer.

    `bottoms` and `tops` are the shapes of its blobs. A call adds a node and returns the name of what it
    computes: to("Add", x, y). parameters: {name: its name in the graph}.
    """

    def __init__(self, graph: GraphWriter, name: str, parameters: dict[str, str], bottoms: list[Shape],
                 tops: list[Shape]):
        self.graph, self.name, self.bottoms, self.tops = graph, name, bottoms, tops
        self._parameters, self._first = parameters, len(graph.nodes)

    def __call__(self, op: str, *inputs: str, **attributes: Any) -> str:
        return self.several(op, 1, *inputs, **attributes)[0]

    def several(self, op: str, count: int, *inputs: str, **attributes: Any) -> list[str]:
        """Add a node and return the names of its `count` results."""
        name = self.graph.new_name(f"{self.name}/{op}")
        outputs = [name] + [self.graph.new_name(f"{name}:{i}") for i in range(1, count)]
        while inputs and not inputs[-1]:
            inputs = inputs[:-1]
        self.graph.add(op, inputs, outputs, name, **attributes)
        return outputs

    # -- constants -------------------------------------------------------------------------------------------
    def has(self, parameter: str) -> bool:
        """Whether the layer has a parameter of this name."""
        return parameter in self._parameters

    def array(self, parameter: str) -> np.ndarray:
        """Return the values of a parameter."""
        return self.graph.parameters[self._parameters[parameter]]

    def parameter(self, name: str, shape: tuple[int, ...] | None = None) -> str:
        """Return a parameter as it is, or in another shape."""
        return self.graph.parameter(self._parameters[name],
                                    self.array(name).shape if shape is None else tuple(shape))

    def constant(self, value: Any, what: str = "constant", dtype: Any = np.float32) -> str:
        """Return a constant: a number, or an array."""
        return self.graph.constant(np.array(value, dtype, order="C"), f"{self.name}/{what}")

    def integers(self, *values: int) -> str:
        """Return a vector of int64: axes, lengths, places."""
        return self.constant(np.array(values, np.int64).reshape(-1), "integers", np.int64)

    # -- what many layers write ------------------------------------------------------------------------------
    def affine(self, x: str, scale: float = 1.0, shift: float = 0.0) -> str:
        """Return scale * x + shift."""
        if scale != 1:
            x = self("Mul", x, self.constant(scale))
        return self("Add", x, self.constant(shift)) if shift else x

    def product(self, x: str, weight: str, bias: str = "", transposed: bool = False) -> str:
        """Return x W^T + b along the last axis of x; W is given as (outputs, inputs), or as its transpose."""
        y = self("MatMul", x, weight if transposed else self.graph.transposed(weight))
        return self("Add", y, bias) if bias else y

    def reshape(self, x: str, source: Shape, target: Shape) -> str:
        """Return x, of shape `source`, in the shape `target`; raises NotExportable where both grow in ways
        that one Reshape cannot say."""
        if source == target:
            return x
        lengths = [length if isinstance(length, int) else 0 if source[i:i + 1] == (length,) else -1
                   for i, length in enumerate(target)]
        empty = any(length == 0 for length in target)
        if lengths.count(-1) > 1 or empty:
            raise NotExportable("a blob without entries has no equivalent" if empty else
                                f"more than one axis of its shape {shown(target)} grows with the batch; "
                                f"export with a fixed batch (batch=None, --fixed-batch)")
        return self("Reshape", x, self.integers(*lengths))

    def slice(self, x: str, axis: int, first: int, last: int) -> str:
        """Return the entries first .. last-1 of an axis."""
        return self("Slice", x, self.integers(first), self.integers(last), self.integers(axis))

    def reduce(self, op: str, x: str, axes: Iterable[int], keepdims: bool = True) -> str:
        """Return a reduction over some axes, also over none of them."""
        return self(op, x, self.integers(*axes), keepdims=int(keepdims), noop_with_empty_axes=1)

    def unsqueeze(self, x: str, *axes: int) -> str:
        """Return x with axes of length 1 at these places of the result."""
        return self("Unsqueeze", x, self.integers(*axes)) if axes else x

    def indices(self, x: str) -> str:
        """Return x as int64."""
        return self("Cast", x, to=INT64)

    def floats(self, x: str) -> str:
        """Return x as float32."""
        return self("Cast", x, to=FLOAT)

    def booleans(self, x: str) -> str:
        """Return whether entries of x are not 0."""
        return self("Cast", x, to=BOOL)

    # -- the end ---------------------------------------------------------------------------------------------
    def finish(self, results: str | Sequence[str], refs: Sequence[BlobRef], names: Sequence[str]) -> None:
        """Note which values the tops `refs` are; those that are the layer's own are renamed to `names`."""
        results = [results] if isinstance(results, str) else list(results)
        own = self.graph.nodes[self._first:]
        made = {output for node in own for output in node.output}
        for result, ref, name in zip(results, refs, names, strict=True):
            if result in made and results.count(result) == 1:
                for node in own:
                    for values in (node.input, node.output):
                        values[:] = [name if value == result else value for value in values]
                result = name
            self.graph.values[ref] = result


FLOAT, INT32, INT64, BOOL = 1, 6, 7, 9      # onnx.TensorProto's numbers of these types


def fixed(shape: Shape, what: str = "a bottom") -> tuple[int, ...]:
    """Return a shape none of whose lengths grows with the batch; raises NotExportable."""
    if not all(isinstance(length, int) for length in shape):
        raise NotExportable(f"{what} of shape {shown(shape)}: the equivalent needs fixed lengths; export "
                            f"with a fixed batch (batch=None, --fixed-batch)")
    return tuple(length for length in shape if isinstance(length, int))


def size_of(shape: Shape) -> int:
    """Return the number of entries of a fixed shape."""
    return math.prod(fixed(shape))


def shown(shape: Shape) -> str:
    """Return a shape in words: "?" stands for a length that grows with the batch."""
    inside = ", ".join(str(length) if isinstance(length, int) else "?" for length in shape)
    return f"({inside}{',' * (len(shape) == 1)})"
