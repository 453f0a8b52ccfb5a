"""Rooms stay small, public names say their types, and nobody writes another floor's attributes."""

import ast
from collections import defaultdict
from functools import cache
from pathlib import Path

from cases import in_turn

from minidrop.config import minidrop_pb2

PACKAGE = Path(__file__).resolve().parents[1] / "minidrop"
SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "minidrop_pb2.py")
MOST_LINES = 350
MOST_LOOSE_MODULES = 6


@cache
def tree(path):
    return ast.parse(path.read_text())


def room(path):
    """The room of a module: the folder below the package, or the loose module itself."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def name_of(path):
    return str(path.relative_to(PACKAGE))


def test_no_module_is_long():
    lines = {name_of(path): len(path.read_text().splitlines()) for path in SOURCES}
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}


def test_few_modules_are_loose():
    loose = [path.name for path in PACKAGE.glob("*.py") if path.name not in ("__init__.py", "__main__.py")]
    assert len(loose) <= MOST_LOOSE_MODULES, loose


# -- attributes ----------------------------------------------------------------------------------------------
def written(tree):
    """Return the attributes that something below a node writes."""
    return [one for one in ast.walk(tree)
            if isinstance(one, ast.Attribute) and isinstance(one.ctx, ast.Store)]


def is_own(one):
    return isinstance(one.value, ast.Name) and one.value.id in ("self", "cls")


def own_attributes(tree):
    """Return the names that the classes of a module set on themselves."""
    names, outside, classes = set(), [tree], []
    for node in outside:        # it grows; classes inside of classes are looked at with those
        for child in ast.iter_child_nodes(node):
            (classes if isinstance(child, ast.ClassDef) else outside).append(child)
    for part in (part for node in classes for part in ast.walk(node)):
        if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store) and is_own(part):
            names.add(part.attr)
        elif isinstance(part, ast.FunctionDef):
            names.add(part.name)
        elif isinstance(part, ast.ClassDef):
            for target in (target for line in part.body if isinstance(line, ast.Assign | ast.AnnAssign)
                           for target in getattr(line, "targets", None) or [line.target]):
                names |= {one.id for one in ast.walk(target) if isinstance(one, ast.Name)}
    return names


MESSAGE_FIELDS = {field.name for message in minidrop_pb2.DESCRIPTOR.message_types_by_name.values()
                  for field in message.fields}


def foreign_writes(trees):
    """Yield (module, line, attribute) of `other.attribute = ...` where only classes of other rooms have it.

    Fields of configuration messages, which are nobody's, do not count, nor do operators, as __add__.
    """
    owners = defaultdict(set)
    for path, tree in trees.items():
        for name in own_attributes(tree):
            owners[name].add(room(path))
    for path, tree in trees.items():
        for one in written(tree):
            ours = is_own(one) or one.attr in MESSAGE_FIELDS or one.attr.startswith("__")
            if not ours and owners[one.attr] and room(path) not in owners[one.attr]:
                yield name_of(path), one.lineno, one.attr


def test_nobody_writes_the_attributes_of_another_floor():
    assert sorted(foreign_writes({path: tree(path) for path in SOURCES})) == []


def test_the_check_sees_a_foreign_write():
    reader, owner = "def f(layer):\n    layer.plan = 1\n    layer.state.x += 2", "class A:\n    plan = x = 0"
    trees = {PACKAGE / "net" / "run.py": ast.parse(reader), PACKAGE / "layers" / "base.py": ast.parse(owner)}
    assert list(foreign_writes(trees)) == [("net/run.py", 2, "plan"), ("net/run.py", 3, "x")]


# -- types ---------------------------------------------------------------------------------------------------
def untyped(body, public=True):
    """Yield (line, name) of public functions and methods without a type for each parameter and the result."""
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield from untyped(node.body, public and not node.name.startswith("_"))
        elif isinstance(node, ast.FunctionDef) and public:
            if node.name.startswith("_") and node.name != "__init__":
                continue
            given = node.args
            arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
            arguments = [one for one in arguments if one is not None and one.arg not in ("self", "cls")]
            if (any(one.annotation is None for one in arguments)
                    or node.returns is None and node.name != "__init__"):
                yield node.lineno, node.name


@in_turn("path", SOURCES)
def test_public_functions_say_their_types(path):
    assert list(untyped(tree(path).body)) == []
