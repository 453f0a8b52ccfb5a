"""Text as token indices: reading files, and making batches for a language model."""

from __future__ import annotations

import gzip
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
from minidrop.data.vocabulary import Vocabulary, check_different, checked_level, decoded, tokens_of, words_of
from minidrop.errors import DataError
from minidrop.rng import generator

STDLIB = "python-stdlib"
SIZE_LIMIT = 256 << 20      # of a text, unpacked; each byte takes about 8 bytes of memory
PIECE = 1 << 20
XZ_MAGIC, GZIP_MAGIC = b"\xfd7zXZ\0", b"\x1f\x8b"
PADDING = -1                # the label that Sentences gives to steps after the end of a sentence


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


_cache = weakref.WeakValueDictionary()      # whatever is still in use is not read again
_lock = threading.Lock()


def read_text(source: Any, level: str = "WORD", vocabulary: Any = None, size: int = 0) -> Text:
    """Return the Text of `source`, encoded with a vocabulary.

    source: a path, plain or compressed with gzip or xz, or "python-stdlib". vocabulary: a `.vocabulary` file,
    or a text like `source` whose vocabulary is used, by default `source` itself. size: limits the number of
    tokens of a vocabulary made from a text; 0: no limit. At level "WORD" tokens are separated by white space,
    and every line ends with <eos>; at level "CHARACTER" every character is a token.

    A Text that is still referenced is not read again while its files are unchanged (path, modification time,
    size). Raises DataError with file and line for a file that is missing, damaged, not UTF-8, empty or too
    long.
    """
    checked_level(level)
    vocabulary = source if vocabulary is None else vocabulary
    text_key, vocabulary_key = (_key(source), level), (_key(vocabulary), level, size)
    with _lock:
        text = _cache.get((text_key, vocabulary_key))
        if text is None:
            held = _cache.get(vocabulary_key)
            raw = _raw(source, text_key)
            if held is None:
                held = _vocabulary(vocabulary, level, size, raw if vocabulary_key[0] == text_key[0] else None)
                _cache[vocabulary_key] = held
            indices = held.indices(raw.tokens)[raw.numbers]
            indices.flags.writeable = False
            text = _cache[text_key, vocabulary_key] = Text(str(source), held, indices)
    return text


def read_vocabulary(source: Path | str, level: str = "WORD", size: int = 0) -> Any:
    """Return the vocabulary of a `.vocabulary` file or of a text, as `read_text` uses it."""
    key = _key(source), checked_level(level), size
    with _lock:
        vocabulary = _cache.get(key)
        if vocabulary is None:
            vocabulary = _cache[key] = _vocabulary(source, level, size)
    return vocabulary


def _vocabulary(source, level, size, raw=None):
    if str(source).endswith(".vocabulary"):
        vocabulary = Vocabulary.load(source)
        if vocabulary.level != level:
            raise DataError(f"{source}: expected a vocabulary of level {level}, got one of level "
                            f"{vocabulary.level}; change the level, or name another file")
        if size and len(vocabulary) != size:
            raise DataError(f"{source}: expected {size} tokens, the vocabulary_size, got {len(vocabulary)}; "
                            "leave vocabulary_size out, it limits vocabularies that are made of a text")
        return vocabulary
    raw = raw or _raw(source, (_key(source), level))
    return Vocabulary.from_counts(raw.tokens, np.bincount(raw.numbers, minlength=len(raw.tokens)), size,
                                  level)


def _key(source):
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
    for piece in _pieces(source):
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


def _pieces(source):
    """Yield the text in pieces of whole lines."""
    if str(source) == STDLIB:
        for path in stdlib_files():
            # Modules in other encodings are read, too, with the same result on every machine.
            content = path.read_bytes().decode("utf-8", "replace")
            yield content if content.endswith("\n") else content + "\n"
        return
    lines, rest, start = 0, [], True
    for piece in unpacked(source):
        end = piece.rfind(b"\n") + 1
        if end:
            whole = b"".join((*rest, piece[:end]))
            yield decoded(whole.removeprefix(b"\xef\xbb\xbf") if start else whole, source, lines)
            lines, rest, start = lines + whole.count(b"\n"), [], False
        rest.append(piece[end:])
    whole = b"".join(rest)
    yield decoded(whole.removeprefix(b"\xef\xbb\xbf") if start else whole, source, lines)


def unpacked(path: Path) -> Iterator:
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


def part_of(count: int, begin: float, end: float) -> Any:
    """Return the slice of `count` items from share `begin` to share `end`; adjacent shares tile exactly."""
    return slice(round(begin * count), round(end * count))


class TextStreams:
    """A text as parallel streams: batch n holds `steps` steps of each, from step n * steps on.

    Of M tokens stream s has the `length` tokens from s * length on, length = M // streams; the rest is
    dropped. The last token of a stream is read as a label only, so a pass has (length - 1) // steps batches.
    Batch n of the first pass is, with t = 0 ... steps - 1:

        data[t, s] = x[s * length + n * steps + t],  label[t, s] = x[s * length + n * steps + t + 1]

    and cont[t, s] is 0 for the very first step of a pass, else 1. All are (steps, streams), int32. Batch n is
    a function of n alone; after each pass the text starts over. `begin` and `end`: the part of the tokens to
    read, as shares.

    Raises DataError if the text is too short for one batch.
    """

    def __init__(self, indices: np.ndarray, streams: int, steps: int, begin: float = 0.0, end: float = 1.0,
                 name: Path | str = "the text"):
        part = part_of(len(indices), begin, end)
        indices = np.asarray(indices, np.int32)[part]
        self.streams, self.steps, self.name, self.first = int(streams), int(steps), str(name), part.start
        self.length = len(indices) // self.streams
        self.batches_per_pass = (self.length - 1) // self.steps
        if self.batches_per_pass < 1:
            raise DataError(f"{name}: expected at least {self.streams * (self.steps + 1)} tokens for "
                            f"{self.streams} streams of {self.steps} steps, got {len(indices)}; use fewer "
                            f"streams, fewer steps or a longer text")
        self._rows = indices[:self.length * self.streams].reshape(self.streams, self.length)

    def batch(self, n: int) -> dict[str, np.ndarray]:
        """Return batch number n (0, 1, ...): data, label and cont by name."""
        place = self._place(n)
        rows = self._rows[:, place:place + self.steps + 1]
        cont = np.ones((self.steps, self.streams), np.int32)
        cont[0] = place > 0
        return {"data": np.array(rows[:, :-1].T, order="C"), "label": np.array(rows[:, 1:].T, order="C"),
                "cont": cont}

    def where(self, n: int, place: int) -> str:
        """Return "token NUMBER of stream STREAM of FILE" for entry `place` of the flattened batch n."""
        step, stream = divmod(place, self.streams)
        return f"token {self._place(n) + step} of stream {stream} of {self.name}"

    def _place(self, n):
        if n < 0:
            raise ValueError(f"batch numbers begin at 0; got {n}")
        return n % self.batches_per_pass * self.steps


class Sentences:
    """A text as sentences, one per stream: for models that start over with each, such as caption models.

    A sentence w_1 ... w_k is the words before an <eos>; empty ones are left out. In its stream

        data = <eos> w_1 ... w_k <eos> ...,  label = w_1 ... w_k <eos> -1 ...,  cont = 0 1 ... 1 0 ...

    truncated or padded to `steps`. The label -1 is meant for ignore_label; cont is 0 at padding, which keeps
    it apart from the words in either direction. All are (steps, streams), int32. A batch is never partial but
    continues into the next pass. With `shuffle` every pass has its own order, a function of
    (seed, layer_name, pass) alone. `begin` and `end`: the part of the sentences to read, as shares.

    Raises DataError if there is no sentence.
    """

    def __init__(self, indices: np.ndarray, eos: Any, streams: int, steps: int, shuffle: bool = False,
                 seed: int = 0, layer_name: str = "", begin: float = 0.0, end: float = 1.0,
                 name: Path | str = "the text"):
        self.indices = np.asarray(indices, np.int32)
        self.eos, self.streams, self.steps, self.name = int(eos), int(streams), int(steps), str(name)
        self.shuffle, self.seed, self.layer_name = bool(shuffle), seed, layer_name
        ends = np.flatnonzero(self.indices == self.eos)
        if len(self.indices) and self.indices[-1] != self.eos:
            ends = np.append(ends, len(self.indices))
        starts = np.append(0, ends[:-1] + 1) if len(ends) else ends
        lines = np.flatnonzero(ends > starts)
        lines = lines[part_of(len(lines), begin, end)]
        if not len(lines):
            raise DataError(f"{name}: expected at least one sentence, a line with a word, got none in this "
                            "part of the text; name another source or correct begin and end")
        self.lines, self.starts, self.lengths = lines, starts[lines], (ends - starts)[lines]
        self.batches_per_pass = -(-len(lines) // self.streams)
        self._orders = {}

    def __len__(self):
        return len(self.lines)

    def batch(self, n: int) -> dict[str, np.ndarray]:
        """Return batch number n (0, 1, ...): data, label and cont by name."""
        chosen = self._chosen(n)
        step = np.arange(self.steps)[:, None]
        places, inside = self.starts[chosen] + step, step < self.lengths[chosen]
        words = np.where(inside, self.indices[np.minimum(places, len(self.indices) - 1)], self.eos)
        data = np.full((self.steps, self.streams), self.eos, np.int32)
        data[1:] = words[:-1]
        label = np.where(step <= self.lengths[chosen], words, PADDING).astype(np.int32)
        cont = ((step > 0) & (step <= self.lengths[chosen])).astype(np.int32)
        return {"data": data, "label": label, "cont": cont}

    def where(self, n: int, place: int) -> str:
        """Return "token NUMBER of line LINE of FILE" for entry `place` of the flattened batch n.

        For padding: the line before it, and the ignore_label to set.
        """
        step, stream = divmod(place, self.streams)
        number = self._chosen(n)[stream]
        line = f"line {self.lines[number] + 1} of {self.name}"
        if step > self.lengths[number]:
            return (f"padding after {line}, labelled {PADDING}: set loss_param "
                    f"{{ ignore_label: {PADDING} }}, of Accuracy accuracy_param "
                    f"{{ ignore_label: {PADDING} }}")
        return f"token {step} of {line}"

    def _chosen(self, n):
        if n < 0:
            raise ValueError(f"batch numbers begin at 0; got {n}")
        # In Python integers as far as possible: a snapshot may hold any n.
        passed, place = divmod(n * self.streams, len(self))
        passes, places = np.divmod(place + np.arange(self.streams), len(self))
        if not self.shuffle:
            return places
        passes = [passed + further for further in passes.tolist()]
        wanted = range(passes[0], passes[-1] + 1)
        self._orders = {number: self._orders.get(number, None) for number in wanted}
        for number, order in self._orders.items():
            if order is None:
                rng = generator(self.seed, "sentences", self.layer_name, number)
                self._orders[number] = rng.permutation(len(self))
        return np.array([self._orders[number][place]
                         for number, place in zip(passes, places.tolist(), strict=True)])
