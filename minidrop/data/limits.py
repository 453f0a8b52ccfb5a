"""Limits on how large unpacked data may become: a small file must not fill the memory."""

import os
from pathlib import Path

from minidrop.errors import DataError

UNPACKED_BYTES = 32 << 20       # any packed file may become this large
UNPACKED_RATIO = 100            # beyond that, at most this many times its size; honest text gives 3 to 30


def raised(limit: int) -> int:
    """Return a limit of this package times MINIDROP_LIMITS. Raises DataError unless that is 1 to 1000000."""
    text = os.environ.get("MINIDROP_LIMITS", "") or "1"
    try:
        factor = float(text)
    except ValueError:
        factor = 0.0
    if not 1 <= factor <= 1e6:
        raise DataError(f"MINIDROP_LIMITS: expected a number of 1 to 1000000, by which all limits on data "
                        f"are multiplied, got {text!r}; correct it")
    return int(limit * factor)


def how_to_raise() -> str:
    """Return the advice that ends a message about a limit."""
    return "if it is yours, MINIDROP_LIMITS=10 allows ten times as much"


def check_unpacked(size: int, path: str | os.PathLike) -> None:
    """Raise DataError if `size` bytes are more than an honest packed file `path` would unpack to."""
    packed = Path(path).stat().st_size
    if size > raised(UNPACKED_BYTES) and size > raised(UNPACKED_RATIO) * packed:
        raise DataError(f"{path}: expected a packed file that becomes at most {UNPACKED_RATIO} times as "
                        f"large, got one of {packed} bytes that becomes {size} or more; {how_to_raise()}")
