"""LoadReport: what was copied from files of weights into a net, and what was not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class LoadReport:
    """What loading weights did; `str` of it is a table of every parameter.

    copied: names "layer/parameter" of the net, each parameter under its first owner.
    left_out: in a file, but not in the net: of a snapshot "layer/parameter", of Caffe's files layers.
    unchanged: in the net, but in no file.
    mismatched: (name, shape in the file, shape in the net); where a layer has another number of arrays, its
    name and the shapes of all of them.
    shapes: {name: shape} of what was copied or left out, as in the file.
    """

    paths: tuple[str, ...]
    total: int
    copied: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    mismatched: list[tuple[str, Any, Any]] = field(default_factory=list)
    shapes: dict[str, Any] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """One line: how many of the net's parameters were copied."""
        return f"{', '.join(self.paths)}: {len(self.copied)} of {self.total} parameters copied"

    @property
    def left(self) -> list[str]:
        """What was not copied, each with the reason."""
        return ([f"{name} (not in the file)" for name in self.unchanged]
                + [f"{name} (not in the net)" for name in self.left_out]
                + [f"{name} ({shown(there)} in the file, {shown(here)} in the net)"
                   for name, there, here in self.mismatched])

    def __str__(self):
        rows = [(name, "copied", shown(self.shapes.get(name, ""))) for name in self.copied]
        rows += [(name, "unchanged", "not in the file") for name in self.unchanged]
        rows += [(name, "mismatched", f"{shown(there)} in the file, {shown(here)} in the net")
                 for name, there, here in self.mismatched]
        rows += [(name, "left out", f"{shown(self.shapes.get(name, ''))} in the file")
                 for name in self.left_out]
        width = max((len(name) for name, _, _ in rows), default=0)
        return "\n".join([self.summary, *(f"  {name:<{width}}  {what:<10}  {shape}"
                                          for name, what, shape in rows)])


def shown(shape: Any) -> str:
    """Return the text of a shape, or of several."""
    if isinstance(shape, list):
        return f"the arrays {', '.join(map(shown, shape))}" if shape else "no arrays"
    return shape if isinstance(shape, str) else f"({', '.join(map(str, shape))}{',' * (len(shape) == 1)})"
