"""Registry: what config files name, by its name: layers, patterns, update rules, fillers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from minidrop.errors import ConfigError, in_short, nearest

Thing = TypeVar("Thing")


class Registry(Generic[Thing]):
    """Things of one kind by name.

    what: what one of them is called in messages, e.g. "layer type".
    attribute: the attribute of a registered object that gets its name; "": none does.
    """

    def __init__(self, what: str, attribute: str = ""):
        self.what, self.attribute = what, attribute
        self._known: dict[str, Thing] = {}

    def __contains__(self, name):
        return name in self._known

    def register(self, name: str) -> Callable:
        """Return a decorator that makes a thing known by `name`; ValueError where the name is taken."""
        def add(thing):
            if name in self._known:
                raise ValueError(f"{self.what} {name!r} is registered twice: "
                                 f"by {self._known[name]} and {thing}")
            if self.attribute:
                setattr(thing, self.attribute, name)
            self._known[name] = thing
            return thing
        return add

    def names(self) -> list[str]:
        """Return the registered names, sorted."""
        return sorted(self._known)

    def get(self, name: str, any_case: bool = False) -> Thing:
        """Return what is registered by `name`; ConfigError with the nearest names where nothing is.

        any_case: where no name is exactly this one, its lower and upper case do not matter.
        """
        if name not in self._known and any_case:
            name = next((known for known in self._known if known.lower() == name.lower()), name)
        if name not in self._known:
            raise self.unknown(name)
        return self._known[name]

    def unknown(self, name: str) -> ConfigError:
        """Return the ConfigError for a name that is not registered."""
        kinds = f"{self.what.split()[-1]}s"
        return ConfigError(f"unknown {self.what} {in_short(name)}{nearest(name, self._known)} "
                           f"(known {kinds}: {', '.join(self.names())})")

    @contextmanager
    def forgetting(self) -> Iterator:
        """Forget at the end of this context what was registered in it: for tests and for notebooks."""
        before = dict(self._known)
        try:
            yield self
        finally:
            self._known = before
