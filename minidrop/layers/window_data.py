"""WindowData."""

from __future__ import annotations

import numpy as np

from minidrop.config import decimal
from minidrop.data import find_source
from minidrop.data.mean_file import mean_of_settings
from minidrop.data.windows import CROP_MODES, WindowBatches, WindowFile
from minidrop.errors import ConfigError
from minidrop.layers.base import register_layer
from minidrop.layers.data_layer import DataLayer

CHANNELS = 3


@register_layer("WindowData")
class WindowData(DataLayer):
    """Batches of windows of images, scaled to squares of crop_size, and their classes, as R-CNN trains on.

    See WindowFile for the file that `source` names and WindowBatches for what is drawn. transform_param gives
    crop_size, mirror, scale and the mean. A thread reads `prefetch` batches ahead.
    """

    tops = (2, 2)
    count = 0           # of the windows in either ground
    mean: np.ndarray | None = None          # whole, of which windows lose the middle

    @property
    def names(self) -> tuple[str, ...]:
        return ("data", "label")

    def setup(self) -> list[tuple[int, ...]]:
        settings, transform = self.settings, self.config.transform_param
        if not settings.source:
            raise ConfigError("window_data_param needs a source, the text file that lists the windows")
        self._check(settings, transform)
        self.prefetch = max(1, settings.prefetch)
        context = self.context
        windows = WindowFile(find_source(settings.source, context.config_path, "text"),
                             decimal(settings.fg_threshold), decimal(settings.bg_threshold))
        size, crop = settings.batch_size, transform.crop_size
        self.count = len(windows.foreground) + len(windows.background)
        self.mean = self._mean(transform)
        self.batches = WindowBatches(
            windows, size, crop, settings.fg_fraction, settings.context_pad, settings.crop_mode == "square",
            transform.mirror, self.mean, decimal(transform.scale), settings.root_folder,
            settings.cache_images, context.seed, self.name, context.dtype)
        self.position = 0
        return [(size, CHANNELS, crop, crop), (size,)]

    def place_settings(self) -> dict[str, int | float]:
        return {"batch_size": self.settings.batch_size, "windows": self.count}

    def _check(self, settings, transform):
        if not settings.batch_size:
            raise ConfigError("window_data_param needs a batch_size, at least 1")
        if not transform.crop_size:
            raise ConfigError("transform_param needs a crop_size, the side that windows are scaled to")
        if 2 * settings.context_pad >= transform.crop_size:
            raise ConfigError(f"window_data_param: context_pad must be less than half of crop_size, "
                              f"{transform.crop_size}, got {settings.context_pad}")
        if settings.crop_mode not in CROP_MODES:
            raise ConfigError(f"window_data_param: crop_mode must be one of {', '.join(CROP_MODES)}, got "
                              f"{settings.crop_mode!r}")
        if not 0 <= settings.fg_fraction <= 1:
            raise ConfigError(f"window_data_param: fg_fraction must be within 0..1, got "
                              f"{settings.fg_fraction:g}")
        if transform.force_color or transform.force_gray:
            raise ConfigError("transform_param: force_color and force_gray are for databases; windows always "
                              f"have {CHANNELS} channels: leave them out")

    def _mean(self, transform):
        found = mean_of_settings(transform, self.context.config_path)
        if found is not None:
            return found[0]
        if len(transform.mean_value) not in (0, 1, CHANNELS):
            raise ConfigError(f"transform_param: expected one mean_value, or one for each of the {CHANNELS} "
                              f"channels, got {len(transform.mean_value)}")
        return np.array([decimal(value) for value in transform.mean_value]) if transform.mean_value else None
