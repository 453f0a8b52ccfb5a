"""Tagged texts: files with a token a line, in columns, as those of CoNLL's tasks."""

from __future__ import annotations

import threading
import weakref
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minidrop.data.limits import how_to_raise, raised
from minidrop.data.made_tags import MADE, made_lines
from minidrop.data.tag_schemes import chunks, fault, in_scheme, split_tag
from minidrop.data.text import unpacked
from minidrop.data.vocabulary import check_different, decoded
from minidrop.errors import DataError

LINE_LIMIT = 1 << 16        # bytes of a line
SENTENCE_LIMIT = 4096       # tokens of a sentence: the longest of a batch sets what all its streams take
DOCUMENT = b"-DOCSTART-"    # the first column of a line that begins a document; it is no token


@dataclass(frozen=True, eq=False)
class TaggedText:
    """A text as sentences of tagged tokens.

    words, tags: the distinct ones, in order of first appearance. word, tag: the number of each token in them,
    int32. starts: the first token of each sentence, and the number of tokens. lines: the line of each token.
    """

    name: str
    words: list[str]
    tags: list[str]
    word: np.ndarray
    tag: np.ndarray
    starts: np.ndarray
    lines: np.ndarray

    def __len__(self):
        return len(self.starts) - 1

    def where(self, token: int) -> str:
        """Return "FILE:LINE" of a token."""
        return f"{self.name}:{self.lines[token]}"


_cache: Any = weakref.WeakValueDictionary()     # whatever is still in use is not read again
_lock = threading.Lock()


def read_tagged(source: Path | str, word_column: int = 0, tag_column: int = -1) -> TaggedText:
    """Return the TaggedText of a file, plain or compressed with gzip or xz, or of a made text (see MADE).

    A line has the columns of one token, separated by blanks or tabs; -1 is the last column. Empty lines end
    sentences, and lines that begin with -DOCSTART- are left out. A text that is still referenced is not read
    again while its file is unchanged. Raises DataError with file and line.
    """
    columns = word_column, tag_column
    if str(source) in MADE:
        key: tuple = (str(source), *columns)
    else:
        try:
            path = Path(source).resolve()
            status = path.stat()
        except (OSError, ValueError, RuntimeError) as error:
            raise DataError(f"{source}: cannot be read ({getattr(error, 'strerror', None) or error}); check "
                            f"the path and its permissions") from error
        key = (str(path), status.st_mtime_ns, status.st_size, *columns)
    with _lock:
        text = _cache.get(key)
        if text is None:
            text = _cache[key] = _read(source, columns)
    return text


def _read(source, columns):
    words, tags = (_numbered() for _ in range(2))
    word, tag, lines, starts, count, width = [], [], [], [0], 0, None
    longest = raised(SENTENCE_LIMIT)
    for number, line in _lines(source):
        parts = line.split()            # of bytes: only blanks and tabs separate, no other white space
        if not parts or parts[0] == DOCUMENT:
            if count > starts[-1]:
                starts.append(count)
            continue
        if len(parts) != width:
            width = _checked_width(parts, width, columns, f"{source}:{number}")
        own = [decoded(parts[column], source, number - 1) for column in columns]
        word.append(words[own[0]])
        tag.append(tags[own[1]])
        lines.append(number)
        count += 1
        if count - starts[-1] > longest:
            raise DataError(f"{source}:{number}: expected a sentence of at most {SENTENCE_LIMIT} tokens, got "
                            f"a longer one; an empty line ends a sentence; {how_to_raise()}")
        if not count & 0xffff:
            check_different(len(words), source)
    if not count:
        raise DataError(f"{source}: expected a token and its tag in each line, got no token; name another "
                        f"file")
    if count > starts[-1]:
        starts.append(count)
    return TaggedText(str(source), list(words), list(tags), np.array(word, np.int32),
                      np.array(tag, np.int32), np.array(starts, np.int64), np.array(lines, np.int32))


def _checked_width(parts, width, columns, where):
    """Return the number of columns of a line. Raises DataError if it is not that of the lines before."""
    if width is not None:
        raise DataError(f"{where}: expected {width} columns as in the lines before, got {len(parts)}; a "
                        f"token has one line, and an empty line ends a sentence")
    least = max(column + 1 if column >= 0 else -column for column in columns)
    if len(parts) < max(2, least):
        raise DataError(f"{where}: expected a token and its tag in columns of at least {max(2, least)}, got "
                        f"{len(parts)} ({parts[0][:40].decode('utf-8', 'replace')!r}); correct the file, or "
                        f"word_column and tag_column")
    return len(parts)


def _numbered():
    index: Any = defaultdict()
    index.default_factory = index.__len__       # what is new gets the next number
    return index


def _lines(source) -> Iterator[tuple[int, bytes]]:
    """Yield (number, bytes) of each line. Raises DataError for a line that is no token's."""
    if str(source) in MADE:
        yield from enumerate(made_lines(str(source)), 1)
        return
    rest, number = b"", 0
    for piece in unpacked(source):
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            number += 1
            yield number, _short(line if number > 1 else line.removeprefix(b"\xef\xbb\xbf"), source, number)
        _short(rest, source, number + 1)
    if rest:
        yield number + 1, rest.removeprefix(b"\xef\xbb\xbf") if not number else rest


def _short(line, source, number):
    if len(line) > LINE_LIMIT:
        raise DataError(f"{source}:{number}: expected the columns of one token, got a line of more than "
                        f"{LINE_LIMIT} bytes; is this a text with a token a line?")
    return line


def tag_names(text: TaggedText, scheme: str) -> list[str]:
    """Return the tag of each token of a text, in the scheme IOBES, IOB2, or with NONE as it is written.

    Raises DataError with file and line for a tag that belongs to no scheme. If a text has E- or S-, all of it
    must follow the rules of IOBES.
    """
    if scheme == "NONE":
        return [text.tags[number] for number in text.tag.tolist()]
    pairs = []
    for number, tag in enumerate(text.tags):
        try:
            pairs.append(split_tag(tag))
        except ValueError as error:
            token = int(np.flatnonzero(text.tag == number)[0])
            raise DataError(f"{text.where(token)}: {error}; correct it, or tag_column, or set scheme: NONE "
                            f"for tags that mark no chunks") from None
    strict = any(letter in "ES" for letter, _ in pairs)
    names: list[str] = []
    for first, end in zip(text.starts[:-1].tolist(), text.starts[1:].tolist(), strict=True):
        own = [pairs[number] for number in text.tag[first:end].tolist()]
        if strict and (wrong := fault(own)):
            raise DataError(f"{text.where(first + wrong[0])}: {wrong[1]}; the text has E- and S-, so it is "
                            f"read as IOBES: correct it")
        names += in_scheme(chunks(own), end - first, scheme)
    return names


def kinds_of(text: TaggedText, scheme: str) -> list[str]:
    """Return the kinds of chunks of a text, with NONE its tags, sorted. Raises DataError as `tag_names`."""
    if scheme == "NONE":
        return sorted(text.tags)
    return sorted({split_tag(name)[1] for name in set(tag_names(text, scheme))} - {""})
