"""Schemes of tags: how a tag says where a chunk, such as a name, begins and ends.

    IOB1    I- inside; B- only where a chunk follows another of its kind
    IOB2    B- at the first token of every chunk, I- inside
    IOBES   as IOB2, with E- at the last token, and S- for a chunk of one token

O is outside of all. Reading needs no name of the scheme: a chunk begins at B or S, after O, E or S, and where
the kind changes, which is right for each of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from minidrop.errors import DataError, nearest

SCHEMES = ("IOBES", "IOB2", "NONE")     # of nets; NONE: tags without chunks, such as parts of speech
POSITIONS = {"IOBES": "BIES", "IOB2": "BI"}
_READ = {"B": "B", "I": "I", "E": "E", "S": "S", "L": "E", "U": "S"}    # BILOU is IOBES by other letters
OUTSIDE = ("O", "")


def split_tag(tag: str) -> tuple[str, str]:
    """Return ("B", "PER") of "B-PER", ("O", "") of "O". Raises ValueError with what is wrong."""
    if tag == "O":
        return OUTSIDE
    letter, dash, kind = tag.partition("-")
    if not dash or not kind or letter not in _READ:
        raise ValueError(f"expected O, or B-, I-, E- or S- before a kind, as in B-PER, got {tag[:40]!r}")
    return _READ[letter], kind


def chunks(tags: Sequence[tuple[str, str]]) -> list[tuple[str, int, int]]:
    """Return (kind, first, last) of each chunk of a sentence, whose tags are given as `split_tag` does."""
    found: list[tuple[str, int, int]] = []
    before, kind_before = OUTSIDE
    for place, (letter, kind) in enumerate(tags):
        if letter != "O":
            if letter in "BS" or before in "OES" or kind != kind_before:
                found.append((kind, place, place))
            else:
                found[-1] = (kind, found[-1][1], place)
        before, kind_before = letter, kind
    return found


def fault(tags: Sequence[tuple[str, str]]) -> tuple[int, str] | None:
    """Return (place, what is wrong) of the first tag that breaks the rules of IOBES, or None."""
    open_kind = None            # of the chunk that has to go on
    for place, (letter, kind) in enumerate([*tags, OUTSIDE]):
        own = "O" if letter == "O" else f"{letter}-{kind}"
        if open_kind is not None and (letter not in "IE" or kind != open_kind):
            what = "the sentence ends" if place == len(tags) else f"{own} stands there"
            return min(place, len(tags) - 1), f"expected I-{open_kind} or E-{open_kind} to go on, but {what}"
        if open_kind is None and letter in ("I", "E"):
            return place, f"expected B-{kind} or S-{kind} to begin a chunk, got {own}"
        open_kind = kind if letter in ("B", "I") else None
    return None


def in_scheme(found: Iterable[tuple[str, int, int]], length: int, scheme: str) -> list[str]:
    """Return the tags of a sentence of `length` tokens with these chunks, in the scheme IOBES or IOB2."""
    tags = ["O"] * length
    for kind, first, last in found:
        tags[first:last + 1] = [f"B-{kind}"] + [f"I-{kind}"] * (last - first)
        if scheme == "IOBES":
            tags[last] = f"{'S' if first == last else 'E'}-{kind}"
    return tags


class TagSet:
    """The tags of a net, numbered from 0: `names`.

    In a scheme of chunks O is 0 and kind k has the numbers from 1 + k * P on, one for each of the P letters
    of the scheme (B I E S, or B I), whether or not the text has all of them: so a number says what it stands
    for. In the scheme NONE the tags are numbered as `kinds` gives them.
    """

    def __init__(self, kinds: Sequence[str], scheme: str):
        self.kinds, self.scheme = tuple(kinds), scheme
        letters = POSITIONS.get(scheme)
        self.names = self.kinds if letters is None else ("O", *(f"{letter}-{kind}" for kind in self.kinds
                                                                for letter in letters))
        self._index = {name: index for index, name in enumerate(self.names)}

    def __len__(self):
        return len(self.names)

    def index(self, name: str) -> int:
        """Return the number of a tag. Raises DataError, with the nearest known ones, for another."""
        if name not in self._index:
            raise DataError(f"expected a tag of the training text, got "
                            f"{name[:40]!r}{nearest(name, self.names)}; correct it, or train on a text "
                            f"that has it")
        return self._index[name]

    def as_written(self, indices: Iterable[int]) -> list[str]:
        """Return the tags of a sentence, given their numbers, as they are written: in IOB2."""
        names = [self.names[index] for index in indices]
        if self.scheme == "NONE":
            return names
        return in_scheme(chunks([split_tag(name) for name in names]), len(names), "IOB2")
