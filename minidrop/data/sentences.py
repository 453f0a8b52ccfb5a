"""Vocabularies of sentences, and files that hold one a line."""

from __future__ import annotations

import hashlib
import threading
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minidrop.data.made_dates import FOLDER, made_lines
from minidrop.data.text import file_key, whole_lines
from minidrop.data.vocabulary import UNK, check_different, check_uncounted, content_of, decoded, keep
from minidrop.errors import DataError

PAD, BEGIN, END = "<pad>", "<s>", "</s>"
SPECIAL = (PAD, UNK, BEGIN, END)
"""The first words of every such vocabulary: padding, unknown words, the beginning and the end of a
sentence."""


class SentenceVocabulary:
    """The words of a language, numbered from 0: <pad>, <unk>, <s>, </s>, then those of a text.

    `of` puts the most frequent first, equally frequent ones in the order of their first appearance. A text
    cannot hold <pad>, <s> and </s>: they are read as <unk>. Raises DataError for a word that occurs twice or
    has white space, and if the four do not come first.
    """

    def __init__(self, tokens: Iterable[str], where: str = "vocabulary"):
        self.tokens = tuple(tokens)
        for number, token in enumerate(SPECIAL):
            if self.tokens[number:number + 1] != (token,):
                got = repr(self.tokens[number]) if number < len(self.tokens) else "none"
                raise DataError(f"{where}:{number + 1}: expected {token}, got {got}; a vocabulary of "
                                f"sentences begins with {', '.join(SPECIAL)}, a line for each")
        self._index: dict[str, int] = {}
        for index, token in enumerate(self.tokens):
            if token.split() != [token]:
                raise DataError(f"{where}:{index + 1}: expected a word without white space, got {token!r}; "
                                f"correct it")
            if self._index.setdefault(token, index) != index:
                raise DataError(f"{where}:{index + 1}: expected different words, got {token!r} again, as in "
                                f"line {self._index[token] + 1}; leave one out")
        for token in (PAD, BEGIN, END):
            del self._index[token]
        self.pad, self.unk, self.begin, self.end = range(len(SPECIAL))

    @classmethod
    def of(cls, words: list[str], counts: np.ndarray, least: int = 1) -> SentenceVocabulary:
        """Return the vocabulary of distinct words, in the order of their first appearance, that occur at
        least `least` times.

        counts: how often each word occurs, an integer array.
        """
        order = np.argsort(-counts, kind="stable")
        wanted = (words[i] for i in order.tolist() if counts[i] >= least)
        return cls([*SPECIAL, *(word for word in wanted if word not in SPECIAL)])

    @property
    def fingerprint(self) -> str:
        """A hash of the words in their order, practically unique to this vocabulary."""
        return hashlib.blake2b("\n".join(self.tokens).encode(), digest_size=16).hexdigest()

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, index):
        return self.tokens[index]

    def __contains__(self, word):
        return word in self._index

    def indices(self, words: Iterable[str]) -> np.ndarray:
        """Return the indices of words, int32, that of <unk> for unknown ones."""
        unk = self.unk
        return np.fromiter((self._index.get(word, unk) for word in words), np.int32)

    def save(self, path: str | Path) -> None:
        """Write the words to a UTF-8 file, one a line, in the order of their indices."""
        keep(path, "".join(f"{token}\n" for token in self.tokens))

    @classmethod
    def load(cls, path: str | Path) -> SentenceVocabulary:
        """Return the vocabulary of a file in the format of `save`. Raises DataError with the line."""
        content = content_of(path)
        check_different(content.count(b"\n"), path)
        text = decoded(content.removeprefix(b"\xef\xbb\xbf"), Path(path))
        return cls((line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")), str(path))


class VocabularyPair:
    """The vocabularies of the two languages of a parallel text."""

    def __init__(self, source: SentenceVocabulary, target: SentenceVocabulary):
        self.source, self.target = source, target

    @property
    def fingerprint(self) -> str:
        """A hash of both."""
        return hashlib.blake2b((self.source.fingerprint + self.target.fingerprint).encode(),
                               digest_size=16).hexdigest()

    def __len__(self):
        return len(self.source) + len(self.target)


@dataclass(frozen=True, eq=False)
class Lines:
    """The sentences of a file: `numbers` of their words (int32), of all lines one after the other, each of
    `lengths` words; `words` are the distinct ones in the order of their first appearance."""

    name: str
    words: list
    numbers: np.ndarray
    lengths: np.ndarray

    def vocabulary(self, least: int = 1) -> SentenceVocabulary:
        """Return the vocabulary of the words that occur at least `least` times."""
        return SentenceVocabulary.of(self.words, np.bincount(self.numbers, minlength=len(self.words)), least)

    def encoded(self, vocabulary: SentenceVocabulary) -> np.ndarray:
        """Return the indices of all words in a vocabulary, int32."""
        return vocabulary.indices(self.words)[self.numbers]


_cache: Any = weakref.WeakValueDictionary()     # what is still in use is not read again
_lock = threading.Lock()


def read_lines(path: str | Path) -> Lines:
    """Return the Lines of a text file, plain or compressed with gzip or xz, or of made sentences.

    Raises DataError with file and line for one that is missing, damaged, not UTF-8, too long, or has an empty
    line.
    """
    made = is_made(path)
    key = str(path) if made else file_key(path)
    with _lock:
        found = _cache.get(key)
        if found is None:
            pieces = ["".join(f"{line}\n" for line in made_lines(str(path)))] if made else whole_lines(path)
            found = _cache[key] = _read(path, pieces)
    return found


def is_made(path: str | Path) -> bool:
    """Whether this names made sentences (see `made_lines`), and no file."""
    return str(path).startswith(FOLDER)


def _read(path, pieces):
    index: dict[str, int] = {}
    numbers, lengths = [], []
    for text in pieces:
        rows = [line.split() for line in text.removesuffix("\n").split("\n")] if text else []
        empty = next((i for i, row in enumerate(rows) if not row), None)
        if empty is not None:
            line = sum(map(len, lengths)) + empty + 1
            raise DataError(f"{path}:{line}: expected a sentence, got an empty line; remove this line from "
                            f"both files of the pair")
        flat = [index.setdefault(word, len(index)) for row in rows for word in row]
        numbers.append(np.array(flat, np.int32))
        lengths.append(np.array([len(row) for row in rows], np.int64))
        check_different(len(index), path)
    if not any(map(len, lengths)):
        raise DataError(f"{path}: expected sentences, a line for each, got an empty file; name another one")
    return Lines(str(path), list(index), np.concatenate(numbers), np.concatenate(lengths))


def read_sentence_vocabulary(source: str | Path, least: int = 1) -> SentenceVocabulary:
    """Return the vocabulary of a `.vocabulary` file, or of the words of a text that occur `least` times.

    Raises DataError for a `least` above 1 beside such a file, which does not say how often a word occurs.
    """
    if str(source).endswith(".vocabulary"):
        check_uncounted(source, least)
        return SentenceVocabulary.load(source)
    return read_lines(source).vocabulary(least)
