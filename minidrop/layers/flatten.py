"""Flatten."""

from minidrop import functions
from minidrop.errors import ConfigError
from minidrop.layers.base import Layer, checked_axis, register_layer


@register_layer("Flatten")
class Flatten(Layer):
    """Makes axes `axis` .. `end_axis` one."""

    def setup(self, shape):
        self.axis = checked_axis(self.settings.axis, len(shape))
        self.end_axis = checked_axis(self.settings.end_axis, len(shape), "end_axis")
        if self.end_axis < self.axis:
            raise ConfigError(f"end_axis {self.settings.end_axis} lies before axis {self.settings.axis}")
        size = 1
        for length in shape[self.axis:self.end_axis + 1]:
            size *= length
        return [tuple(shape[:self.axis]) + (size,) + tuple(shape[self.end_axis + 1:])]

    def forward(self, x):
        return functions.flatten(x, self.axis, self.end_axis)
