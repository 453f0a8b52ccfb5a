"""The probabilities of attention on the CPU: what surrounds the exponentials in few passes."""

import math

import numpy as np

from minidrop.backend.generic.nn import Neural


class Probabilities(Neural):
    """Overrides of backend/generic/nn.py. Who calls them has shared the pairs between threads already."""

    def numerators(self, scores: np.ndarray, reads: int | None = None, top: np.ndarray | None = None,
                   shift: np.ndarray | None = None) -> tuple:
        if scores.dtype.char not in "fd" or not scores.flags.c_contiguous:
            return super().numerators(scores, reads, top, shift)
        from minidrop.kernels import cpu_nn
        (pairs, queries, keys), before = scores.shape, top if shift is None else shift
        largest = np.full((pairs, queries), -math.inf, scores.dtype)
        if before is not None:
            largest[...] = before[:, :, 0]
        cpu_nn.shift_scores(scores, keys if reads is None else reads, largest, shift is not None)
        np.exp(scores, out=scores)
        if shift is not None:
            return None, None
        return largest[:, :, None], np.einsum("pik->pi", scores)[:, :, None]

    def score_gradient(self, scores: np.ndarray, e: np.ndarray, d: np.ndarray, keep: np.ndarray | None,
                       factor: float) -> None:
        if not (scores.dtype == e.dtype == d.dtype and scores.dtype.char in "fd"
                and scores.flags.c_contiguous and e.flags.c_contiguous):
            super().score_gradient(scores, e, d, keep, factor)
            return
        from minidrop.kernels import cpu_nn
        cpu_nn.score_gradient(scores, e, np.ascontiguousarray(d[:, :, 0]), keep, scores.dtype.type(factor))

    def row_products(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.einsum("pik,pik->pi", a, b)[:, :, None]       # np.sum calls a loop for each short row
