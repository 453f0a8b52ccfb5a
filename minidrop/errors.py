"""What minidrop raises for mistakes it can explain; the command line prints them as one line."""

import difflib
from typing import Any


class MinidropError(Exception):
    """Base of every error that a user can mend: where, expected, got, what to do."""


class ConfigError(MinidropError):
    """A network or solver description, or a setting, is wrong."""


class ShapeError(MinidropError):
    """Arrays or blobs do not fit together."""


class DataError(MinidropError):
    """Data is missing, damaged or out of range. `place`: of the entry in the batch, where it is one entry."""

    def __init__(self, message: str, place: int | None = None):
        super().__init__(message)
        self.place = place


class SnapshotError(MinidropError):
    """A snapshot cannot be written, or is no snapshot of ours."""


class BackendError(MinidropError):
    """The wanted device cannot be used, or ran out of memory."""


class CaptureError(BackendError):
    """A training step cannot be captured as it is; it runs uncaptured instead."""


class NonFiniteError(MinidropError):
    """Training met a NaN or an infinity."""


def nearest(name: str, known: Any, count: int = 3) -> str:
    """Return "; did you mean 'a' or 'b'?" for the known names most like `name`, or ''."""
    folded = {str(k).lower(): str(k) for k in known}
    close = difflib.get_close_matches(str(name).lower(), list(folded), n=count, cutoff=0.6)
    return f"; did you mean {' or '.join(repr(folded[c]) for c in close)}?" if close else ""
