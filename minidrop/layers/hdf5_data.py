"""HDF5Data."""

from minidrop.data import HDF5Records, find_source
from minidrop.errors import ConfigError
from minidrop.layers.base import register_layer
from minidrop.layers.data_layer import DataLayer


@register_layer("HDF5Data")
class HDF5Data(DataLayer):
    """Batches from the HDF5 files that `source` lists; each top is the dataset of the same name.

    Shuffled are the files, and the records in each, as in Caffe; or, with `shuffle_across_files`, the records
    of all files together, in blocks (minidrop.data.orders.BlockOrder). The first top goes through
    transform_param. A thread reads `prefetch` batches ahead.
    """

    def setup(self) -> list[tuple[int, ...]]:
        settings = self.settings
        if not settings.source:
            raise ConfigError("hdf5_data_param needs a source, the text file that lists the HDF5 files")
        if not settings.batch_size:
            raise ConfigError("hdf5_data_param needs a batch_size, at least 1")
        if settings.shuffle_across_files and not settings.shuffle:
            raise ConfigError("hdf5_data_param: shuffle_across_files says how to shuffle; set shuffle: true, "
                              "too, or leave it out")
        self.prefetch = max(1, settings.prefetch)
        records = HDF5Records(find_source(settings.source, self.context.config_path), self.names)
        return self.feed(records, settings.batch_size, settings.shuffle, across=settings.shuffle_across_files)

    def place_settings(self) -> dict[str, int | float]:
        settings = self.settings
        return {"batch_size": settings.batch_size, "shuffle": settings.shuffle,
                "shuffle_across_files": settings.shuffle_across_files, "records": self.record_count}
