"""A memory that is looked up step by step: scores, weights, contexts, and their gradients."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.autograd import Block

if TYPE_CHECKING:
    from minidrop.backend import Backend

SCORES = ("GENERAL", "DOT", "ADDITIVE")


class Memory:
    """The memory (S, N, M) and keys (S, N, K) of one pass, by streams; see functions.decode.

    A query is a state, read, (N, H). With Wq (K, H), StepWeights, and v (K,) its scores are v tanh(keys + Wq
    read), else keys * read. Places where `mask` (S, N) is 0 have the weight 0; a stream without others has no
    context.
    """

    def __init__(self, backend: Backend, score: str, memory: np.ndarray, keys: np.ndarray, mask: np.ndarray,
                 Wq: Any = None, v: Any = None):
        xp = backend.xp
        self.backend, self.score, self.Wq, self.v = backend, score, Wq, v
        self.memory = xp.ascontiguousarray(memory.transpose(1, 0, 2))
        self.keys = self.memory if keys is memory else xp.ascontiguousarray(keys.transpose(1, 0, 2))
        self.hidden = xp.where(mask.T != 0, memory.dtype.type(0), memory.dtype.type(-math.inf))

    def weights(self, read: np.ndarray) -> np.ndarray:
        """Return the weights (N, S) of the places."""
        xp = self.backend.xp
        if self.score == "ADDITIVE":
            scores = self._compared(read) @ self.v
        else:
            scores = self.backend.gemm_stack(self.keys, read[:, :, None])[:, :, 0]
        scores += self.hidden
        top = scores.max(axis=1, keepdims=True) if scores.shape[1] else scores[:, :0]
        if scores.shape[1]:
            scores -= xp.where(top == -math.inf, scores.dtype.type(0), top)
        xp.exp(scores, out=scores)
        total = scores.sum(axis=1, keepdims=True)
        scores /= xp.where(total == 0, scores.dtype.type(1), total)
        return scores

    def context(self, weights: np.ndarray, out: np.ndarray) -> None:
        """Write the sum (N, M) of the places by their weights (N, S)."""
        out[...] = self.backend.gemm_stack(weights[:, None, :], self.memory)[:, 0]

    def begin_backward(self, steps: int) -> None:
        """Make room for the gradients of all steps."""
        streams, places, width = self.keys.shape
        empty, dtype = self.backend.empty, self.keys.dtype
        if self.score == "ADDITIVE":
            self.gkeys = self.backend.zeros(self.keys.shape, dtype)
            self.gv = self.backend.zeros(self.v.shape, dtype)
            self.gqueries = empty((steps, streams, width), dtype)
        else:
            self.gscores = empty((steps, streams, places), dtype)

    def gradient(self, t: int, read: np.ndarray, weights: np.ndarray, gcontext: np.ndarray,
                 gweights: np.ndarray | None) -> np.ndarray:
        """Return the gradient of what step t read, given those of its context and of its weights."""
        g = self.backend.gemm_stack(self.memory, gcontext[:, :, None])[:, :, 0]
        if gweights is not None:
            g += gweights
        g *= weights
        g -= weights * g.sum(axis=1, keepdims=True)
        if self.score != "ADDITIVE":
            self.gscores[t] = g
            return self.backend.gemm_stack(g[:, None, :], self.keys)[:, 0]
        compared = self._compared(read)
        self.gv += (g[:, :, None] * compared).sum(axis=(0, 1))
        part = g[:, :, None] * self.v * (1 - compared * compared)
        self.gkeys += part
        self.gqueries[t] = part.sum(axis=1)
        return self.Wq.multiply(self.backend, self.gqueries[t], False)

    def gradients(self, weights: np.ndarray, gcontexts: np.ndarray, read: np.ndarray,
                  units: Any) -> dict[str, Any]:
        """Return the gradients of memory, keys, Wq and v, from those of all steps (T, N, ...)."""
        xp = self.backend.xp
        found = {"memory": self._over_steps(weights, gcontexts)}
        if self.score != "ADDITIVE":
            return found | {"keys": self._over_steps(self.gscores, read)}
        rows = self.gqueries.shape[0] * self.gqueries.shape[1]
        gWq = self.backend.gemm(self.gqueries.reshape(rows, self.gqueries.shape[2]),
                                read.reshape(rows, read.shape[2]), trans_a=True)
        return found | {"keys": xp.ascontiguousarray(self.gkeys.transpose(1, 0, 2)),
                        "Wq": Block(gWq, None, units), "v": self.gv}

    def _compared(self, read):
        """Return tanh(keys + Wq read), (N, S, K)."""
        query = self.Wq.multiply(self.backend, read, True)
        compared = self.keys + query[:, None, :]
        return self.backend.xp.tanh(compared, out=compared)

    def _over_steps(self, a, b):
        """Return the sums over steps of a_t b_t^T, (S, N, B), from (T, N, S) and (T, N, B)."""
        a, b = (self.backend.xp.ascontiguousarray(x.transpose(1, 0, 2)) for x in (a, b))
        product = self.backend.gemm_stack(a.transpose(0, 2, 1), b)
        return self.backend.xp.ascontiguousarray(product.transpose(1, 0, 2))
