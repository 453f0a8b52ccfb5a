"""Tree: how modules hold each other: as attributes, by name, and where each one stands."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from minidrop.autograd import Parameter
from minidrop.errors import ConfigError, kind_of, nearest
from minidrop.nn.symbol import TraceError
from minidrop.nn.torch_names import METHODS
from minidrop.nn.trace import current_trace

if TYPE_CHECKING:
    from minidrop.nn.module import Module

Own = TypeVar("Own", bound="Tree")
_INTERNAL = ("_children", "_parents", "_name", "iteration")


class Tree:
    """The part of Module that concerns the modules it holds, and those that hold it."""

    reserved: frozenset[str] = frozenset()      # what every module has, and no attribute may hide
    _children: dict[str, Any]
    _parents: list[tuple[Any, str]]
    _name: str | None

    def __new__(cls, *args: Any, **kwargs: Any):
        self = super().__new__(cls)
        vars(self).update(_children={}, _parents=[], _name=None)
        return self

    def forget_nets(self) -> None:
        """Forget what was built from this module as it was; `Module` has nets."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _INTERNAL:
            object.__setattr__(self, name, value)
            return
        self._check_name(name)
        self._refuse_in_trace(name)
        self._refuse_hidden(name, value)
        if isinstance(value, Tree):
            vars(self).pop(name, None)
            self.add_module(name, value)
        else:
            self._forget(name)
            object.__setattr__(self, name, value)
            self._changed()

    def __getattr__(self, name: str) -> Any:
        children = vars(self).get("_children", {})
        if name in children:
            return children[name]
        known = [one for one in (*children, *vars(self)) if not one.startswith("_")]
        instead = f"; use {METHODS[name]}" if name in METHODS else nearest(name, known)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}{instead}")

    def __delattr__(self, name: str) -> None:
        self._refuse_in_trace(name)
        if not self._forget(name):
            object.__delattr__(self, name)
        self._changed()

    def add_module(self, name: str, module: Any) -> None:
        """Hold a module under a name, as setting an attribute does; in the place of the one of this name.

        Raises ConfigError for a name that cannot be one, and for what is no module.
        """
        if not isinstance(module, Tree):
            raise ConfigError(f"{self.describe()}: {name!r} should be a Module, got {type(module).__name__}")
        if not name or "." in name or "/" in name:
            raise ConfigError(f"{self.describe()}: a module's name is not empty and has no '.' or '/', got "
                              f"{name!r}")
        self._check_name(name)
        if module is self or any(one is self for one in module.modules()):
            raise ConfigError(f"{self.describe()} cannot hold itself, as {name!r}")
        self._leave(name)
        self._children[name] = module       # where its name stands
        module._parents.append((self, name))
        self._changed()

    def _check_name(self, name):
        """Raise ConfigError for an attribute that would hide what every module has."""
        if name in self.reserved:
            raise ConfigError(f"{self.describe()}: {name!r} is a method or property of every Module; give "
                              f"the attribute another name")

    def _refuse_hidden(self, name, value):
        """Raise ConfigError for an attribute that has parameters which parameters() would not find."""
        parts = value.values() if isinstance(value, dict) else value
        held = list(parts) if isinstance(value, list | tuple | set | dict) else []
        if any(isinstance(one, Tree) for one in held):
            raise ConfigError(f"{self.describe()}: {name} is a {type(value).__name__} of modules, whose "
                              f"parameters would not be found; use nn.ModuleList, nn.ModuleDict or "
                              f"nn.Sequential")
        hidden = [one for one in [value, *held] if isinstance(one, Parameter)]
        known = [id(one) for module in self.modules() if hidden and module.is_filled
                 for one in module.own_parameters().values()]
        if any(id(one) not in known for one in hidden):
            what = "holds a Parameter" if held else "is a Parameter"
            raise ConfigError(f"{self.describe()}: {name} {what}, which parameters() would not find; hold "
                              f"self.{name} = nn.Weight(*shape), whose array is self.{name}.weight.data, or "
                              f"another layer's with tie")

    def _refuse_in_trace(self, name):
        """Raise TraceError for an attribute that a traced forward sets, as later calls would not."""
        trace = current_trace()
        if trace is not None and trace.has_part(self):
            raise TraceError(f"{self.describe()}: a traced forward sets the attribute {name!r}, which would "
                             f"happen once and not in every call; return what it computes, or set traced = "
                             f"False")

    def _forget(self, name):
        """Hold no module under a name any more; returns whether one was."""
        self._leave(name)
        return self._children.pop(name, None) is not None

    def _leave(self, name):
        """Let the module of a name, if there is one, forget that it is held here."""
        child = self._children.get(name)
        if child is not None:
            child._parents[:] = [one for one in child._parents if one[0] is not self or one[1] != name]

    def _changed(self):
        """Forget the nets that this module is a part of."""
        self.forget_nets()
        for parent, _ in self._parents:
            parent._changed()

    def children(self) -> Iterator[Module]:
        """Yield the modules that this one holds directly, each once."""
        yield from {id(one): one for one in self._children.values()}.values()

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Yield (name, module) of the modules that this one holds directly."""
        yield from self._children.items()

    def named_modules(self: Any, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """Yield (path, module) of this module, "", and all below it, each once, parents first."""
        seen: set[int] = set()
        waiting = [(prefix, self)]
        while waiting:
            path, module = waiting.pop()
            if id(module) not in seen:
                seen.add(id(module))
                yield path, module
                waiting += [(f"{path}.{name}" if path else name, one)
                            for name, one in reversed(module._children.items())]

    def modules(self) -> Iterator[Module]:
        """Yield this module and all below it, each once."""
        return (module for _, module in self.named_modules())

    def apply(self: Own, function: Callable[[Any], Any]) -> Own:
        """Call function(module) for this module and all below it; returns the module."""
        for module in self.modules():
            function(module)
        return self

    @property
    def layer_path(self) -> str:
        """Where it stands, from the outermost module that holds it: "encoder.fc1", "" for that one itself."""
        if not self._parents:
            return ""
        parent, name = self._parents[0]
        return f"{parent.layer_path}.{name}" if parent.layer_path else name

    def describe(self) -> str:
        """Return what it is called in messages."""
        path = self._name or self.layer_path
        return f"{type(self).__name__} {path!r}" if path else type(self).__name__

    def __repr__(self):
        lines = [f"({name}): {module!r}" for name, module in self._children.items()]
        if not lines:
            return f"{type(self).__name__}()"
        return "\n".join([f"{type(self).__name__}(", *("  " + line.replace("\n", "\n  ") for line in lines),
                          ")"])


def checked_modules(modules: Iterable[Any], where: str) -> list[Module]:
    """Return modules as a list; raises ConfigError for what is none."""
    if not isinstance(modules, Iterable) or hasattr(modules, "dtype"):
        raise ConfigError(f"{where}: expected modules, got {kind_of(modules)}")
    found = list(modules)
    for one in found:
        if not isinstance(one, Tree):
            is_function = callable(one) and not isinstance(one, type)
            raise ConfigError(f"{where}: expected modules, got {kind_of(one)}"
                              + "; use nn.Lambda for a function" * is_function)
    return found
