"""DummyData."""

import numpy as np

from minidrop import fillers
from minidrop.autograd import Tensor
from minidrop.config import FillerParameter
from minidrop.errors import ConfigError
from minidrop.layers.base import register_layer
from minidrop.layers.data_layer import DataLayer
from minidrop.rng import generator


@register_layer("DummyData")
class DummyData(DataLayer):
    """Tops from fillers: constant ones filled once, random ones anew in every forward pass."""

    transforms = False

    def setup(self) -> list[tuple[int, ...]]:
        settings, count = self.settings, len(self.config.top)
        old = [settings.num, settings.channels, settings.height, settings.width]
        if settings.shape and any(old):
            raise ConfigError("dummy_data_param: give shape, or num/channels/height/width, not both")
        if settings.shape:
            shapes = [tuple(shape.dim) for shape in settings.shape]
        else:
            if len({len(field) for field in old}) > 1:
                raise ConfigError("dummy_data_param: num, channels, height and width need the same number of "
                                  "entries")
            shapes = list(zip(*old, strict=True))
        if len(shapes) not in (1, count):
            raise ConfigError(f"dummy_data_param needs one shape, or one for each of the {count} tops, got "
                              f"{len(shapes)}")
        if len(settings.data_filler) not in (0, 1, count):
            raise ConfigError(f"dummy_data_param needs no data_filler, one, or one for each of the {count} "
                              f"tops, got {len(settings.data_filler)}")
        self.shapes = shapes * (count if len(shapes) == 1 else 1)
        self.fillers = list(settings.data_filler) or [FillerParameter(type="constant")]
        self.fillers *= count if len(self.fillers) == 1 else 1
        for filler, shape in zip(self.fillers, self.shapes, strict=True):
            if any(length < 0 for length in shape):
                raise ConfigError(f"dummy_data_param: sizes must not be negative, got {shape}")
            fillers.check_filler(filler, shape)
        self.constant: dict[int, np.ndarray | None] = {
            i: None for i, filler in enumerate(self.fillers) if filler.type == "constant"}
        self.filled = _Filled(self.fillers, self.shapes, self.context.seed, self.name, self.context.dtype)
        self.batches = self.filled
        return self.shapes

    @property
    def names(self) -> tuple[str, ...]:
        """The numbers of the tops that change."""
        return tuple(str(i) for i in range(len(self.shapes)) if i not in self.constant)

    @property
    def is_constant(self) -> bool:
        return not self.names

    def forward(self) -> tuple[Tensor, ...]:
        backend = self.context.backend
        changing = dict(zip(self.names, super().forward(), strict=True))
        for i, array in self.constant.items():
            if array is None:
                array = self.filled.values(i, 0)
                self.constant[i] = backend.asarray(self.part.take(array) if self.part else array)
        # New Tensors each time, even for constant arrays: a reused one would accumulate its gradients.
        return tuple(Tensor(self.constant[i], backend=backend) if i in self.constant else changing[str(i)]
                     for i in range(len(self.shapes)))


class _Filled:
    """Batches made by fillers, as {number of the top: array}; a number is text, as a name is."""

    def __init__(self, fillers, shapes, seed, layer_name, dtype):
        self.fillers, self.shapes, self.dtype = fillers, shapes, dtype
        self.seed, self.layer_name = seed, layer_name

    def batch(self, n: int) -> dict[str, np.ndarray]:
        """Return {number of the top: array} for all tops that change."""
        return {str(i): self.values(i, n)
                for i, filler in enumerate(self.fillers) if filler.type != "constant"}

    def values(self, i, n):
        """Return the array of top i in batch n."""
        rng = generator(self.seed, "dummy data", self.layer_name, i, n)
        return np.asarray(fillers.fill(self.fillers[i], self.shapes[i], rng), self.dtype)

    def where(self, n: int, place: int) -> str:
        """Return "": generated records have no source."""
        return ""
