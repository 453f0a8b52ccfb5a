"""Classifier and Detector: nets that take images, by pycaffe's names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from minidrop.apps.classify import classify
from minidrop.apps.windows import crop_window
from minidrop.caffe.io import Transformer, load_image
from minidrop.caffe.net import TEST, Net
from minidrop.errors import ConfigError


class _ImageNet(Net):
    """A net with one input, and the `transformer` that makes images its input."""

    def __init__(self, model_file: Any, pretrained_file: Any, mean: np.ndarray | None,
                 input_scale: float | None, raw_scale: float | None, channel_swap: Sequence[int] | None):
        super().__init__(model_file, TEST, weights=pretrained_file)
        if len(self.inputs) != 1:
            raise ConfigError(f"{self.core.config.where()}: expected a net with one input, got "
                              f"{', '.join(self.inputs) or 'none'}")
        self.input = self.inputs[0]
        self.transformer = Transformer({self.input: self.blobs[self.input].shape})
        self.transformer.set_transpose(self.input, (2, 0, 1))
        settings: Any = (
            (mean, self.transformer.set_mean), (input_scale, self.transformer.set_input_scale),
            (raw_scale, self.transformer.set_raw_scale), (channel_swap, self.transformer.set_channel_swap))
        for value, put in settings:
            if value is not None:
                put(self.input, value)

    @property
    def size(self) -> tuple[int, int]:
        """The height and width of the input."""
        height, width = self.blobs[self.input].shape[2:]
        return height, width

    @property
    def channels(self) -> int:
        """The number of channels of the input."""
        return self.blobs[self.input].channels

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Return the input for an image."""
        return self.transformer.preprocess(self.input, image)


class Classifier(_ImageNet):
    """Classifies images by a net with one input, after `transformer` has prepared them.

    image_dims: (height, width) to which images are scaled before they are cropped; None: that of the input.
    The other settings are those of `Transformer`, whose transpose is (2, 0, 1).
    """

    def __init__(self, model_file: Any, pretrained_file: Any, image_dims: Sequence[int] | None = None,
                 mean: np.ndarray | None = None, input_scale: float | None = None,
                 raw_scale: float | None = None, channel_swap: Sequence[int] | None = None):
        super().__init__(model_file, pretrained_file, mean, input_scale, raw_scale, channel_swap)
        self.image_dims = tuple(image_dims) if image_dims is not None else self.size

    def predict(self, inputs: Iterable[np.ndarray], oversample: bool = True) -> np.ndarray:
        """Return (images, classes) for images (height, width, channels).

        With oversample that is the mean over ten crops, corners and centre and the same mirrored; without, it
        is the centre's. Raises ShapeError for images of other channels.
        """
        prepare: Any = self
        return classify(self.core, inputs, prepare, self.image_dims, oversample)


class Detector(_ImageNet):
    """Runs a net on windows of images.

    context_pad: how many pixels around the window an input shows as well, None: none. The other settings are
    those of `Transformer`, whose transpose is (2, 0, 1).
    """

    def __init__(self, model_file: Any, pretrained_file: Any, mean: np.ndarray | None = None,
                 input_scale: float | None = None, raw_scale: float | None = None,
                 channel_swap: Sequence[int] | None = None, context_pad: int | None = None):
        super().__init__(model_file, pretrained_file, mean, input_scale, raw_scale, channel_swap)
        self.context_pad = context_pad or 0
        if not 0 <= 2 * self.context_pad < min(self.size):
            raise ConfigError(f"context_pad: expected 0 or more, and less than half of the input of "
                              f"{self.size[0]} x {self.size[1]}, got {context_pad}")

    def detect_windows(self, images_windows: Iterable[tuple[Any, Any]]) -> list[dict[str, Any]]:
        """Return [{"window", "prediction", "filename"}] of (file of an image, its windows) pairs.

        A window is (top, left, bottom, right) in pixels, bottom and right not included.
        """
        found = []
        for name, windows in images_windows:
            image = load_image(name, color=self.channels != 1).astype(np.float32)
            windows = np.asarray(windows).reshape(-1, 4)
            if not len(windows):
                continue
            inputs: dict[str, Any] = {
                self.input: np.stack([self(self.crop(image, window)) for window in windows])}
            rows = self.forward_all(**inputs)[self.outputs[0]]
            found += [{"window": window, "prediction": row, "filename": name}
                      for window, row in zip(windows, rows.reshape(len(windows), -1), strict=True)]
        return found

    def crop(self, image: np.ndarray, window: Any) -> np.ndarray:
        """Return a window of an image with its context, as `crop_window`; the mean is where it ends."""
        return crop_window(image, window, self._mean_image(), self.context_pad)

    def _mean_image(self):
        """Return the image (height, width, channels) of which the transformer makes an input of zeros."""
        zeros = np.zeros((self.channels, *self.size), np.float32)
        return self.transformer.deprocess(self.input, zeros)
