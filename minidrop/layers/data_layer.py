"""DataLayer: the base class of layers that read batches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.autograd import Tensor
from minidrop.config import LayerParameter
from minidrop.data import Batches, LoaderBatches, Prefetcher
from minidrop.data.transform import Transform
from minidrop.errors import ConfigError, DataError, nearest
from minidrop.layers.base import Layer, layer_class
from minidrop.layers.numbers import as_numbers
from minidrop.patterns.part import Part
from minidrop.rng import generator

if TYPE_CHECKING:
    from minidrop.data.batches import BatchSource
    from minidrop.data.records import Records


class DataLayer(Layer):
    """A layer that feeds the net with batches 0, 1, 2, ...; batch n depends on the seed and n alone.

    So a resumed run needs only `position`, the number of the next batch. A subclass defines `setup`: either
    it ends in `return self.feed(records, batch_size)`, with any Records; or it sets `batches`, an object with
    batch(n) -> {name: array} and where(n, place) -> text, and returns the shapes of the tops. For tests of
    all records that object needs one_pass(), see `Batches`. A subclass may also set `prefetch`.

        @register_layer("Squares")
        class Squares(DataLayer):
            def setup(self):
                return self.feed(SquareRecords(), batch_size=32, shuffle=True)

    Each top is the array of the same name, in the net's dtype. The first is transformed as transform_param
    says (see minidrop.data.transform), except in types that say `transforms = False`.
    """

    bottoms = (0, 0)
    tops: tuple[int, int | None] = (1, None)
    is_data = True
    record_axes = 1            # the number of leading axes of the tops that count records
    transforms = True          # whether it does what transform_param says, as after `feed`
    takes_arrays = False       # whether it has `set_arrays`, for Net.set_input_arrays
    vocabulary: Any = None              # what maps tokens to indices, if it reads tokens
    token_tops: tuple[int, ...] = ()    # the numbers of the tops that hold token indices
    varies = False             # whether its tops differ in shape from batch to batch
    prefetch = 0               # how many batches a thread reads ahead; 0: no thread
    batches: BatchSource | None = None
    record_count = 0           # of the Records that `feed` was given
    transform: Transform | None = None      # of the first top
    part: Part | None = None                # of every batch, that of one rank; None: all of it
    position = 0
    reader = None

    @property
    def names(self) -> tuple[str, ...]:
        """For each top, the name of its array in a batch."""
        return tuple(self.config.top)

    @property
    def is_encoded(self) -> bool:
        """Whether its records are images in a format such as JPEG."""
        return False

    def feed(self, records: Records, batch_size: int, shuffle: bool = False,
             skip: int = 0, across: bool = False) -> list[tuple[int, ...]]:
        """Read batches of these Records from number 0 on, after `skip` records, and return the shapes of the
        tops. shuffle, across: see Batches.

        Raises DataError if the records lack the array of a top.
        """
        self.close()
        batches = Batches(records, batch_size, shuffle, self.context.seed, self.name, skip=skip,
                          across=across)
        for name in self.names:
            if name not in records.layout:
                known = sorted(records.layout)
                raise DataError(f"{records.name}: expected an array {name!r}, got none of that name (a "
                                f"record has {', '.join(map(repr, known))}){nearest(name, known)}")
        first, *others = (records.shapes(name) for name in self.names)
        self.batches, self.position, self.record_count = batches, 0, len(records)
        return [(batches.batch_size, *shape) for shape in (self.transformed(first), *others)]

    def take_part(self, shapes: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
        axis, context = self.record_axes - 1, self.context
        sizes = {shape[axis] if len(shape) > axis else 1 for shape in shapes}
        whole = min(sizes)
        # Steps and streams may be one axis: streams of one step after the other.
        if not whole or whole % context.ranks or any(size % whole for size in sizes) or (
                len(sizes) > 1 and not axis):
            raise ConfigError(f"expected a batch of a multiple of {context.ranks} records, one for each of "
                              f"{context.ranks} ranks, got {' and '.join(map(str, sorted(sizes)))}; change "
                              f"batch_size or the number of ranks")
        self.part = Part(context.rank, context.ranks, whole, axis)
        return [(*shape[:axis], shape[axis] // context.ranks, *shape[axis + 1:]) for shape in shapes]

    def transformed(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Prepare what transform_param does to records of this shape, and return the shape that it gives.

        Raises ConfigError if the settings do not suit such records, DataError if their mean file does not.
        """
        if self.transform is None or self.transform.record != tuple(shape):
            context = self.context
            self.transform = Transform(self.config.transform_param, shape, context.dtype, context.phase,
                                       context.seed, self.name, context.config_path, self.is_encoded)
        return self.transform.shape

    @property
    def mean(self) -> np.ndarray | None:
        """What it takes off records, before cropping; None if nothing, or if it has none of their shape."""
        return self.transform.mean if self.transform is not None else None

    def skipped(self, rand_skip: int) -> int:
        """Return how many records a rand_skip leaves out: a random number below it, the same in every run of
        this seed."""
        if not rand_skip:
            return 0
        return int(generator(self.context.seed, "rand skip", self.name).integers(rand_skip))

    @property
    def is_constant(self) -> bool:
        """Whether every batch is the same, so that there are no records to count."""
        return False

    @property
    def share(self) -> float:
        """The records of the last batch that count, divided by those of a full one."""
        share = getattr(self.batches, "share", None)
        return 1.0 if share is None or not self.position else share(self.position - 1)

    def length_of(self, n: int) -> float:
        """The length of batch n in training, divided by that of a full one; records in it need not count."""
        return 1.0

    @contextmanager
    def one_pass(self) -> Iterator[Any]:
        """Within this context the layer reads each record once, from batch 0 on; then it goes on where it
        was.

        Gives the batches, with batches_per_pass, share(n) and, as always, batch(n) and where(n, place).
        Raises DataError if the layer does not know how many records it has.
        """
        make = getattr(self.batches, "one_pass", None)
        if make is None:
            raise DataError(f"layer {self.name!r} ({self.type}) does not know how many records it has, so "
                            f"that each cannot be read once; give the number of batches instead")
        before = self.batches, self.position
        self.stop_reading()
        self.batches, self.position = make(), 0
        try:
            yield self.batches
        finally:
            self.stop_reading()
            self.batches, self.position = before

    def seek(self, position: int) -> None:
        """Make batch number `position` the next one."""
        self.position = position
        if self.reader:
            self.reader.seek(position)

    def record_of(self, place: Any) -> str:
        """Return which record was at `place` of the last batch, in words; "" if that cannot be looked up.

        `place` counts through the first `record_axes` axes.
        """
        if self.batches is None:
            return ""
        part = self.part and self.part.of_share(self.length_of(self.position - 1))
        return self.batches.where(self.position - 1, part.place(place) if part else place)

    def set_arrays(self, data: np.ndarray, labels: Any = None) -> None:
        """Set what to read, data (records, ...) and labels (records,), of a layer that `takes_arrays`."""
        raise NotImplementedError

    def place_settings(self) -> dict[str, int | float]:
        """Return the settings that decide where batch n begins; a snapshot records them."""
        return {}

    def vocabulary_at(self, top: int) -> Any:
        """Return the vocabulary of the indices in a top, None if it holds no tokens; its length is their
        number."""
        return self.vocabulary if top in self.token_tops else None

    def settings_for(self, other: DataLayer) -> str:
        """Return, as text for a message, the settings that give this layer the vocabulary of `other`."""
        return "the same vocabulary"

    def settings_for_size(self, tokens: int) -> str:
        """Return, as text for a message, the settings for a vocabulary of `tokens` tokens, or ""."""
        return ""

    @classmethod
    def read_vocabulary(cls, config: LayerParameter, path: str | None) -> Any:
        """Return the vocabulary of a layer with `token_tops`, which the file `path` describes."""
        raise NotImplementedError

    def forward(self) -> tuple[Tensor, ...]:
        arrays = self._next()
        self.position += 1
        backend = self.context.backend
        return tuple(Tensor(array, backend=backend) for array in backend.upload(self, arrays))

    def _next(self):
        """Return the arrays of batch number `position`, on the host."""
        how = self.names, self.transform, self.context.dtype, self.part
        if not self.prefetch:
            return _arrays(self.batches, *how, self.position)
        if self.reader is None:
            # Not a bound method: the thread must not keep alive a net that has no other references.
            read = partial(_pinned, self.context.backend, self.batches, *how)
            self.reader = Prefetcher(read, self.prefetch, self.position)
        return self.reader.get()

    def stop_reading(self) -> None:
        """Stop the reader thread, if there is one; the next batch starts it again."""
        if self.reader:
            self.reader.close()
            self.reader = None

    def close(self) -> None:
        self.stop_reading()


def data_layer_class(type_name: str) -> type[DataLayer]:
    """Return the class of a type that reads batches; raises ConfigError for any other."""
    found = layer_class(type_name)
    if not issubclass(found, DataLayer):
        raise ConfigError(f"{type_name} reads no batches")
    return found


def _arrays(batches, names, transform, dtype, part, n):
    if part is None:
        batch = batches.batch(n)
    elif isinstance(batches, Batches | LoaderBatches):      # records of other ranks are not even read
        batch = batches.batch(n, part)
    else:
        batch = {name: part.take(array) for name, array in batches.batch(n).items()}
    arrays = [_numbers(batch[name], name, dtype) for name in names]
    if transform is not None and arrays:
        # Numbered through the whole run: what is drawn for a record does not depend on the batch size.
        first = n * getattr(batches, "batch_size", len(arrays[0]) * (part.ranks if part else 1))
        arrays[0] = transform(arrays[0], first + (part.first if part else 0))
    return [array.astype(dtype, copy=False) for array in arrays]


def _numbers(array, name, dtype):
    """Return an array of a batch as one of real numbers, else raise DataError: in `dtype` what a complex
    number, a mask or a large integer says would be lost. Images of different sizes are a list, whose crops
    make an array."""
    if isinstance(array, list):
        return array
    try:
        return as_numbers(array, dtype=dtype)
    except DataError as error:
        raise DataError(f"the batch's {name} {error}") from error


def _pinned(backend, *what):
    return [backend.pinned(array) for array in _arrays(*what)]
