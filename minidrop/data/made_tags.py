"""A made text with tagged names, the same on every machine: a task for nets that comes without any file.

Names are made of syllables that differ between kinds, so that a net has to read characters: most names of
the test text do not occur in the training text. A firm is named after a person or a place: only its last word
tells. Some persons are named like places, and the other way round.
"""

from __future__ import annotations

from collections.abc import Iterator

from minidrop.rng import generator

MADE = {"made-names/train": 2000, "made-names/test": 400}      # {source: number of sentences}

_SYLLABLES = {"PER": ("ka", "ri", "mo", "len", "ta", "ju", "na", "sel", "do", "vi"),
              "LOC": ("ber", "gor", "lund", "stad", "ham", "wyn", "dal", "ford", "mar", "kirk")}
_ENDS = {"PER": ("o", "a", "i", "en"), "LOC": ("burg", "ton", "ville", "mouth")}
_MISNAMED = 0.15        # the share of such names: only the words around them tell
_FIRMS = ("Corp", "Group", "Bank", "Works")
_THINGS = ("ship", "song", "law", "prize", "bridge", "paper", "storm", "game")
_DEEDS = ("met", "left", "praised", "bought", "saw", "painted")
_TIMES = ("today", "in 1984", "on Monday", "at 7.30", "last week", "after 12 years")
# A word in capitals is a name of that kind; THING, DEED and TIME are plain words.
_SENTENCES = (
    "PER DEED the THING in LOC .", "Mr PER DEED ORG TIME .", "ORG said it DEED a THING .",
    "the THING of LOC DEED PER .", "TIME , PER and PER DEED LOC .", "shares of ORG fell TIME .",
    "they DEED the THING near LOC TIME .", "nobody DEED a THING .", "PER of ORG DEED PER , he said .",
    "the BANK of LOC DEED ORG .", "LOC , LOC and LOC DEED the THING TIME .", "a THING is no THING .")


def made_lines(source: str) -> Iterator[bytes]:
    """Yield the lines of a made text: a token and its tag in IOB2, and an empty line after each sentence."""
    rng = generator(0, "made names", source)

    def one(choices):
        return choices[int(rng.integers(len(choices)))]

    def name(kind):
        if rng.random() < _MISNAMED:
            kind = "PER" if kind == "LOC" else "LOC"
        parts = [one(_SYLLABLES[kind]) for _ in range(2 + int(rng.integers(2)))]
        return "".join([*parts, one(_ENDS[kind])]).capitalize()

    def tokens(word):
        """Return (tokens, kind of the chunk that they are, or "")."""
        if word == "PER":
            return [name("PER") for _ in range(1 + int(rng.integers(2)))], word
        if word == "LOC":
            return [*["New"] * (rng.random() < 0.2), name("LOC")], word
        if word == "ORG":
            return [name(one(("PER", "LOC"))), one(_FIRMS)], word
        plain = {"THING": _THINGS, "DEED": _DEEDS, "TIME": _TIMES, "BANK": ("bank", "people")}.get(word)
        return (one(plain).split() if plain else [word]), ""

    for _ in range(MADE[source]):
        for word in one(_SENTENCES).split():
            found, kind = tokens(word)
            for place, token in enumerate(found):
                tag = f"{'I' if place else 'B'}-{kind}" if kind else "O"
                yield f"{token} {tag}".encode()
        yield b""
