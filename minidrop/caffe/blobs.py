"""Blobs by pycaffe's names: those of a net, and those of its parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minidrop.autograd import Parameter
from minidrop.layers.python_blob import BlobSizes, checked_lengths
from minidrop.net import Layerwise


class NetBlob(BlobSizes):
    """One blob of a net.

    `data` is the array that the net computes on, `diff` that of its gradient: on a GPU CuPy's. As long as a
    script holds the array of `data`, later passes write to it, until the blob has another shape; so does a
    step of a solver. Only a pass that begins at a layer which works in place on this very array gives a new
    one.
    """

    def __init__(self, layerwise: Layerwise, name: str):
        self._layerwise, self._name = layerwise, name

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths of the axes."""
        return self._layerwise.shape(self._name)

    @property
    def data(self) -> Any:
        """The values; zeros before any pass."""
        return self._layerwise.array(self._name)

    @property
    def diff(self) -> Any:
        """The gradient, from which a backward pass begins where no layer of it reads the blob.

        A step of a solver leaves the gradients of its last pass; units that it did not compute have zeros.
        """
        return self._layerwise.gradient(self._name)

    def reshape(self, *shape: int) -> None:
        """Give an input another shape, of zeros; net.reshape(), or the next pass, fits the net to it."""
        self._layerwise.reshape_input(self._name, checked_lengths(shape))


class ParameterBlob(BlobSizes):
    """One parameter of a net. `data` is the array that the net computes with.

    `diff` is its gradient, written to as well as read: what passes backward have added up. After a step of a
    solver, which clears that, it is the gradient of the step (in Caffe: the update) until a pass backward
    begins from zero.
    """

    def __init__(self, parameter: Parameter, of_step: Callable[[Parameter], Any]):
        self._parameter, self._of_step = parameter, of_step

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths of the axes."""
        return self._parameter.shape

    @property
    def data(self) -> Any:
        """The values."""
        return self._parameter.data

    @property
    def diff(self) -> Any:
        """The gradient."""
        parameter = self._parameter
        if parameter.grad is None:
            gradient = self._of_step(parameter)
            if gradient is not None:
                return gradient
            with parameter.backend.active():
                parameter.accumulate(parameter.dense_grad())        # zeros, to be written to
        return parameter.grad
