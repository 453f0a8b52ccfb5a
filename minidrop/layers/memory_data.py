"""MemoryData."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from minidrop.data import ArrayRecords
from minidrop.errors import ConfigError, DataError, ShapeError
from minidrop.layers.base import register_layer
from minidrop.layers.data_layer import DataLayer
from minidrop.layers.numbers import as_numbers


@register_layer("MemoryData")
class MemoryData(DataLayer):
    """Batches of the arrays set by net.set_input_arrays(data, labels), read in order and cyclically.

    The data goes through transform_param.
    """

    tops = (1, 2)
    takes_arrays = True

    @property
    def names(self) -> tuple[str, ...]:
        return ("data", "labels")[:len(self.config.top)]

    def setup(self) -> list[tuple[int, ...]]:
        settings = self.settings
        sizes = {name: getattr(settings, name) for name in ("batch_size", "channels", "height", "width")}
        missing = [name for name, size in sizes.items() if not size]
        if missing:
            raise ConfigError(f"memory_data_param needs {', '.join(missing)}, at least 1")
        self.batch_size, *record = sizes.values()
        self.record = tuple(record)
        shape = self.transformed(self.record)
        return [(self.batch_size, *shape), (self.batch_size,)][:len(self.config.top)]

    def set_arrays(self, data: np.ndarray, labels: Any = None) -> None:
        """Set what to read: data (records, channels, height, width), labels (records,)."""
        data = self._numbers("data", data)
        if tuple(data.shape[1:]) != self.record:
            sizes = ", ".join(map(str, self.record))
            raise ShapeError(f"layer {self.name!r}: data should have shape (records, {sizes}), "
                             f"got {data.shape}")
        labels = np.zeros(len(data)) if labels is None else self._numbers("labels", labels).reshape(-1)
        if len(data) != len(labels) or not len(data):
            raise ShapeError(f"layer {self.name!r}: expected as many labels as records, at least one; "
                             f"got {len(data)} records and {len(labels)} labels")
        self.feed(ArrayRecords({"data": data, "labels": labels}, "the arrays set"), self.batch_size)

    def _numbers(self, what, value):
        try:
            return as_numbers(value, dtype=self.context.dtype)
        except DataError as error:
            raise DataError(f"layer {self.name!r}: {what} {error}") from None

    @contextmanager
    def one_pass(self) -> Iterator[Any]:
        self._check_given()
        with super().one_pass() as batches:
            yield batches

    def _check_given(self):
        if self.batches is None:
            raise DataError("no data; call net.set_input_arrays(data, labels) first")

    def adopt(self, other: Any) -> None:
        if other.batches is not None:
            self.feed(other.batches.records, self.batch_size)

    def forward(self) -> Any:
        self._check_given()
        return super().forward()
