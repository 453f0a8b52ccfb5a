"""Text as token indices: reading files."""

from __future__ import annotations

import gzip
import io
import sys
import sysconfig
import threading
import weakref
import zlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minidrop.data.limits import check_unpacked, how_to_raise, raised
from minidrop.data.pieces import Pieces, in_runs
from minidrop.data.vocabulary import (
    LEVELS,
    Vocabulary,
    check_different,
    checked_level,
    decoded,
    tokens_of,
    words_of,
)
from minidrop.errors import DataError

STDLIB = "python-stdlib"
SIZE_LIMIT = 256 << 20      # of a text, unpacked; each byte takes about 8 bytes of memory
PIECE = 1 << 20
TEXT_LEVELS = (*LEVELS, "PIECE")
XZ_MAGIC, GZIP_MAGIC = b"\xfd7zXZ\0", b"\x1f\x8b"


@dataclass(frozen=True, eq=False)
class Text:
    """A text as indices (int32, read-only) into a vocabulary; `name` is its file, for messages."""

    name: str
    vocabulary: Vocabulary
    indices: np.ndarray


@dataclass(frozen=True, eq=False)
class _Raw:
    """A text as numbers of its distinct tokens, which are in the order of their first appearance."""

    tokens: list
    numbers: np.ndarray


_cache: weakref.WeakValueDictionary = weakref.WeakValueDictionary()     # what is in use is not read again
_lock = threading.Lock()


def read_text(source: Any, level: str = "WORD", vocabulary: Any = None, size: int = 0) -> Text:
    """Return the Text of `source`, encoded with a vocabulary.

    source: a path, plain or compressed with gzip or xz, or "python-stdlib". vocabulary: a `.vocabulary` file,
    or a text like `source` whose vocabulary is used, by default `source` itself. size: limits the number of
    tokens of a vocabulary made from a text; 0: no limit. At level "WORD" tokens are separated by white space,
    and every line ends with <eos>; at level "CHARACTER" every character is a token; at level "PIECE" they are
    what a tokenizer makes of the text, and `vocabulary` is the file of one (see Pieces).

    A Text that is still referenced is not read again while its files are unchanged (path, modification time,
    size). Raises DataError with file and line for a file that is missing, damaged, not UTF-8, empty or too
    long.
    """
    checked_level(level, TEXT_LEVELS)
    vocabulary = source if vocabulary is None else vocabulary
    text_key, vocabulary_key = (file_key(source), level), (file_key(vocabulary), level, size)
    with _lock:
        text = _cache.get((text_key, vocabulary_key))
        if text is None:
            held = _cache.get(vocabulary_key)
            raw = _raw(source, text_key) if level != "PIECE" else None
            if held is None:
                held = _vocabulary(vocabulary, level, size, raw if vocabulary_key[0] == text_key[0] else None)
                _cache[vocabulary_key] = held
            indices = held.indices(raw.tokens)[raw.numbers] if raw else _encoded(source, held)
            indices.flags.writeable = False
            text = _cache[text_key, vocabulary_key] = Text(str(source), held, indices)
    return text


def read_vocabulary(source: Path | str, level: str = "WORD", size: int = 0) -> Any:
    """Return the vocabulary of a `.vocabulary` file or of a text, as `read_text` uses it."""
    key = file_key(source), checked_level(level, TEXT_LEVELS), size
    with _lock:
        vocabulary = _cache.get(key)
        if vocabulary is None:
            vocabulary = _cache[key] = _vocabulary(source, level, size)
    return vocabulary


def _vocabulary(source, level, size, raw=None):
    if level == "PIECE":
        return Pieces.load(source)
    if str(source).endswith(".vocabulary"):
        vocabulary = Vocabulary.load(source)
        if vocabulary.level != level:
            raise DataError(f"{source}: expected a vocabulary of level {level}, got one of level "
                            f"{vocabulary.level}; change the level, or name another file")
        if size and len(vocabulary) != size:
            raise DataError(f"{source}: expected {size} tokens, the vocabulary_size, got {len(vocabulary)}; "
                            "leave vocabulary_size out, it limits vocabularies that are made of a text")
        return vocabulary
    raw = raw or _raw(source, (file_key(source), level))
    return Vocabulary.from_counts(raw.tokens, np.bincount(raw.numbers, minlength=len(raw.tokens)), size,
                                  level)


def file_key(source: Path | str) -> Any:
    """Return what tells the contents of a file from others. Raises DataError if there is no such file."""
    if str(source) == STDLIB:
        return STDLIB
    try:
        path = Path(source).resolve()
        status = path.stat()
    except (OSError, ValueError, RuntimeError) as error:
        raise _unreadable(source, error) from error
    return str(path), status.st_mtime_ns, status.st_size


def _raw(source, key):
    raw = _cache.get(key)
    if raw is not None:
        return raw
    level = key[1]
    index = defaultdict()
    index.default_factory = index.__len__       # a new token gets the next number
    parts, last = [], ""
    for piece in whole_lines(source):
        # A line may be as long as the text; a list of its words would take 30 times the memory.
        long = level == "WORD" and len(piece) > 4 * PIECE
        tokens = words_of(piece) if long else tokens_of(piece, level)
        parts.append(np.fromiter(map(index.__getitem__, tokens), np.int32, -1 if long else len(tokens)))
        check_different(len(index), source)
        last = piece[-1:] or last
    if level == "WORD" and last not in ("", "\n"):
        parts.append(np.fromiter(map(index.__getitem__, tokens_of("\n", level)), np.int32))
    numbers = np.concatenate(parts) if parts else np.empty(0, np.int32)
    if not numbers.size:
        raise DataError(f"{source}: expected a text, got an empty file; name another one")
    raw = _cache[key] = _Raw(list(index), numbers)
    return raw


def _encoded(source, tokenizer):
    """Return the indices of a text's pieces of words."""
    parts = [tokenizer.encode(run) for run in in_runs(whole_lines(source))]
    if not sum(map(len, parts)):
        raise DataError(f"{source}: expected a text, got one without a piece of a word; name another one")
    return np.concatenate(parts)


def whole_lines(source: Path | str) -> Iterator[str]:
    """Yield a text in pieces of whole lines. Raises DataError as `read_text` does."""
    if str(source) == STDLIB:
        for path in stdlib_files():
            # Modules in other encodings are read, too, with the same result on every machine.
            content = path.read_bytes().decode("utf-8", "replace")
            yield content if content.endswith("\n") else content + "\n"
        return
    lines, start = 0, True
    rest: list[bytes] = []
    for piece in unpacked(source):
        end = piece.rfind(b"\n") + 1
        if end:
            whole = b"".join((*rest, piece[:end]))
            yield decoded(whole.removeprefix(b"\xef\xbb\xbf") if start else whole, source, lines)
            lines, rest, start = lines + whole.count(b"\n"), [], False
        rest.append(piece[end:])
    whole = b"".join(rest)
    yield decoded(whole.removeprefix(b"\xef\xbb\xbf") if start else whole, source, lines)


def unpacked(path: Path | str) -> Iterator:
    """Yield the bytes of a file in pieces, decompressing gzip and xz.

    Raises DataError if the file cannot be read, is damaged, or unpacks to more than 256 MiB or more than an
    honest packed file would (`check_unpacked`).
    """
    import lzma

    size = 0
    try:
        with open(path, "rb") as file:
            magic = file.read(len(XZ_MAGIC))
            file.seek(0)
            stream: io.BufferedIOBase
            if magic.startswith(GZIP_MAGIC):
                stream = gzip.GzipFile(fileobj=file)
            else:
                stream = lzma.LZMAFile(file) if magic == XZ_MAGIC else file
            while piece := stream.read(PIECE):
                size += len(piece)
                if size > raised(SIZE_LIMIT):
                    raise DataError(f"{path}: expected a text of at most {SIZE_LIMIT >> 20} MiB, got more; "
                                    f"cut it into several files, or, {how_to_raise()}")
                if stream is not file:
                    check_unpacked(size, path)
                yield piece
    except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{path}: expected a whole {'xz' if magic == XZ_MAGIC else 'gzip'} file, got a "
                        f"damaged one ({error}); fetch it again") from error
    except (OSError, ValueError, MemoryError) as error:     # an xz file may ask for any amount of memory
        raise _unreadable(path, error) from error


def _unreadable(path, error):
    reason = getattr(error, "strerror", None) or str(error) or "too little memory"
    return DataError(f"{path}: cannot be read ({reason}); check the path and its permissions")


def stdlib_files() -> list[Path]:
    """Return the files of "python-stdlib": top-level modules of the standard library, sorted by name.

    Files that are not part of it, or differ from machine to machine, are left out. Raises DataError if this
    Python has no sources.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    paths = [path for path in sorted(folder.glob("*.py"), key=lambda path: path.name)
             if path.stem in sys.stdlib_module_names and not path.stem.startswith("_sysconfigdata")
             and path.is_file()]
    if not paths:
        raise DataError(f"{STDLIB}: expected the sources of the standard library in {folder}, got none "
                        "(this Python keeps them elsewhere); name a text file as the source")
    return paths
