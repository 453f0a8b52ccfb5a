"""What minidrop raises for mistakes it can explain; the command line prints them as one line."""

from __future__ import annotations

import difflib
import heapq
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

_Error = TypeVar("_Error", bound="MinidropError")

MOST_MISTAKES = 100         # of one description that are put into words
_MOST_COMPARED = 200        # names, and characters of one, that a search for the nearest looks at closely


# Characters with which a terminal moves the cursor, rings, colours, or changes the writing direction, and
# what Python makes of bytes that are no UTF-8.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
                      "\ud800-\udfff]")


def visible(text: str) -> str:
    """Return a text with control characters, except newlines and tabs, as escapes."""
    return _CONTROL.sub(lambda found: ascii(found.group())[1:-1], text)


def visible_name(name: str) -> str:
    """Return a name as `visible` does, on one line."""
    return visible(name).replace("\n", "\\n").replace("\t", "\\t")


def in_short(value: Any) -> str:
    """Return any value as words of one short line: an array by its shape, else its repr, or its beginning."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if hasattr(value, "dtype") and getattr(value, "shape", None):
        kind = type(value).__name__
        return f"{'an array' if kind == 'ndarray' else kind} of shape {value.shape}"
    try:
        text = visible_name(repr(value))
    except Exception:       # of another's class; of an int of thousands of digits
        text = type(value).__name__
    return text if len(text) <= 60 else text[:57] + "..."


class MinidropError(Exception):
    """Base of every error that a user can mend: where, expected, got, what to do.

    `said`: the lines of one that has several. Any other has one, whatever names and values it holds.
    """

    said: tuple[str, ...] = ()

    @classmethod
    def saying(cls: type[_Error], lines: Iterable[str]) -> _Error:
        """Return an error of several lines."""
        lines = tuple(lines)
        error = cls("\n".join(lines))
        error.said = lines
        return error


class ConfigError(MinidropError):
    """A network or solver description, or a setting, is wrong. `hidden`: mistakes that it only counts."""

    hidden = 0

    @classmethod
    def of(cls, lines: Iterable[str], hidden: int = 0) -> ConfigError:
        """Return the error of several mistakes, each once: the first hundred, and how many more there are."""
        lines = list(dict.fromkeys(lines))
        hidden += len(lines[MOST_MISTAKES:])
        more = [f"... and {hidden} more mistake{'s' * (hidden != 1)}"] if hidden else []
        error = cls.saying(lines[:MOST_MISTAKES] + more)
        error.hidden = hidden
        return error

    @classmethod
    def together(cls, errors: Iterable[ConfigError]) -> ConfigError:
        """Return one error for several. What they only count is often the same: the greatest count stands."""
        errors = list(errors)
        return cls.of([line for error in errors for line in error.lines],
                      max((error.hidden for error in errors), default=0))

    @property
    def lines(self) -> list[str]:
        """The mistakes that are put into words, one a line."""
        lines = list(self.said) or [str(self)]
        return lines[:-1] if self.hidden else lines


class ShapeError(MinidropError):
    """Arrays or blobs do not fit together."""


class KeptError(ShapeError):
    """A function needs every unit of an input that holds only the kept ones."""


class TensorError(MinidropError, TypeError):
    """A tensor is used as none can be: changed in place, as a truth value, with operands of other kinds."""


class GraphError(MinidropError, RuntimeError):
    """A backward pass has no graph to run through: nothing requires a gradient, or one has run already."""


class PlaceError(ShapeError, IndexError):
    """An index names an entry that a tensor does not have."""


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


class ParallelError(MinidropError):
    """Processes that train together could not go on."""


class LostRankError(ParallelError):
    """Processes that train together are gone, or do not answer. `lost`: which, if that is known."""

    def __init__(self, message: str, lost: tuple[int, ...] = ()):
        super().__init__(message)
        self.lost = lost


class fits_into_memory:
    """A context in which a lack of memory is a BackendError that says what does not fit.

    A class, since a generator takes several times as long to enter, for every parameter of every update.
    """

    __slots__ = ("what",)

    def __init__(self, what: str):
        self.what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, MemoryError):
            raise BackendError(f"{self.what} does not fit into memory; make it smaller ({error})") from None


def kind_of(value: Any) -> str:
    """Return what a value is, in place of what was expected: its class, or that it is a class itself."""
    return f"the class {value.__name__}; write {value.__name__}(...)" if isinstance(value, type) else (
        type(value).__name__)


def no_attribute(module: str, name: str, known: Any, hints: Mapping[str, str]) -> AttributeError:
    """Return the error for a name that a module lacks; hints: what to write for other libraries' names."""
    like = "" if name.startswith("_") else nearest(name, known)
    instead = f"; use {hints[name]}" if name in hints else like
    return AttributeError(f"module {module!r} has no attribute {name!r}{instead}", name=name)


def no_member(owner: object, name: str, hints: Mapping[str, str]) -> AttributeError:
    """Return the error for an attribute that an object lacks; hints: as for `no_attribute`."""
    known = [one for one in (*dir(type(owner)), *vars(owner)) if not one.startswith("_")]
    like = "" if name.startswith("_") else nearest(name, known)
    return AttributeError(f"{type(owner).__name__} has no attribute {name!r}"
                          + (f"; use {hints[name]}" if name in hints else like), name=name, obj=owner)


def nearest(name: str, known: Any, count: int = 3) -> str:
    """Return "; did you mean 'a' or 'b'?" for the known names most like `name`, or ''.

    Of very many names those that begin and end most like it are compared; no very long one is.
    """
    try:
        wanted = str(name).lower()
    except Exception:       # of a value that has no text
        return ""
    folded = {text.lower(): text for text in map(str, known) if len(text) <= _MOST_COMPARED}
    candidates = list(folded)
    if len(wanted) > _MOST_COMPARED:
        return ""
    if len(candidates) > _MOST_COMPARED:
        candidates = heapq.nlargest(_MOST_COMPARED, candidates, key=lambda other: (
            len(os.path.commonprefix([wanted, other]))
            + len(os.path.commonprefix([wanted[::-1], other[::-1]]))))
    close = difflib.get_close_matches(wanted, candidates, n=count, cutoff=0.6)
    return f"; did you mean {' or '.join(repr(folded[c]) for c in close)}?" if close else ""
