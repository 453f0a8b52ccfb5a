"""Random numbers as pure functions of (seed, purpose, names, counter).

Nothing here carries state: a resumed run, another order of layers or another device sees the same numbers,
and a snapshot has only a seed and some counters to save.
"""

import hashlib
from typing import Any

import numpy as np


def stream_key(seed: int, *names: Any) -> int:
    """Return a 64-bit integer that depends on `seed` and every name, e.g. stream_key(0, "dropout", "drop1",
    17)."""
    text = "\x1f".join(str(part) for part in (int(seed), *names))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def generator(seed: int, *names: int | str) -> np.random.Generator:
    """Return a NumPy Generator (Philox) whose stream belongs to `seed` and the names alone."""
    key: Any = _Key(stream_key(seed, *names))      # NumPy's hints know SeedSequence alone
    return np.random.Generator(np.random.Philox(key))


class _Key(np.random.bit_generator.ISeedSequence):
    """The key of a Philox in the place of its seed.

    Philox(key=...) is the same stream, but first asks the operating system for a seed that it then does not
    use: three quarters of its time.
    """

    def __init__(self, key: int):
        self.words = np.array((key, 0), np.uint64)

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> np.ndarray:
        """Return the two words of the key, all that Philox asks for."""
        return self.words
