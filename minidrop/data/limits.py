"""How much data may unfold to: a small file must not fill the memory."""

import os
from pathlib import Path

from minidrop.errors import DataError

UNPACKED_BYTES = 32 << 20       # so much may come of any packed file
UNPACKED_RATIO = 100            # and so many bytes of each byte; honest text gives 3 to 30


def raised(limit: int) -> int:
    """Return a limit of this package times MINIDROP_LIMITS, a number of at least 1; DataError for another."""
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
    """Return the end of a message about a limit."""
    return "if it is yours, MINIDROP_LIMITS=10 allows ten times as much"


def check_unpacked(size: int, path: str | os.PathLike) -> None:
    """Raise DataError where `size` bytes are more than an honest packed file `path` would give."""
    packed = Path(path).stat().st_size
    if size > raised(UNPACKED_BYTES) and size > raised(UNPACKED_RATIO) * packed:
        raise DataError(f"{path}: expected a packed file that becomes at most {UNPACKED_RATIO} times as "
                        f"large, got one of {packed} bytes that becomes {size} or more; {how_to_raise()}")
