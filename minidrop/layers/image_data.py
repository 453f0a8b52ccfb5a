"""ImageData."""

from __future__ import annotations

from minidrop.data import find_source
from minidrop.data.image_list import ImageList, ImageRecords
from minidrop.errors import ConfigError
from minidrop.layers.base import register_layer
from minidrop.layers.data_layer import DataLayer


@register_layer("ImageData")
class ImageData(DataLayer):
    """Batches of the images that a text file lists, one `PATH LABEL` a line: blue, green, red; and their
    labels.

    With crop_size, or batch_size 1, images may have different sizes. A thread reads `prefetch` batches ahead.
    """

    tops = (1, 2)

    @property
    def names(self) -> tuple[str, ...]:
        return ("data", "label")[:len(self.config.top)]

    def setup(self) -> list[tuple[int, ...]]:
        settings, transform = self.settings, self.config.transform_param
        if not settings.source:
            raise ConfigError("image_data_param needs a source, the text file that lists the images")
        if not settings.batch_size:
            raise ConfigError("image_data_param: batch_size must be at least 1, got 0")
        if bool(settings.new_height) != bool(settings.new_width):
            raise ConfigError(f"image_data_param: new_height and new_width go together, got "
                              f"{settings.new_height} and {settings.new_width}; give both or neither")
        if transform.force_color or transform.force_gray:
            raise ConfigError("transform_param: force_color and force_gray are for databases; here is_color "
                              "in image_data_param says how many channels images get")
        self.prefetch = max(1, settings.prefetch)
        images = ImageList(find_source(settings.source, self.context.config_path, "text"))
        size = (settings.new_height, settings.new_width) if settings.new_height else None
        records = ImageRecords(images, settings.root_folder, settings.is_color, size, transform.crop_size)
        return self.feed(records, settings.batch_size, settings.shuffle, self.skipped(settings.rand_skip))

    def place_settings(self) -> dict[str, int | float]:
        settings = self.settings
        return {"batch_size": settings.batch_size, "rand_skip": settings.rand_skip,
                "shuffle": settings.shuffle, "records": self.record_count}
