"""Snapshot: the content of a snapshot, and the keys of its arrays."""

import re
from dataclasses import dataclass, field
from urllib.parse import unquote

import numpy as np

MAX_DEPTH = 32
_RUN_NAME = re.compile("[0-9a-f]{16}")


@dataclass
class Snapshot:
    """The state of a run: arrays by key, such as "data/ip1/weight" (see join_key), and attributes by name.

    The attributes "iteration", "run" (see is_run_name) and "loss" are also in the seal.
    """

    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    attrs: dict[str, str | int | float] = field(default_factory=dict)


def join_key(*parts: object) -> str:
    """Return the array key of the given parts, e.g. join_key("data", "ip1", "weight") = "data/ip1/weight".

    A part may be any text; special characters are quoted ('/' as %2F), so that keys are unique.
    """
    return "/".join(_quote(str(part)) for part in parts)


def split_key(key: str) -> tuple[str, ...]:
    """Return the parts from which join_key made `key`, as a tuple."""
    return tuple("" if part == "%" else unquote(part) for part in key.split("/"))


def _quote(part):
    if part in ("", "."):  # HDF5 has no empty name and takes "." for the group itself
        return "%2E" if part else "%"
    return part.replace("%", "%25").replace("/", "%2F").replace("\0", "%00")


def is_run_name(name: object) -> bool:
    """Whether `name` can be the name of a run in its snapshots: 16 (random) hexadecimal digits."""
    return isinstance(name, str) and _RUN_NAME.fullmatch(name) is not None


def is_plain(dtype: np.dtype) -> bool:
    """Whether a snapshot may hold arrays of a dtype: booleans, integers and floats of up to 8 bytes."""
    return dtype.kind in "biuf" and dtype.itemsize <= 8 and dtype.names is None and dtype.subdtype is None
