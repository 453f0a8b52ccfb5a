"""Vocabulary: which token of a text has which index."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from minidrop.data.limits import how_to_raise, raised
from minidrop.errors import DataError
from minidrop.files import replace

UNK, EOS = "<unk>", "<eos>"
LEVELS = ("WORD", "CHARACTER")
SPECIAL = {"WORD": (UNK, EOS), "CHARACTER": (UNK,)}
FILE_LIMIT = 64 << 20
TOKENS_LIMIT = 4 << 20      # distinct tokens; each takes about 250 bytes
ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", " ": "\\s"}
UNESCAPED = {escape: token for token, escape in ESCAPES.items()}


def tokens_of(text: str, level: str) -> list[str] | str:
    """Return the tokens of a text: its characters, or its words with <eos> for every line end."""
    return text if level == "CHARACTER" else text.replace("\n", f" {EOS} ").split()


def words_of(text: str) -> Iterator[str]:
    """Yield the tokens that `tokens_of` returns at level "WORD", one at a time."""
    return (word.group() for word in re.finditer(r"\S+", text.replace("\n", f" {EOS} ")))


class Vocabulary:
    """The distinct tokens of a text, numbered from 0; <unk> stands for every other one.

    `tokens` are in the order of their indices. `build` puts <unk> first (index 0), at word level <eos>
    second, then the others, the most frequent first; equally frequent ones are in the order of their first
    appearance. A word <unk> or <eos> in the text is that same token. At level "CHARACTER" every token but
    <unk> is one character, a line end is an ordinary character, and there is no <eos>.

    Raises DataError for a token that occurs twice or that no text of this level can contain, or if <unk> or
    <eos> is missing.
    """

    def __init__(self, tokens: list[str], level: str = "WORD"):
        self.tokens, self.level = tuple(tokens), checked_level(level)
        if fault := _fault(self.tokens, level):
            raise DataError(f"vocabulary: token {fault[0]}: {fault[1]}")
        self._index = {token: index for index, token in enumerate(self.tokens)}
        self.unk: int | None = self._index[UNK]
        self.eos: int | None = self._index[EOS] if level == "WORD" else None

    @classmethod
    def build(cls, tokens: str, size: int = 0, level: str = "WORD") -> Any:
        """Return the vocabulary of an iterable of tokens: all, or the `size` most frequent ones.

        `size` includes <unk> and <eos>.
        """
        counts = Counter(tokens)
        return cls.from_counts(counts.keys(), counts.values(), size, level)

    @classmethod
    def from_counts(cls, tokens: Any, counts: Any, size: int = 0, level: str = "WORD") -> Vocabulary:
        """Return the vocabulary of distinct tokens, given in order of first appearance, with their counts.

        Raises DataError for a size that leaves no token.
        """
        special = SPECIAL[checked_level(level)]
        if size and size <= len(special):
            raise DataError(f"vocabulary: expected a size of more than {len(special)} ({', '.join(special)}) "
                            f"or 0, which takes all tokens, got {size}")
        tokens = list(tokens)
        order = np.argsort(-np.fromiter(counts, np.int64, len(tokens)), kind="stable")
        ordered = [token for token in map(tokens.__getitem__, order.tolist()) if token not in special]
        return cls([*special, *ordered][:size or None], level)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the tokens in their order, practically unique to this vocabulary."""
        return hashlib.blake2b("\n".join(map(repr, self.tokens)).encode(), digest_size=16).hexdigest()

    def __len__(self):
        return len(self.tokens)

    def __eq__(self, other):
        if not isinstance(other, Vocabulary):
            return NotImplemented
        return (self.level, self.tokens) == (other.level, other.tokens)

    def __hash__(self):
        return hash((self.level, self.tokens))

    def __contains__(self, token):
        return token in self._index

    def __getitem__(self, index):
        return self.tokens[index]

    def __repr__(self):
        return f"<Vocabulary of {len(self)} tokens, level {self.level}>"

    def index(self, token: Any) -> Any:
        """Return the index of a token, that of <unk> for an unknown one."""
        return self._index.get(token, self.unk)

    def indices(self, tokens: list[str] | str) -> np.ndarray:
        """Return the indices of an iterable of tokens, int32."""
        return np.fromiter(map(self._index.get, tokens, repeat(self.unk)), np.int32)

    def encode(self, text: str) -> np.ndarray:
        """Return the indices of a text's tokens, int32; at word level every line end is an <eos>."""
        return self.indices(tokens_of(text, self.level))

    def unknown(self, text: str) -> list[str]:
        """Return the distinct tokens of a text that are read as <unk>, in order of appearance."""
        tokens = text if self.level == "CHARACTER" else text.split()
        return [token for token in dict.fromkeys(tokens) if token not in self]

    def decode(self, indices: np.ndarray | list[int]) -> str:
        """Return the text of indices: words joined by blanks, <eos> as a line end; or characters.

        At character level <unk> becomes U+FFFD. Raises DataError for an index outside 0..len - 1.
        """
        tokens = [self.tokens[index] for index in self._checked(indices)]
        if self.level == "CHARACTER":
            return "".join("\N{REPLACEMENT CHARACTER}" if token == UNK else token for token in tokens)
        return " ".join("\n" if token == EOS else token
                        for token in tokens).replace("\n ", "\n").replace(" \n", "\n")

    def _checked(self, indices):
        """Return indices as a list, if all are of tokens."""
        indices = np.asarray(indices).reshape(-1).astype(np.int64)
        if indices.size and not 0 <= indices.min() <= indices.max() < len(self):
            raise DataError(f"expected indices within 0..{len(self) - 1}, the vocabulary's, got "
                            f"{indices.min()}..{indices.max()}; was the text made with another vocabulary?")
        return indices.tolist()

    def save(self, path: Path) -> None:
        r"""Write the tokens to a UTF-8 file, one per line, in the order of their indices.

        In a token \\ stands for a backslash, \n \r \t for line end, return and tab, \s for a blank.
        """
        escape = str.maketrans(ESCAPES)
        keep(path, "".join(f"{token.translate(escape)}\n" for token in self.tokens))

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Return the vocabulary of a file in the format of `save`; its level is WORD if it has <eos>.

        Raises DataError with the line if the file is not in that format.
        """
        content = content_of(path, "is this a text? A text is named without .vocabulary at its end; ")
        check_different(content.count(b"\n"), path)
        text = decoded(content.removeprefix(b"\xef\xbb\xbf"), path)
        lines = text.removesuffix("\n").split("\n") if text else []
        tokens = [_unescaped(line.removesuffix("\r"), f"{path}:{number}")
                  for number, line in enumerate(lines, 1)]
        level = "WORD" if EOS in tokens else "CHARACTER"
        if fault := _fault(tokens, level):
            raise DataError(f"{path}:{fault[0] + 1}: {fault[1]}")
        return cls(tokens, level)


def _fault(tokens, level):
    """Return (index, what is wrong) of the first invalid token, or None."""
    first = {}
    for index, token in enumerate(tokens):
        if first.setdefault(token, index) != index:
            return index, (f"expected different tokens, got {token!r} again, as token {first[token]}; leave "
                           f"one out")
        if level == "CHARACTER" and token != UNK and len(token) != 1:
            return index, (f"expected one character, got {token!r}; correct it (a vocabulary of words holds "
                           f"{EOS}, which this one does not)")
        if level == "WORD" and token.split() != [token]:
            return index, f"expected a word without white space, got {token!r}; correct it"
    for token in SPECIAL[level]:
        if token not in first:
            return len(tokens), f"expected {token} among the tokens, got none; add it"
    return None


def keep(path: Path | str, text: str, what: str = "vocabulary") -> None:
    """Write the file of a vocabulary, or of `what` else, whole or not at all. Raises DataError."""
    try:
        replace(path, text)
    except OSError as error:
        raise DataError(f"{path}: the {what} cannot be written ({error.strerror or error}); check the free "
                        f"space and the permissions there") from error


def content_of(path: Path | str, advice: str = "", what: str = "vocabulary") -> bytes:
    """Return what is in the file of a vocabulary, or of `what` else, of at most FILE_LIMIT bytes.

    advice: what the message about a larger one says before how to raise the limit, with a blank at its end.
    Raises DataError for one that is missing or larger.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(raised(FILE_LIMIT) + 1)
    except (OSError, ValueError) as error:      # ValueError: a NUL in the name
        raise DataError(f"{path}: the {what} cannot be read ({getattr(error, 'strerror', None) or error}); "
                        f"check the path and its permissions") from error
    if len(content) > raised(FILE_LIMIT):
        raise DataError(f"{path}: expected a {what} of at most {FILE_LIMIT >> 20} MiB, got more; "
                        f"{advice}{how_to_raise()}")
    return content


def check_different(count: int, source: Path | str) -> None:
    """Raise DataError if a text or vocabulary has so many distinct tokens that they would fill the memory."""
    if count > raised(TOKENS_LIMIT):
        raise DataError(f"{source}: expected at most {TOKENS_LIMIT} different tokens, got {count} or more; "
                        f"{how_to_raise()}")


def check_uncounted(source: Path | str, least: int) -> None:
    """Raise DataError where words of a `.vocabulary` file are to occur at least `least` times."""
    if least > 1:
        raise DataError(f"{source}: holds words without their counts, so that none can be left out for "
                        f"occurring less than {least} times; leave that number out, it is for vocabularies "
                        f"that are made of a text")


def checked_level(level: str, levels: tuple[str, ...] = LEVELS) -> str:
    """Return `level` if it is valid. Raises ValueError otherwise: the caller's mistake, not the data's."""
    if level not in levels:
        raise ValueError(f"expected a level out of {levels}, got {level!r}")
    return level


def decoded(content: bytes, path: Path | str, lines_before: int = 0) -> str:
    """Return bytes decoded as UTF-8. Raises DataError with the line if they are not UTF-8."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = lines_before + content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: expected text in UTF-8, got the byte 0x{content[error.start]:02X}; "
                        f"convert the file, e.g. with iconv -t UTF-8, or name another one") from None


def _unescaped(line, where):
    if not line:
        raise DataError(f"{where}: expected a token, got an empty line; remove it (a blank is written \\s)")

    def plain(escape):
        if escape[0] not in UNESCAPED:
            raise DataError(f"{where}: expected {' or '.join(UNESCAPED)}, got {escape[0]} in {line!r}; write "
                            "a backslash as \\\\")
        return UNESCAPED[escape[0]]
    return re.sub(r"\\.?", plain, line)
