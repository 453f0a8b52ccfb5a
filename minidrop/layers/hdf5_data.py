"""HDF5Data."""

from minidrop.data import HDF5Records, find_source
from minidrop.errors import ConfigError
from minidrop.layers.base import register_layer
from minidrop.layers.data_layer import DataLayer


@register_layer("HDF5Data")
class HDF5Data(DataLayer):
    """Batches from the HDF5 files that `source` lists; each top is the dataset of the same name.

    The first top goes through transform_param. A thread reads `prefetch` batches ahead.
    """

    def setup(self) -> list[tuple[int, ...]]:
        settings = self.settings
        if not settings.source:
            raise ConfigError("hdf5_data_param needs a source, the text file that lists the HDF5 files")
        if not settings.batch_size:
            raise ConfigError("hdf5_data_param needs a batch_size, at least 1")
        self.prefetch = max(1, settings.prefetch)
        records = HDF5Records(find_source(settings.source, self.context.config_path), self.names)
        return self.feed(records, settings.batch_size, settings.shuffle)
