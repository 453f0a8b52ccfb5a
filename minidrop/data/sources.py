"""Where a `source` of a config file is looked up, and what to say if it is not found."""

import os
from pathlib import Path

from minidrop.errors import DataError, nearest
from minidrop.files import in_order

DATA_SETS = ("digits", "mnist", "fashion-mnist", "cifar10", "ptb", "tinyshakespeare")
"""What `minidrop data` can make.

"NAME/train.txt" and "NAME/test.txt" are the sources; cifar10 has "cifar10/mean.binaryproto" and ptb
"ptb/valid.txt" too, tinyshakespeare is one text, "tinyshakespeare/input.txt".
"""

DATABASE_COMMANDS = {"siamese": "convert_mnist_siamese_data IMAGES LABELS DB",
                     "mnist": "convert_mnist_data IMAGES LABELS DB",
                     "cifar": "convert_cifar_data INPUT_FOLDER OUTPUT_FOLDER lmdb"}
"""The command that makes a database, by a part of its name."""


def cache_dir() -> Path:
    """Return the folder of converted data: $MINIDROP_CACHE, else ~/.cache/minidrop. It need not exist.

    Raises DataError if neither the variable nor a home folder is known.
    """
    try:
        return Path(os.environ.get("MINIDROP_CACHE") or "~/.cache/minidrop").expanduser()
    except RuntimeError:
        raise DataError("the folder for converted data: expected $MINIDROP_CACHE or a home folder, got "
                        "neither; set MINIDROP_CACHE to a folder that can be written") from None


def find_source(source: str, config_path: str | None = None, kind: str = "list",
                field: str = "source") -> Path:
    """Return the path of the file that `source` names.

    A relative name is looked up in the working directory, then beside the config file, see `in_order`, then
    in `cache_dir()`.
    kind: what messages call the file, "list", "text", "mean" or "matrix"; field: the setting that names it.
    Raises DataError with the places tried and, for a known data set, the command that makes the file; the
    caller adds the line that names the source.
    """
    if not source:
        raise DataError(f"{field}: expected the name of a {kind} file, got an empty one; write e.g. "
                        f"{field}: \"{'ptb' if kind == 'text' else 'digits'}/train.txt\"")
    places = _places(source, config_path)
    try:
        for place in places:
            if place.is_file():
                return place
        folder = next((place for place in places if place.is_dir()), None)
        special = next((place for place in places if place.exists()), None)
    except (OSError, ValueError) as error:
        raise _refused(field, source, "file", error) from error
    if folder is not None:
        inside = "text file in it that lists the HDF5 files" if kind == "list" else f"{kind} file in it"
        raise DataError(f"{field} {source!r}: expected a {kind} file, got the folder {folder}; name the "
                        f"{inside}")
    if special is not None:
        raise DataError(f"{field} {source!r}: expected a {kind} file, got {special}, a pipe or a device; "
                        "name a file")
    looked = ", ".join(str(place) for place in places)
    raise DataError(f"{field} {source!r}: no such file (looked for {looked}); {how_to_make(source)}")


def find_database(source: str, config_path: str | None = None) -> Path:
    """Return the path of the folder that `source` names, looked up as in `find_source`.

    Raises DataError with the places tried and the command that makes such a database.
    """
    places = _places(source, config_path)
    try:
        for place in places:
            if place.is_dir():
                return place
        is_file = any(place.is_file() for place in places)
    except (OSError, ValueError) as error:
        raise _refused("source", source, "folder", error) from error
    if is_file:
        raise DataError(f"source {source!r}: expected the folder of a database, got a file; name the folder "
                        "that it is in")
    looked = ", ".join(str(place) for place in places)
    command = next((command for part, command in DATABASE_COMMANDS.items() if part in source.lower()),
                   "convert_imageset ROOT/ LIST DB")
    raise DataError(f"source {source!r}: no such folder (looked for {looked}); correct the name, or make the "
                    f"database with: minidrop {command}")


def _refused(field, source, kind, error):
    if isinstance(error, PermissionError):
        return DataError(f"{field} {source!r}: expected a {kind} that may be read, got: permission denied "
                         f"({error.filename}); check the permissions of the folders that it is in")
    return DataError(f"{field} {source!r}: expected the name of a {kind}, got one that the system refuses "
                     f"({error}); correct it")


def _places(source, config_path):
    """Return where a source is looked up, first things first."""
    try:
        name = Path(source).expanduser()
    except RuntimeError:
        name = Path(source)
    beside = [Path(config_path).resolve().parent] if config_path else []
    folders = [Path.cwd(), *beside, cache_dir()]
    if name.is_absolute():
        return [name]
    places = [folder / name for folder in folders]
    return list(dict.fromkeys(in_order(source, places) if beside else places))


def how_to_make(source: str) -> str:
    """Return the advice for a missing source: the command that makes a known data set, else what to check."""
    first = Path(source).parts[0] if Path(source).parts else ""
    if first in DATA_SETS:
        return f"make it with: minidrop data {first}"
    return "correct the name, or put the file in one of these places" + nearest(first, DATA_SETS)
