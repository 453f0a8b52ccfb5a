"""Weights alone in a .safetensors file, by the package safetensors: keys layer.parameter."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minidrop.errors import SnapshotError
from minidrop.files import write_all
from minidrop.snapshot.caffe_file import explained
from minidrop.snapshot.seal import open_regular
from minidrop.snapshot.writer import replacing_safely

VERSION = 1
METADATA = "minidrop"       # JSON of version and shared: one entry, as several are written in any order
WHAT = "the file of weights"
DTYPES = {"F16": np.float16, "F32": np.float32, "F64": np.float64}


def write_safetensors(path: str | os.PathLike, arrays: Mapping[str, Any],
                      shared: Sequence[Sequence[str]] = (), to_host: Callable = np.asarray,
                      texts: Mapping[str, str] | None = None) -> None:
    """Write {"layer/parameter": array} under the keys layer.parameter, float64 as such.

    shared: the names of each array that several layers have, that in `arrays` first; they are metadata.
    texts: {name: text} of more metadata. Raises SnapshotError, also without the package safetensors.
    """
    package, path = _package(path), Path(path)
    metadata = {METADATA: json.dumps({"version": VERSION, "shared": [list(names) for names in shared],
                                      **(texts or {})})}
    content = package.numpy.save({_key_of(name): np.array(to_host(array), order="C")
                                  for name, array in arrays.items()}, metadata)
    with replacing_safely(path, len(content), WHAT) as file:
        write_all(file, content)


def read_safetensors(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return ({"layer/parameter": array}, attributes as of a snapshot) of a file, which may be anybody's.

    Arrays are of float16, float32 or float64. A file that another program wrote has no attributes. Raises
    SnapshotError for a file that is damaged, of a later version, or has other keys or numbers; also without
    the package safetensors.
    """
    def read(file):
        attributes = _attributes(path, (file.metadata() or {}).get(METADATA))
        return {_name_of(path, key): _array(path, file, key) for key in file.keys()}, attributes
    return _read(path, read)


def read_safetensors_attributes(path: str | os.PathLike) -> dict[str, str]:
    """Return the attributes alone, as `read_safetensors` does; no array is read. Raises SnapshotError."""
    return _read(path, lambda file: _attributes(path, (file.metadata() or {}).get(METADATA)))


def _read(path, reader):
    """Return what reader(open file) gives; whatever the package raises becomes a SnapshotError."""
    package = _package(path)
    with explained(path), open_regular(path, "file of weights"):
        pass
    try:
        with package.safe_open(os.fspath(path), framework="numpy") as file:
            return reader(file)
    except OSError as error:
        raise SnapshotError(f"{path}: cannot be read: {error.strerror or error}") from error
    except MemoryError as error:
        raise SnapshotError(f"{path}: not enough memory to read it") from error
    except package.SafetensorError as error:
        raise SnapshotError(f"{path}: is no intact .safetensors file ({str(error)[:200]}); get it again"
                            ) from None


def _package(path):
    try:
        import safetensors.numpy
    except ImportError:
        raise SnapshotError(f"{path}: .safetensors files need the package safetensors; install it with "
                            'python -m pip install "minidrop[safetensors]", or python -m pip install '
                            "safetensors"
                            ) from None
    return safetensors


def _attributes(path, text):
    """Return {"shared": JSON} of the metadata of minidrop, with its texts; {} without it."""
    if text is None:
        return {}
    try:
        found = json.loads(text)
        version, shared = found["version"], json.dumps(found["shared"])
    except (ValueError, TypeError, KeyError, RecursionError):
        raise SnapshotError(f"{path}: its metadata are none of minidrop's: {text[:80]!r}") from None
    if version != VERSION:
        raise SnapshotError(f"{path}: expected version {VERSION} of minidrop's weights, got "
                            f"{str(version)[:20]}; use the version of minidrop that wrote it")
    texts = {name: value for name, value in found.items() if isinstance(value, str)}
    return {**texts, "shared": shared}


def _key_of(name):
    layer, _, parameter = name.rpartition("/")
    return f"{layer}.{parameter}"


def _name_of(path, key):
    """Return layer/parameter of a key; no parameter has a point in its name, layers may have some."""
    layer, _, parameter = key.rpartition(".")
    if not layer or not parameter:
        raise SnapshotError(f"{path}: expected keys such as ip1.weight, a layer and its parameter, got "
                            f"{key[:80]!r}; rename it, or load the file with its own package and give the "
                            f"arrays to from_torch_state_dict")
    return f"{layer}/{parameter}"


def _array(path, file, key):
    """Return an array once its type is known to be one of numbers that weights have."""
    dtype = file.get_slice(key).get_dtype()
    if dtype not in DTYPES:
        raise SnapshotError(f"{path}: {key[:80]!r}: expected numbers of {', '.join(DTYPES)}, got {dtype}; "
                            f"convert it to F32")
    return file.get_tensor(key)
