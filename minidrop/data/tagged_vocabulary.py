"""What the tokens of tagged texts are as numbers: words, characters and tags."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from minidrop.data.tag_schemes import SCHEMES, TagSet
from minidrop.data.tagged_text import TaggedText, kinds_of, tag_names
from minidrop.data.vocabulary import content_of, decoded, keep
from minidrop.errors import DataError

PAD, UNK = "<pad>", "<unk>"
SPECIAL = (PAD, UNK)
FORMAT = "minidrop tagged vocabulary 1"
_ZEROS = {ord(digit): "0" for digit in "123456789"}


class Numbering:
    """Distinct tokens, numbered from 0: <pad>, <unk>, then those given; <unk> stands for every other one.

    No text has <pad>, which is what fills a batch: a word of that name is read as <unk>.
    """

    def __init__(self, tokens: Iterable[str]):
        self.tokens = (*SPECIAL, *(token for token in tokens if token not in SPECIAL))
        self._index = {token: index for index, token in enumerate(self.tokens) if token != PAD}
        self.unk = SPECIAL.index(UNK)

    @classmethod
    def of(cls, counts: Counter, least: int = 1) -> Numbering:
        """Return the tokens that occur `least` times, the most frequent first, else as they first appear."""
        return cls(token for token, count in counts.most_common() if count >= least)

    def __len__(self):
        return len(self.tokens)

    def index(self, token: str) -> int:
        """Return the number of a token, that of <unk> for an unknown one."""
        return self._index.get(token, self.unk)


class TaggedVocabulary:
    """The words, characters and tags of a training text.

    tags: a TagSet. digits_to_zero: every digit is read as 0. lower_case: words, but not their characters, are
    read in lower case. once: for each word's number whether it occurs once, a bool array.
    """

    def __init__(self, words: Numbering, characters: Numbering, tags: TagSet, once: np.ndarray,
                 digits_to_zero: bool = False, lower_case: bool = False):
        self.words, self.characters, self.tags, self.once = words, characters, tags, once
        self.digits_to_zero, self.lower_case = bool(digits_to_zero), bool(lower_case)

    @classmethod
    def of(cls, text: TaggedText, scheme: str = "IOBES", digits_to_zero: bool = False,
           lower_case: bool = False, minimum_count: int = 1) -> TaggedVocabulary:
        """Return the vocabulary of a text; a word that, as it is read, occurs less often is <unk>."""
        none = Numbering(())
        made = cls(none, none, TagSet(kinds_of(text, scheme), scheme), np.empty(0, bool), digits_to_zero,
                   lower_case)
        words: Counter = Counter()
        characters: Counter = Counter()
        for raw, count in zip(text.words, np.bincount(text.word).tolist(), strict=True):
            words[made.as_word(raw)] += count
            for character in made.as_spelled(raw):
                characters[character] += count
        made.words, made.characters = Numbering.of(words, minimum_count), Numbering.of(characters)
        made.once = np.array([word not in SPECIAL and words[word] == 1 for word in made.words.tokens])
        return made

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all tokens and settings, practically unique to this vocabulary."""
        parts = (self.words.tokens, self.characters.tokens, self.tags.names, self.digits_to_zero,
                 self.lower_case)
        return hashlib.blake2b(repr(parts).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()

    def __len__(self):
        return len(self.words)

    def as_spelled(self, token: str) -> str:
        """Return a token as its characters are read."""
        return token.translate(_ZEROS) if self.digits_to_zero else token

    def as_word(self, token: str) -> str:
        """Return a token as it is looked up among the words."""
        token = self.as_spelled(token)
        return token.lower() if self.lower_case else token

    def save(self, path: Path | str) -> None:
        """Write the vocabulary to a JSON file, whose name should end with .vocabulary. Raises DataError."""
        held = {"format": FORMAT, "scheme": self.tags.scheme, "digits_to_zero": self.digits_to_zero,
                "lower_case": self.lower_case, "tags": list(self.tags.kinds),
                "characters": self.characters.tokens[len(SPECIAL):],
                "words": self.words.tokens[len(SPECIAL):],
                "once": np.flatnonzero(self.once).tolist()}
        keep(path, json.dumps(held, ensure_ascii=False, indent=0) + "\n")

    @classmethod
    def load(cls, path: Path) -> TaggedVocabulary:
        """Return the vocabulary of a file that `save` wrote. Raises DataError for another."""
        content = content_of(path)
        try:
            held = json.loads(decoded(content, path))
        except (ValueError, RecursionError):
            held = None
        if fault := _fault(held):
            raise DataError(f"{path}: expected the vocabulary of a tagged text, as its `save` writes it, got "
                            f"{fault}; save it again")
        words, once = Numbering(held["words"]), np.zeros(len(held["words"]) + len(SPECIAL), bool)
        once[held["once"]] = True
        return cls(words, Numbering(held["characters"]), TagSet(held["tags"], held["scheme"]), once,
                   held["digits_to_zero"], held["lower_case"])


def _fault(held):
    """Return what is wrong with what a vocabulary's file holds, "" if nothing."""
    if not isinstance(held, dict) or held.get("format") != FORMAT:
        return "another file"
    if held.get("scheme") not in SCHEMES:
        return f"the scheme {str(held.get('scheme'))[:40]!r}"
    for name in ("digits_to_zero", "lower_case"):
        if not isinstance(held.get(name), bool):
            return f"no true or false as {name}"
    for name in ("words", "characters", "tags"):
        tokens = held.get(name)
        if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
            return f"no list of texts as {name}"
        if len({*tokens, *SPECIAL}) != len(tokens) + len(SPECIAL):
            return f"one of its {name} twice"
    once, most = held.get("once"), len(held["words"]) + len(SPECIAL)
    if not isinstance(once, list) or not all(type(i) is int and 0 <= i < most for i in once):
        return "no list of the numbers of words as once"
    return ""


class Encoded:
    """Sentences as numbers of a TaggedVocabulary.

    word, tag: of each token, int32; tag None: not known. starts: the first token of each sentence, and the
    number of tokens. spelling: the number of each token's distinct word in `spelled` (words, most), whose
    rows are characters, `spelled_lengths` of them, at most `most_characters`.
    """

    def __init__(self, vocabulary: TaggedVocabulary, words: list[str], spelling: np.ndarray,
                 starts: np.ndarray, tag: Any = None, most_characters: int = 40):
        self.vocabulary, self.starts, self.spelling = vocabulary, starts, spelling
        self.lengths = np.diff(starts)
        numbers = np.fromiter((vocabulary.words.index(vocabulary.as_word(word)) for word in words), np.int32,
                              len(words))
        self.word, self.tag = numbers[spelling], tag
        cut = [vocabulary.as_spelled(word[:most_characters])[:most_characters] for word in words]
        self.spelled_lengths = np.fromiter(map(len, cut), np.int32, len(cut))
        self.spelled = np.zeros((len(cut), max(1, int(self.spelled_lengths.max(initial=0)))), np.int32)
        for row, word in zip(self.spelled, cut, strict=True):
            row[:len(word)] = [vocabulary.characters.index(character) for character in word]

    def __len__(self):
        return len(self.lengths)

    @classmethod
    def of_text(cls, vocabulary: TaggedVocabulary, text: TaggedText, most_characters: int = 40) -> Encoded:
        """Return the sentences of a TaggedText. Raises DataError, with file and line, for an unknown tag."""
        names = tag_names(text, vocabulary.tags.scheme)
        numbers = {}
        for token, name in enumerate(names):
            if name not in numbers:
                try:
                    numbers[name] = vocabulary.tags.index(name)
                except DataError as error:
                    raise DataError(f"{text.where(token)}: {error}") from None
        tag = np.fromiter(map(numbers.__getitem__, names), np.int32, len(names))
        return cls(vocabulary, text.words, text.word, text.starts, tag, most_characters)

    @classmethod
    def of_sentences(cls, vocabulary: TaggedVocabulary, sentences: list[list[str]],
                     most_characters: int = 40) -> Encoded:
        """Return sentences given as lists of tokens, without tags."""
        index: dict[str, int] = {}
        spelling = np.array([index.setdefault(token, len(index)) for own in sentences for token in own],
                            np.int32)
        starts = np.cumsum([0, *map(len, sentences)])
        return cls(vocabulary, list(index), spelling, starts, None, most_characters)
