"""Make minidrop/autograd/methods.pyi from functions.operators: python scripts/generate_stubs.py

Operators and most methods of Tensor are given to it by functions.operators, from a higher floor, where
editors and type checkers do not see them. The stub declares them; tests/functions/test_operators.py tells a
stale one.
"""

import ast
import builtins
import inspect
import pathlib
import re

from minidrop.functions.operators import Operators

ROOT = pathlib.Path(__file__).resolve().parent.parent
STUB = ROOT / "minidrop/autograd/methods.pyi"
HEAD = '''# ruff: noqa: E501
"""What functions.operators gives Tensor, for editors and type checkers.

Made by scripts/generate_stubs.py, not by hand. It exists for them alone: there is no such module.
"""

import builtins
from collections.abc import Iterator, Sequence
from typing import Any

from minidrop.autograd.tensor import Tensor

Axes = builtins.int | Sequence[builtins.int] | None

class Methods:
'''
HIDDEN = {"__getattr__"}                # it would allow any name
SHADOWED = sorted(set(vars(Operators)) & set(dir(builtins)))
THEIRS = {"axis": "dim", "keepdims": "keepdim"}         # PyTorch's names, see takes_dim


def written(annotation):
    """Return an annotation as text, in which methods called int or float do not hide the types."""
    if annotation is inspect.Parameter.empty:
        return "Any"
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    return re.sub(rf"\b({'|'.join(SHADOWED)})\b", r"builtins.\1", text)


def parameters(function):
    """Yield the parameters of a method as text; those under PyTorch's names come last."""
    others, names = [], list(inspect.signature(function).parameters.values())[1:]
    star = False
    for one in names:
        if one.kind is one.VAR_POSITIONAL:
            yield f"*{one.name}: {written(one.annotation)}"
            star = True
            continue
        if one.kind is one.VAR_KEYWORD:
            others.append(f"**{one.name}: {written(one.annotation)}")
            continue
        if one.kind is one.KEYWORD_ONLY and not star:
            yield "*"
            star = True
        takes_dim = hasattr(function, "__wrapped__") and one.name in THEIRS
        default = f" = {one.default!r}" if one.default is not one.empty else " = ..." if takes_dim else ""
        yield f"{one.name}: {written(one.annotation)}{default}"
        if takes_dim:
            others.append(f"{THEIRS[one.name]}: {written(one.annotation)} = ...")
    if others and not star and not others[0].startswith("**"):
        yield "*"
    yield from others


def method(name, function):
    """Yield the lines of one method, with the first line of its docstring."""
    returns = written(inspect.signature(function).return_annotation)
    given = ", ".join(["self", *parameters(function)])
    doc = " ".join((function.__doc__ or "").partition("\n\n")[0].split())
    yield f"    def {name}({given}) -> {returns}:{'' if doc else ' ...'}"
    if doc:
        yield f'        """{doc}"""'


def stub():
    """Return the text of the stub."""
    lines = []
    for name, value in vars(Operators).items():
        if name in ("__module__", "__doc__", "__dict__", "__weakref__", "__hash__") or name in HIDDEN:
            continue
        if isinstance(value, property):
            lines.append("    @property")
            lines += method(name, value.fget)
        else:
            lines += method(name, value)
    text = HEAD + "\n".join(lines) + "\n"
    ast.parse(text)
    return text


if __name__ == "__main__":
    STUB.write_text(stub())
    print(f"{STUB.relative_to(ROOT)}: {len(vars(Operators))} names")
