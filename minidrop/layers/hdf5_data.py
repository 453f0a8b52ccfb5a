"""HDF5Data."""

from functools import partial

from minidrop.autograd import Tensor
from minidrop.data import Batches, HDF5Records, Prefetcher, find_source
from minidrop.data.transform import check_transform, transform
from minidrop.errors import ConfigError
from minidrop.layers.base import Layer, register_layer


@register_layer("HDF5Data")
class HDF5Data(Layer):
    """Batches from the HDF5 files that `source` lists; each top is the dataset of its name.

    The first top goes through transform_param (scale, mean_value). A thread reads `prefetch` batches ahead; batch number n
    depends on the seed and n alone, so a resumed run needs only the number of the next one.
    """

    bottoms = (0, 0)
    tops = (1, None)
    is_data = True
    reader = None

    def setup(self):
        settings, tops = self.settings, self.config.top
        if not settings.source:
            raise ConfigError("hdf5_data_param needs a source, the text file that lists the HDF5 files")
        if not settings.batch_size:
            raise ConfigError("hdf5_data_param needs a batch_size, at least 1")
        self.records = HDF5Records(find_source(settings.source, self.context.config_path), tuple(tops))
        check_transform(self.config.transform_param, self.records.shapes(tops[0]))
        self.batches = Batches(self.records, settings.batch_size, settings.shuffle, self.context.seed, self.name)
        self.position = 0
        return [(settings.batch_size, *self.records.shapes(top)) for top in tops]

    def seek(self, position):
        """Let the next forward be batch number `position`."""
        if position == self.position:
            return
        self.position = position
        if self.reader:
            self.reader.seek(position)

    def record_of(self, place):
        """Say which record stood at `place` of the last batch."""
        return self.batches.where(self.position - 1, place)

    def forward(self):
        if self.reader is None:
            # Not a bound method: the thread must not keep a net alive that nobody holds any more.
            read = partial(_read, self.batches, tuple(self.config.top), self.config.transform_param, self.context.dtype,
                           self.context.backend)
            self.reader = Prefetcher(read, max(1, self.settings.prefetch), self.position)
        arrays = self.reader.get()
        self.position += 1
        backend = self.context.backend
        return tuple(Tensor(array, backend=backend) for array in backend.upload(self, arrays))

    def close(self):
        if self.reader:
            self.reader.close()
            self.reader = None


def _read(batches, names, settings, dtype, backend, n):
    batch = batches.batch(n)
    first, *others = names
    arrays = [transform(settings, batch[first], dtype), *(batch[name].astype(dtype, copy=False) for name in others)]
    return [backend.pinned(array) for array in arrays]
