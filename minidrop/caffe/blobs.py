"""Blobs by pycaffe's names: those of a net, and those of its parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minidrop.autograd import Parameter
from minidrop.layers.python_blob import BlobSizes, checked_lengths
from minidrop.net import Layerwise


class NetBlob(BlobSizes):
    """One blob of a net.

    `data` is the array that the net computes on, `diff` that of its gradient: on a GPU CuPy's. A pass gives a
    blob that a layer computes a new array, so take `data` anew after each; an input keeps its array until it
    is reshaped.
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
        return self._layerwise.value(self._name).data

    @property
    def diff(self) -> Any:
        """The gradient, from which a backward pass begins where no layer of it reads the blob.

        A step of a solver leaves zeros, and the loss_weight of a loss: it keeps no gradients of blobs. For
        those run net.forward() and net.backward().
        """
        return self._layerwise.gradient(self._name)

    def reshape(self, *shape: int) -> None:
        """Give an input another shape, of zeros; net.reshape(), or the next pass, fits the net to it."""
        self._layerwise.reshape_input(self._name, checked_lengths(shape))


class ParameterBlob(BlobSizes):
    """One parameter of a net. `data` is the array that the net computes with.

    `diff` is its gradient: what passes backward have added up, written to as well as read. After a step of a
    solver, which clears that, it is the gradient of the step, a read-only array. (In Caffe: the update.)
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
                return _read_only(gradient)
        # As one array in place of its blocks, so that what is written to it counts.
        with parameter.backend.active():
            gradient = parameter.dense_grad()
            parameter.clear_grad()
            parameter.accumulate(gradient)
        return parameter.grad


def _read_only(array):
    """Return a view that cannot be written to; CuPy has none."""
    if isinstance(array, np.ndarray):
        array = array.view()
        array.flags.writeable = False
    return array
