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
    return np.random.Generator(np.random.Philox(key=stream_key(seed, *names)))
