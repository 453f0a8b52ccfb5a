"""F1: what share of the chunks, such as names, is found."""

from __future__ import annotations

import numpy as np

from minidrop import functions
from minidrop.autograd import Tensor
from minidrop.errors import ConfigError, ShapeError
from minidrop.layers.base import Layer, register_layer


@register_layer("F1")
class F1(Layer):
    """F1 of the chunks that the found tags mark: the harmonic mean of precision and recall.

    Bottoms: found tags (T, N) or (T, N, 1), as CRF or ArgMax gives them; wanted tags (T, N), -1 in padding.
    A chunk is right if its ends and its kind are (see functions.count_chunks). Optional further tops:
    precision, recall, and accuracy, the share of right tags. Over test batches they are those of all chunks
    together.
    """

    bottoms = (2, 2)
    tops = (1, 4)
    learnable_tops = 0
    capturable = False         # it counts on the host
    counts = functions.ChunkCounts(0, 0, 0, 0, 0)

    def setup(self, found: tuple[int, ...], tags: tuple[int, ...]) -> list[tuple[int, ...]]:
        self.scheme = self.settings.DESCRIPTOR.fields_by_name["scheme"].enum_type.values_by_number[
            self.settings.scheme].name
        if self.scheme == "NONE":
            raise ConfigError("crf_param: scheme NONE has no chunks; set IOBES or IOB2, or remove the layer")
        if len(tags) != 2 or tuple(found) not in ((*tags,), (*tags, 1)):
            raise ShapeError(f"expected found and wanted tags (steps, streams), got {tuple(found)} and "
                             f"{tuple(tags)}")
        return [()] * len(self.config.top)

    def weight_of(self, top: int) -> float:
        """What each top divides by: so means over batches are those of all chunks, of all tokens."""
        counts = self.counts
        return (counts.found + counts.wanted, counts.found, counts.wanted, counts.tokens)[top]

    @property
    def batch_weight(self) -> float:
        return self.weight_of(0)

    def forward(self, found: Tensor, tags: Tensor) -> tuple[Tensor, ...]:
        backend = self.context.backend
        wanted = backend.to_host(tags.data)
        self.counts = counts = functions.count_chunks(backend.to_host(found.data).reshape(wanted.shape),
                                                      wanted, self.scheme)
        shares = (2 * counts.right, counts.right, counts.right, counts.right_tokens)
        values = [share / max(1, self.weight_of(top)) for top, share in enumerate(shares)]
        return tuple(Tensor(backend.asarray(np.array(value, self.context.dtype)), backend=backend)
                     for value in values[:len(self.config.top)])
