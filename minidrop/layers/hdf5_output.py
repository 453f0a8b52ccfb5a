"""HDF5Output."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minidrop.data.hdf5_output import HDF5Writer
from minidrop.errors import ConfigError, ShapeError
from minidrop.layers.base import Layer, register_layer

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor


@register_layer("HDF5Output")
class HDF5Output(Layer):
    """Writes its bottoms to the datasets "data" and "label" of an HDF5 file, one batch behind another.

    As in Caffe the datasets have at least four axes. The file takes the place of an older one when the net is
    closed, unless that is done because of an error; until then there is none.
    """

    bottoms = (2, 2)
    tops = (0, 0)
    capturable = False
    writer: HDF5Writer | None = None

    def setup(self, data: tuple[int, ...], label: tuple[int, ...]) -> list:
        if not self.settings.file_name:
            raise ConfigError("hdf5_output_param needs a file_name, that of the HDF5 file to write")
        if not data or not label or data[0] != label[0]:
            raise ShapeError(f"expected as many labels as records, got the shapes {tuple(data)} and "
                             f"{tuple(label)}")
        return []

    def forward(self, data: Tensor, label: Tensor) -> tuple:
        if self.writer is None:
            self.writer = HDF5Writer(self.settings.file_name)
        arrays = {name: x.numpy() for name, x in (("data", data), ("label", label))}
        self.writer.append(**{name: array.reshape(array.shape + (1,) * (4 - array.ndim))
                              for name, array in arrays.items()})
        return ()

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
