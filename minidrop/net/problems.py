"""Problems: the mistakes of a net, collected while it is built and reported together."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from minidrop.errors import MOST_MISTAKES, ConfigError

if TYPE_CHECKING:
    from minidrop.config.load import NetConfig


class Problems:
    """The mistakes of a net, each reported as "file:line:column: layer 'name' (Type): what".

    `lines`: mistakes found before, in none of the layers of `config`.
    """

    def __init__(self, config: NetConfig, lines: Iterable[str] = ()):
        self.config, self.lines = config, list(lines)
        self.found: list = []    # (index of the layer, what, place, whether its type is named)

    def add(self, index: int, what: str | Callable[[], str], *place: str | tuple[str, int] | int,
            with_type: bool = True) -> None:
        """Add a mistake of layer `index`; `what` may be a function, called only if the line is shown."""
        self.found.append((index, what, place, with_type))

    def explain(self, why: str) -> None:
        """Add to every mistake what it comes of.

        Nothing is added if one is of a layer without bottoms: the others may come of that.
        """
        def line(what):
            return lambda: f"{what() if callable(what) else what}; {why}"
        if all(self.config.message.layer[index].bottom for index, *_ in self.found):
            self.found = [(index, line(what), *rest) for index, what, *rest in self.found]

    def raise_any(self) -> None:
        """Raise one ConfigError with the lines in the order of the layers; see `ConfigError.of`."""
        if self.lines or self.found:
            self.found.sort(key=lambda one: one[0])
            shown = self.found[:MOST_MISTAKES]
            raise ConfigError.of([*self.lines, *(self._line(*one) for one in shown)],
                                 len(self.found) - len(shown))

    def _line(self, index, what, place, with_type):
        layer = self.config.message.layer[index]
        kind = f" ({layer.type})" if with_type else ""
        return (f"{self.config.where(index, *place)}: layer {layer.name!r}{kind}: "
                f"{what() if callable(what) else what}")
