"""Input."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.autograd import Tensor
from minidrop.errors import ConfigError, DataError, ShapeError
from minidrop.layers.base import Layer, register_layer
from minidrop.layers.numbers import as_numbers, check_held

if TYPE_CHECKING:
    from minidrop.backend import Backend


@register_layer("Input")
class Input(Layer):
    """Tops given by the caller: net.forward(data=x, label=y) for one pass, net.set_inputs(label=y) for all.

    Only the batch size may differ from `shape`. A transform_param is for `Net.predict`, which takes records;
    arrays that are given to `forward` are behind it.
    """

    bottoms = (0, 0)
    tops = (1, None)
    is_data = True

    def setup(self) -> list[tuple[int, ...]]:
        tops, shapes = self.config.top, self.settings.shape
        if len(shapes) not in (1, len(tops)):
            raise ConfigError(f"input_param needs one shape, or one for each of the {len(tops)} tops, got "
                              f"{len(shapes)}")
        shapes = [tuple(shapes[i if len(shapes) > 1 else 0].dim) for i in range(len(tops))]
        for shape in shapes:
            if any(length < 0 for length in shape):
                raise ConfigError(f"input_param: sizes must not be negative, got {shape}")
        self.shapes = dict(zip(tops, shapes, strict=True))
        # Separate owners of uploads, since tops may be given at different times.
        self.owners = {(top, stay): _Owner() for top in tops for stay in (False, True)}
        self.given: dict[str, Tensor] = {}
        self.set: dict[str, Tensor] = {}
        return shapes

    def give(self, values: dict[str, Tensor], stay: bool = False) -> None:
        """Set the arrays of the next pass by top name; with `stay`, of every pass that is given no others.

        Raises DataError for what is not an array of numbers, ShapeError for one that does not fit.
        """
        given, backend = {}, self.context.backend
        for name, value in values.items():
            expected = self.shapes[name]
            array = value.data if isinstance(value, Tensor) else value
            try:
                if array is value or value.backend is not backend:
                    owner = self.owners[name, stay]
                    array = as_numbers(array, partial(_uploaded, backend, owner), self.context.dtype)
                else:
                    check_held(array, self.context.dtype)
            except DataError as error:
                raise DataError(f"layer {self.name!r}: input {name!r} {error}") from None
            array = array.astype(self.context.dtype, copy=False)
            if array.ndim != len(expected) or tuple(array.shape[1:]) != expected[1:]:
                raise ShapeError(f"layer {self.name!r}: input {name!r} should have shape {expected} (any "
                                 f"batch size), got {tuple(array.shape)}")
            same = isinstance(value, Tensor) and value.data is array
            given[name] = value if same else Tensor(array, backend=backend)
        if stay:
            self.set |= given
        else:
            self.given = given

    def adopt(self, other: Any) -> None:
        self.set = dict(other.set)

    def forward(self) -> tuple[Tensor, ...]:
        found = self.set | self.given
        missing = [name for name in self.config.top if name not in found]
        if missing:
            names = ", ".join(f"{name}=..." for name in self.config.top)
            raise DataError(f"no value for input {missing[0]!r} in this pass; call net.forward({names}), or "
                            f"net.set_inputs({missing[0]}=...) for all passes")
        tops = tuple(found[name] for name in self.config.top)
        batches = {int(np.shape(top.data)[0]) for top in tops if top.ndim}
        declared = {self.shapes[name][0] for name in self.config.top if self.shapes[name]}
        if len(declared) == 1 and len(batches) > 1:
            raise ShapeError(f"inputs of one batch expected, got {sorted(batches)} records")
        return tops


class _Owner:
    """The owner of a top's uploads, see Backend.upload."""


def _uploaded(backend: Backend, owner: _Owner, array: np.ndarray) -> np.ndarray:
    return backend.upload(owner, [array])[0]
