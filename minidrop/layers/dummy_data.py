"""DummyData."""

import numpy as np

from minidrop import fillers
from minidrop.autograd import Tensor
from minidrop.config import FillerParameter
from minidrop.errors import ConfigError
from minidrop.layers.base import Layer, register_layer
from minidrop.rng import generator


@register_layer("DummyData")
class DummyData(Layer):
    """Tops from fillers: constant ones once, random ones anew in every forward."""

    bottoms = (0, 0)
    tops = (1, None)
    is_data = True

    def setup(self):
        settings, count = self.settings, len(self.config.top)
        old = [settings.num, settings.channels, settings.height, settings.width]
        if settings.shape and any(old):
            raise ConfigError("dummy_data_param: give shape, or num/channels/height/width, not both")
        if settings.shape:
            shapes = [tuple(shape.dim) for shape in settings.shape]
        else:
            if len({len(field) for field in old}) > 1:
                raise ConfigError("dummy_data_param: num, channels, height and width need the same number of entries")
            shapes = list(zip(*old, strict=True))
        if len(shapes) not in (1, count):
            raise ConfigError(f"dummy_data_param needs one shape, or one for each of the {count} tops, got {len(shapes)}")
        if len(settings.data_filler) not in (0, 1, count):
            raise ConfigError(f"dummy_data_param needs no data_filler, one, or one for each of the {count} tops, "
                              f"got {len(settings.data_filler)}")
        self.shapes = shapes * (count if len(shapes) == 1 else 1)
        self.fillers = list(settings.data_filler) or [FillerParameter(type="constant")]
        self.fillers *= count if len(self.fillers) == 1 else 1
        for filler, shape in zip(self.fillers, self.shapes, strict=True):
            if any(length < 0 for length in shape):
                raise ConfigError(f"dummy_data_param: sizes must not be negative, got {shape}")
            fillers.check_filler(filler, shape)
        self.position = 0
        self.constant = {}
        return self.shapes

    def seek(self, position):
        """Let the next forward be batch number `position`."""
        self.position = position

    def forward(self):
        backend = self.context.backend
        for i, filler in enumerate(self.fillers):
            if filler.type == "constant" and i not in self.constant:
                self.constant[i] = backend.asarray(self._values(i))
        changing = [i for i in range(len(self.shapes)) if i not in self.constant]
        uploaded = backend.upload(self, [self._values(i) for i in changing])
        self.position += 1
        arrays = self.constant | dict(zip(changing, uploaded, strict=True))
        # New Tensors each time, also over constant arrays: one that lived on would add up its gradients.
        return tuple(Tensor(arrays[i], backend=backend) for i in range(len(arrays)))

    def _values(self, i):
        rng = generator(self.context.seed, "dummy data", self.name, i, self.position)
        return np.asarray(fillers.fill(self.fillers[i], self.shapes[i], rng), self.context.dtype)
