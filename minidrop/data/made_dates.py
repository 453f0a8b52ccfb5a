"""Made pairs of sentences: dates in words, and the same as digits. They need no file."""

from __future__ import annotations

import calendar
from collections.abc import Iterator

from minidrop.errors import DataError, nearest
from minidrop.rng import generator

FOLDER = "made-dates/"
COUNTS = {"train": 20000, "test": 1000}
MONTHS = ("january", "february", "march", "april", "may", "june", "july", "august", "september", "october",
          "november", "december")
ORDINALS = ("first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth "
            "fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth").split()
NAMES = tuple(f"{FOLDER}{part}.{kind}" for part in COUNTS for kind in ("words", "digits"))
"""What may stand for a file: "made-dates/train.words" and the like."""


def made_lines(name: str) -> Iterator[str]:
    """Yield the lines of one of NAMES, always the same ones; raises DataError for another name.

    For example "on the twenty-first of march , 1 9 8 5" is "1 9 8 5 - 0 3 - 2 1". No date of the test is in
    the training.
    """
    if name not in NAMES:
        raise DataError(f"{name}: there are no such made sentences{nearest(name, NAMES)} (there are "
                        f"{', '.join(NAMES)})")
    part, kind = name.removeprefix(FOLDER).split(".")
    numbers = generator(0, "made dates", part)
    for _ in range(COUNTS[part]):
        while True:
            year, month = int(numbers.integers(1900, 2100)), int(numbers.integers(1, 13))
            day = int(numbers.integers(1, calendar.monthrange(year, month)[1] + 1))
            if ((year * 13 + month * 7 + day) % 20 == 0) == (part == "test"):
                break
        form = int(numbers.integers(4))
        yield _in_words(year, month, day, form) if kind == "words" else _digits(year, month, day)


def _digits(year, month, day):
    return " - ".join(" ".join(part) for part in (str(year), f"{month:02}", f"{day:02}"))


def _in_words(year, month, day, form):
    name, year = MONTHS[month - 1], " ".join(str(year))
    number = " ".join(str(day))
    return (f"on the {_ordinal(day)} of {name} , {year}", f"{name} {number} , {year}",
            f"{number} . {name[:3]} . {year}", f"the {_ordinal(day)} day of {name} in {year}")[form]


def _ordinal(day):
    tens, ones = divmod(day, 10)
    if day <= 20:
        return ORDINALS[day - 1]
    return ("twenty-" + ORDINALS[ones - 1] if tens == 2 else
            ("thirtieth", "thirty-first")[ones])
