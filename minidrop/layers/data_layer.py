"""DataLayer: what all layers have in common that read batches from somewhere."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from minidrop.autograd import Tensor
from minidrop.config import LayerParameter
from minidrop.data import Batches, Prefetcher, Vocabulary
from minidrop.data.transform import check_transform, transform
from minidrop.errors import DataError, nearest
from minidrop.layers.base import Layer

if TYPE_CHECKING:
    from minidrop.data.records import Records


class DataLayer(Layer):
    """A layer that feeds the net with batches 0, 1, 2, ...; batch number n depends on the seed and n alone.

    So a resumed run needs only `position`, the number of the next one. A subclass has a `setup` that ends in
    `return self.feed(records, batch_size)`, with any Records; or one that sets `batches`, an object with
    batch(n) -> {name: array} and where(n, place) -> text, and returns the shapes of the tops. It may set
    `prefetch`, too.

        @register_layer("Squares")
        class Squares(DataLayer):
            def setup(self):
                return self.feed(SquareRecords(), batch_size=32, shuffle=True)

    Each top is the array of its name, in the net's type. The first goes through transform_param, which those
    types have that the schema allows it.
    """

    bottoms = (0, 0)
    tops = (1, None)
    is_data = True
    record_axes = 1            # the axes of the tops, from the first on, that count records
    takes_arrays = False       # has `set_arrays`, for Net.set_input_arrays
    vocabulary: Vocabulary | None = None      # which token has which index, where it reads tokens
    token_tops: tuple[int, ...] = ()    # the tops that hold indices of tokens
    prefetch = 0               # how many batches a thread reads ahead; 0: none, and there is no thread
    batches = None
    position = 0
    reader = None

    @property
    def names(self) -> tuple[str, ...]:
        """The names, in what `batches` returns, of the arrays for the tops."""
        return tuple(self.config.top)

    def feed(self, records: Records, batch_size: int, shuffle: bool = False) -> list[tuple[int, ...]] | None:
        """Read batches of these Records from number 0 on; returns the shapes of the tops."""
        self.close()
        batches = Batches(records, batch_size, shuffle, self.context.seed, self.name)
        for name in self.names:
            if name not in records.layout:
                known = sorted(records.layout)
                raise DataError(f"{records.name}: expected an array {name!r}, got none of that name (a "
                                f"record has {', '.join(map(repr, known))}){nearest(name, known)}")
        check_transform(self.config.transform_param, records.shapes(self.names[0]))
        self.batches, self.position = batches, 0
        return [(batches.batch_size, *records.shapes(name)) for name in self.names]

    def seek(self, position: int) -> None:
        """Let the next forward be batch number `position`."""
        self.position = position
        if self.reader:
            self.reader.seek(position)

    def record_of(self, place: Any) -> str:
        """Say which record stood at `place` of the last batch; "" where nobody could look it up.

        The place counts through the first `record_axes` axes.
        """
        return self.batches.where(self.position - 1, place)

    def place_settings(self) -> dict[str, int | float]:
        """Return the settings that decide where batch number n begins; a snapshot records them."""
        return {}

    def settings_for(self, other: DataLayer) -> str:
        """Return the settings, as text for a message, that give this layer the vocabulary of `other`."""
        return "the same vocabulary"

    def settings_for_size(self, tokens: int) -> str:
        """Return the settings, as text for a message, for a vocabulary of that many tokens; "": none."""
        return ""

    @classmethod
    def read_vocabulary(cls, config: LayerParameter, path: str | None) -> Vocabulary:
        """Return the vocabulary of a layer, which has `token_tops` and is described in the file `path`."""
        raise NotImplementedError

    def forward(self) -> tuple[Tensor, ...]:
        arrays = self._next()
        self.position += 1
        backend = self.context.backend
        return tuple(Tensor(array, backend=backend) for array in backend.upload(self, arrays))

    def _next(self):
        """Return the arrays of batch number `position`, on the host."""
        how = self.names, self.config.transform_param, self.context.dtype
        if not self.prefetch:
            return _arrays(self.batches, *how, self.position)
        if self.reader is None:
            # Not a bound method: the thread must not keep a net alive that nobody holds any more.
            read = partial(_pinned, self.context.backend, self.batches, *how)
            self.reader = Prefetcher(read, self.prefetch, self.position)
        return self.reader.get()

    def close(self) -> None:
        if self.reader:
            self.reader.close()
            self.reader = None


def _arrays(batches, names, settings, dtype, n):
    batch = batches.batch(n)
    arrays = [batch[name] for name in names]
    return [transform(settings, array, dtype) if i == 0 else array.astype(dtype, copy=False)
            for i, array in enumerate(arrays)]


def _pinned(backend, *what):
    return [backend.pinned(array) for array in _arrays(*what)]
