"""Data."""

from __future__ import annotations

from minidrop.data.databases import open_database
from minidrop.data.datum_records import DatumRecords, color_of
from minidrop.data.sources import find_database
from minidrop.errors import ConfigError
from minidrop.layers.base import register_layer
from minidrop.layers.data_layer import DataLayer


@register_layer("Data")
class Data(DataLayer):
    """Batches of the Datums of an LMDB or LevelDB, in the order of their keys: images, and optionally labels.

    Encoded images are decoded: blue, green, red. With crop_size, or batch_size 1, images may have different
    sizes. A thread reads `prefetch` batches ahead.
    """

    tops = (1, 2)
    records: DatumRecords | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return ("data", "label")[:len(self.config.top)]

    @property
    def is_encoded(self) -> bool:
        return self.records is not None and self.records.is_encoded

    def setup(self) -> list[tuple[int, ...]]:
        settings, transform = self.settings, self.config.transform_param
        if not settings.source:
            raise ConfigError("data_param needs a source, the folder of a database")
        if not settings.batch_size:
            raise ConfigError("data_param needs a batch_size, at least 1")
        if transform.force_color and transform.force_gray:
            raise ConfigError("transform_param: force_color and force_gray are both given; keep one")
        self.prefetch = max(1, settings.prefetch)
        kind = settings.DB.Name(settings.backend)
        database = open_database(find_database(settings.source, self.context.config_path), kind)
        self.records = DatumRecords(database, transform.crop_size,
                                    color_of(transform, settings.force_encoded_color))
        return self.feed(self.records, settings.batch_size, skip=self.skipped(settings.rand_skip))

    def place_settings(self) -> dict[str, int | float]:
        settings = self.settings
        return {"batch_size": settings.batch_size, "rand_skip": settings.rand_skip,
                "records": self.record_count}

    def close(self) -> None:
        super().close()
        if self.records is not None and self.batches is not None:
            self.records.close()
