"""Pieces: the vocabulary of a tokenizer of the tokenizers package, whose tokens are pieces of words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from minidrop.data.vocabulary import Vocabulary, check_different, content_of, decoded, keep
from minidrop.errors import DataError

RUN = 1 << 20               # characters that are encoded at once; each takes about 100 bytes meanwhile
_STOPS = (KeyboardInterrupt, SystemExit, GeneratorExit)


class Pieces(Vocabulary):
    """The vocabulary of a tokenizer, and the tokenizer itself: `encode` and `decode` are its own.

    `tokens` are as the tokenizer spells them, "" for a number that it has no token for. Special tokens that
    stand in a text are read as such; none is added, and what would cut or pad an encoding is turned off.
    `unk` is None if it knows no unknown token, `eos` is None: pieces have none of their own.
    """

    def __init__(self, tokenizer: Any, name: Path | str = "the tokenizer"):
        self.name, self.level, self.eos, self._tokenizer = str(name), "PIECE", None, tokenizer
        tokenizer.no_truncation()
        tokenizer.no_padding()
        if getattr(tokenizer.model, "dropout", None):
            raise DataError(f"{name}: expected a tokenizer that cuts a word in the same way every time, got "
                            f"one with a dropout of {tokenizer.model.dropout:g}; set it to null in the file")
        self._index = tokenizer.get_vocab(with_added_tokens=True)
        if not self._index:
            raise DataError(f"{name}: expected a tokenizer with tokens, got one without; train it first")
        check_different(max(self._index.values()) + 1, name)
        tokens = [""] * (max(self._index.values()) + 1)
        for token, index in self._index.items():
            tokens[index] = token
        self.tokens = tuple(tokens)
        self.unk = self._index.get(getattr(tokenizer.model, "unk_token", None) or "")

    @classmethod
    def load(cls, path: Path) -> Pieces:
        """Return the Pieces of a tokenizer.json. Raises DataError if it is none, or without the package."""
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise DataError(f"{path}: level PIECE: expected the package tokenizers, which reads it, got "
                            'none; run: python -m pip install "minidrop[text]", or python -m pip install '
                            "tokenizers") from error
        text = decoded(content_of(path, "is this a text? ", "tokenizer"), path)
        with _explained(path, "a tokenizer.json of the tokenizers package", "name another vocabulary"):
            return cls(Tokenizer.from_str(text), path)

    def index(self, token: Any) -> Any:
        """Return the index of a token; of an unknown one that of the unknown token, or None."""
        return self._index.get(token, self.unk)

    def encode(self, text: str) -> np.ndarray:
        """Return the indices of a text's pieces, int32. Raises DataError if the tokenizer fails."""
        with _explained(self.name, "a tokenizer for any text", "does it lack an unknown token?"):
            found = self._tokenizer.encode(text, add_special_tokens=False).ids
        return np.array(found, np.int32)

    def unknown(self, text: str) -> list[str]:
        """Return the distinct pieces of a text that are read as the unknown token."""
        if self.unk is None:
            return []
        with _explained(self.name, "a tokenizer for any text", "does it lack an unknown token?"):
            found = self._tokenizer.encode(text, add_special_tokens=False)
            pieces = [text[first:last] for index, (first, last) in zip(found.ids, found.offsets, strict=True)
                      if index == self.unk]
        return list(dict.fromkeys(pieces))

    def decode(self, indices: np.ndarray | list[int]) -> str:
        """Return the text of indices, special tokens included; U+FFFD for bytes that are no character.

        Raises DataError for an index outside 0..len - 1.
        """
        numbers = self._checked(indices)
        with _explained(self.name, "a tokenizer that decodes its tokens", "is its decoder the right one?"):
            return self._tokenizer.decode(numbers, skip_special_tokens=False)

    def save(self, path: Path) -> None:
        """Write the tokenizer.json. Raises DataError."""
        keep(path, self._tokenizer.to_str(pretty=True), "tokenizer")


def in_runs(parts: Iterable[str], size: int = RUN) -> Iterator[str]:
    """Yield a text, given in parts, in runs of about `size` characters that can be encoded alone.

    A run ends where no piece of a word goes across: after a line end between two lines with something at
    both sides, else before a blank between words; only in a run without either anywhere.
    """
    rest = ""
    for part in parts:
        rest, begin = rest + part, 0
        while len(rest) - begin > size:
            end = _last(rest, "\n", begin, begin + size) + 1 or _last(rest, " ", begin, begin + size)
            end = end if end > begin else begin + size
            yield rest[begin:end]
            begin = end
        rest = rest[begin:]
    if rest:
        yield rest


def _last(text, mark, begin, end):
    """Return the last place of a mark in text[begin + 1:end] without white space around it, -1 for none."""
    place = text.rfind(mark, begin + 1, end)
    while place > 0 and (text[place - 1].isspace() or text[place + 1].isspace()):
        place = text.rfind(mark, begin + 1, place)
    return place


@contextmanager
def _explained(name, expected, advice):
    """Raise what the tokenizers package raises, panics of its own included, as one DataError."""
    try:
        yield
    except (DataError, MemoryError, *_STOPS):
        raise
    except BaseException as error:      # a panic of its Rust is no Exception
        reason = (" ".join(str(error).split()) or type(error).__name__)[:200]
        raise DataError(f"{name}: expected {expected}, got: {reason}; {advice}") from error
