"""Pooling."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minidrop import functions
from minidrop.backend.window import Window
from minidrop.errors import ConfigError, ShapeError
from minidrop.layers.base import Layer, register_layer
from minidrop.layers.flow import Pass
from minidrop.layers.sliding import window_numbers

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor


@register_layer("Pooling")
class Pooling(Layer):
    """One number for each window of each channel: MAX, AVE (mean) or STOCHASTIC.

    The number of windows is rounded up unless round_mode is FLOOR; a last one that would begin behind the
    image is left out (Caffe keeps it where there is no pad, see functions.pooled_places), and AVE divides by
    the part inside of the padded image, as in Caffe. A second top of MAX or STOCHASTIC says which entry was
    taken, h * width + w.
    """

    tops = (1, 2)
    learnable_tops = 1

    def read_settings(self) -> None:
        settings = self.settings
        self.method = settings.PoolMethod.Name(settings.pool)
        if len(self.config.top) > 1 and self.method == "AVE":
            raise ConfigError("pool AVE takes no single entry, so it has one top")
        if len(self.config.top) > 1 and self.method == "STOCHASTIC" and not self.training:
            raise ConfigError("pool STOCHASTIC takes no single entry in phase TEST, so it has one top there; "
                              "give the second to a layer with include { phase: TRAIN }")
        self.ceil = _rounds_up(settings)
        self._window((1, 1))

    def setup(self, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
        if len(shape) != 4:
            raise ShapeError(f"expected images (N, C, H, W), got a bottom of shape {tuple(shape)}")
        self.window = self._window(shape[2:])
        places = functions.pooled_places(shape[2:], self.window, self.ceil)
        if min(places) < 1 or not min(shape[2:]):
            raise ShapeError(f"a window of {' x '.join(map(str, self.window.size))} does not fit into the "
                             f"bottom of shape {tuple(shape)} with pad {self.window.pad[0]} x "
                             f"{self.window.pad[1]}; make kernel_size smaller")
        if self.method == "STOCHASTIC" and self.training:
            self.stream = "pooling"
        return [(*shape[:2], *places)] * len(self.config.top)

    def _window(self, image):
        """Return the Window of pooling_param, for images of height and width `image`. Raises ConfigError."""
        settings = self.settings
        size, stride, pad = (window_numbers(settings, name, parts, 2, default) for name, parts, default in (
            ("kernel_size", ("kernel_h", "kernel_w"), None), ("stride", ("stride_h", "stride_w"), 1),
            ("pad", ("pad_h", "pad_w"), 0)))
        if settings.global_pooling:
            if size is not None or any(pad) or stride != (1, 1):
                raise ConfigError("global_pooling takes the whole image: remove kernel_size, pad and stride")
            size = tuple(image)
        if size is None:
            raise ConfigError("pooling_param needs kernel_size, at least 1, or global_pooling")
        if min(size) < 1 and min(image) or min(stride) < 1:
            raise ConfigError(f"kernel_size and stride must be at least 1, got {list(size)} and "
                              f"{list(stride)}")
        if any(p >= k for p, k in zip(pad, size, strict=True)) and any(pad):
            raise ConfigError(f"pad {list(pad)} must be smaller than the window, {list(size)}: one that lies "
                              f"in the padding alone has no entry")
        if any(pad) and self.method == "STOCHASTIC":
            raise ConfigError("pool STOCHASTIC has no pad")
        return Window(size, stride, pad, (1, 1))

    def flow(self, shapes: list[tuple[int, ...]]) -> list[Pass]:
        if len(self.config.top) > 1:        # the index of a dropped channel is not zero
            return []
        compact = self.stream is None       # each place has a random number
        return [Pass(axis=axis, keeps_zero=True, compact=compact) for axis in (0, 1)]

    def forward(self, x: Tensor) -> Any:
        more = len(self.config.top) > 1
        # Images may differ in size from those of `setup`: those of a data layer with batches of one.
        window = self._window(x.shape[2:]) if self.settings.global_pooling else self.window
        if self.method == "MAX":
            return functions.max_pooling(x, window, self.ceil, more)
        if self.method == "AVE":
            return functions.mean_pooling(x, window, self.ceil)
        key = self.drawn.key if self.training else None
        return functions.stochastic_pooling(x, window, key, self.ceil, more)


def _rounds_up(settings: Any) -> bool:
    if settings.HasField("ceil_mode"):
        if settings.HasField("round_mode") and settings.ceil_mode != (settings.round_mode == settings.CEIL):
            raise ConfigError("round_mode and ceil_mode contradict each other; keep round_mode")
        return settings.ceil_mode
    return settings.round_mode == settings.CEIL
