"""MemoryData."""

import numpy as np

from minidrop.autograd import Tensor
from minidrop.data.transform import check_transform, transform
from minidrop.errors import ConfigError, DataError, ShapeError
from minidrop.layers.base import Layer, register_layer


@register_layer("MemoryData")
class MemoryData(Layer):
    """Batches of arrays that the caller sets with net.set_input_arrays(data, labels), in order, round and round."""

    bottoms = (0, 0)
    tops = (1, 2)
    is_data = True

    def setup(self):
        settings = self.settings
        sizes = {name: getattr(settings, name) for name in ("batch_size", "channels", "height", "width")}
        missing = [name for name, size in sizes.items() if not size]
        if missing:
            raise ConfigError(f"memory_data_param needs {', '.join(missing)}, at least 1")
        self.batch_size, *record = sizes.values()
        self.record = tuple(record)
        check_transform(self.config.transform_param, self.record)
        self.position = 0
        self.data = self.labels = None
        return [(self.batch_size, *self.record), (self.batch_size,)][:len(self.config.top)]

    def set_arrays(self, data, labels=None):
        """Set what to read: data (records, channels, height, width), labels (records,)."""
        data = np.asarray(data)
        labels = np.zeros(len(data)) if labels is None else np.asarray(labels).reshape(-1)
        if tuple(data.shape[1:]) != self.record:
            raise ShapeError(f"layer {self.name!r}: data should have shape (records, {', '.join(map(str, self.record))}), "
                             f"got {data.shape}")
        if len(data) != len(labels) or not len(data):
            raise ShapeError(f"layer {self.name!r}: expected as many labels as records, at least one; "
                             f"got {len(data)} records and {len(labels)} labels")
        self.data, self.labels, self.position = data, labels, 0

    def seek(self, position):
        """Let the next forward be batch number `position`."""
        self.position = position

    def record_of(self, place):
        """Say which record stood at `place` of the last batch."""
        return f"record {((self.position - 1) * self.batch_size + place) % len(self.data)} of the arrays set"

    def forward(self):
        if self.data is None:
            raise DataError("no data; call net.set_input_arrays(data, labels) first")
        first = self.position * self.batch_size % len(self.data)
        rows = slice(first, first + self.batch_size)
        if rows.stop > len(self.data):
            rows = (first + np.arange(self.batch_size)) % len(self.data)
        self.position += 1
        backend, dtype = self.context.backend, self.context.dtype
        data = transform(self.config.transform_param, self.data[rows], dtype)
        tops = (data, self.labels[rows].astype(dtype))[:len(self.config.top)]
        return tuple(Tensor(top, backend=backend) for top in backend.upload(self, tops))
