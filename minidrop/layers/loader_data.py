"""LoaderData."""

from __future__ import annotations

from typing import Any

from minidrop.errors import ConfigError
from minidrop.layers.base import register_layer
from minidrop.layers.data_layer import DataLayer
from minidrop.patterns.part import Part


@register_layer("LoaderData")
class LoaderData(DataLayer):
    """The batches of a DataLoader that a Solver of Python objects was given, one top for each array.

    No file can hold a loader: md.Solver.of hands it over. It reads ahead with the threads that it has.
    """

    transforms = False

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.batches.names)

    def setup(self) -> list[tuple[int, ...]]:
        self.batches: Any = self.context.handed.get(self.name)
        if self.batches is None:
            raise ConfigError("LoaderData reads a DataLoader, which no file can hold: md.Solver.of makes a "
                              "net with it; in a file use HDF5Data or another type that names its source")
        # The last batch of an epoch has, or may have, fewer records.
        self.varies = self.batches.last_records != self.batches.batch_size
        return self.batches.shapes

    def take_part(self, shapes: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
        context = self.context
        self.part = Part(context.rank, context.ranks, self.batches.batch_size)
        return self.batches.shapes_of(context.ranks)

    def length_of(self, n: int) -> float:
        return float(self.batches.share(n))

    def hands_on(self) -> Any:
        return self.batches

    def place_settings(self) -> dict[str, int | float]:
        loader = self.batches.loader
        return {name: int(value) for name, value in loader.state_dict().items()
                if name not in ("epoch", "batch") and value is not None}

    def stop_reading(self) -> None:
        if self.batches is not None:
            self.batches.close()
