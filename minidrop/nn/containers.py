"""Modules that hold modules: in a row, in a list, by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from minidrop.errors import ConfigError
from minidrop.nn.module import Module
from minidrop.nn.tree import checked_modules


class Sequential(Module):
    """Modules in a row: each reads what the one before returns.

    They are called "0", "1", ...; keywords give other names: nn.Sequential(fc1=nn.Linear(784, 2048),
    relu1=nn.ReLU()). A slice is a Sequential of the same modules.
    """

    def __init__(self, *modules: Module, **named: Module):
        for i, module in enumerate(checked_modules(modules, "Sequential")):
            self.add_module(str(i), module)
        for name, module in named.items():
            self.add_module(name, module)

    def forward(self, x: Any) -> Any:
        for module in self._children.values():
            x = module(x)
        return x

    def append(self, module: Module) -> Sequential:
        """Add a module at the end; returns this one."""
        self.add_module(_next(self), module)
        return self

    def __len__(self):
        return len(self._children)

    def __iter__(self) -> Iterator[Module]:
        return iter(list(self._children.values()))

    def __getitem__(self, place: int | slice) -> Any:
        found = _at(self, place)
        return Sequential(**found) if isinstance(found, dict) else found

    def __setitem__(self, place: int, module: Module) -> None:
        self.add_module(_name_at(self, place), module)


class ModuleList(Module):
    """A list of modules, called "0", "1", ...; a module's forward says what is done with them."""

    def __init__(self, modules: Iterable[Module] = ()):
        for module in checked_modules(modules, "ModuleList"):
            self.append(module)

    def append(self, module: Module) -> ModuleList:
        """Add a module at the end; returns this one."""
        self.add_module(_next(self), module)
        return self

    def extend(self, modules: Iterable[Module]) -> ModuleList:
        """Add modules at the end; returns this one."""
        for module in checked_modules(modules, "ModuleList"):
            self.append(module)
        return self

    def forward(self, *inputs: Any) -> Any:
        """Raise ConfigError: a list does not say how its modules are connected."""
        raise ConfigError(f"{self.describe()} is a list: call its modules, or use nn.Sequential")

    def __len__(self):
        return len(self._children)

    def __iter__(self) -> Iterator[Module]:
        return iter(list(self._children.values()))

    def __getitem__(self, place: int | slice) -> Any:
        found = _at(self, place)
        return ModuleList(found.values()) if isinstance(found, dict) else found

    def __setitem__(self, place: int, module: Module) -> None:
        self.add_module(_name_at(self, place), module)


class ModuleDict(Module):
    """Modules by name; a module's forward says what is done with them."""

    def __init__(self, modules: Mapping[str, Module] | None = None, **named: Module):
        for name, module in {**(modules or {}), **named}.items():
            self.add_module(name, module)

    def forward(self, *inputs: Any) -> Any:
        """Raise ConfigError: a dict does not say how its modules are connected."""
        raise ConfigError(f"{self.describe()} is a dict: call its modules")

    def keys(self) -> list[str]:
        """Return the names."""
        return list(self._children)

    def values(self) -> list[Module]:
        """Return the modules."""
        return list(self._children.values())

    def items(self) -> list[tuple[str, Module]]:
        """Return (name, module) of each."""
        return list(self._children.items())

    def __len__(self):
        return len(self._children)

    def __contains__(self, name):
        return name in self._children

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._children))

    def __getitem__(self, name: str) -> Module:
        if name not in self._children:
            raise KeyError(name)
        return self._children[name]

    def __setitem__(self, name: str, module: Module) -> None:
        self.add_module(name, module)


def _next(module):
    """Return the name of the next module of a list."""
    number = len(module._children)
    while str(number) in module._children:
        number += 1
    return str(number)


def _at(module, place):
    """Return the child at a place, or {name: child} of a slice."""
    items = list(module._children.items())
    if isinstance(place, slice):
        # Names as keywords must stay the same, or the slice's layers would have others than the whole.
        return dict(items[place])
    return items[place][1]


def _name_at(module, place):
    """Return the name of the child at a place. Raises ConfigError for a slice, and IndexError."""
    if isinstance(place, slice):
        raise ConfigError(f"{module.describe()}: set one place after the other, not a slice")
    return list(module._children)[place]
