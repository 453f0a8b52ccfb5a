"""What a user sees of minidrop in an editor: names, types, and docstrings that say shapes and errors."""

import ast
import importlib.util
import inspect
import math
import pydoc
import re
import subprocess
import sys
import textwrap
from functools import cached_property, lru_cache
from pathlib import Path

import pytest

import minidrop as md
from minidrop.errors import MinidropError

SPACES = {"md": md, "md.nn": md.nn, "md.optim": md.optim, "md.optim.schedulers": md.optim.schedulers,
          "md.data": md.data, "md.functions": md.functions}
GENERATED = (md.NetParameter, md.SolverParameter)       # by protobuf; the config reference describes them
TYPED_USER = Path(__file__).parent / "typed_user.py"

# What says that a docstring speaks of arrays: a shape such as (N, classes, ...), or a word for what one is.
ARRAYS = re.compile(r"\(\w[\w ]*,[^()]*\)|\b(shapes?|arrays?|tensors?|ax[ei]s|entr(y|ies)|masks?|scores|"
                    r"inputs|records?|batch(es)?|samples?|sequences?|images?|int32)\b|\{\w+: ", re.I)
IS_ARRAY = re.compile(r"ndarray|\bTensor\b|\bRecord\b")


def function_of(attribute):
    """The plain function behind a method, a property or a function; None for anything else."""
    if isinstance(attribute, property):
        attribute = attribute.fget
    elif isinstance(attribute, classmethod | staticmethod):
        attribute = attribute.__func__
    elif isinstance(attribute, cached_property):
        attribute = attribute.func
    return inspect.unwrap(attribute) if inspect.isfunction(attribute) else None


@lru_cache
def surface():
    """[(name, object, function or None, the class that it is a method of, or None)], each object once."""
    found, seen = [], set()

    def see(name, attribute, function, owner=None):
        if id(function or attribute) not in seen:
            seen.add(id(function or attribute))
            found.append((name, attribute, function, owner))
    for space, module in SPACES.items():
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value):
                see(f"{space}.{name}", value, None)
                for owner in value.__mro__:
                    if not owner.__module__.startswith("minidrop") or issubclass(owner, GENERATED):
                        continue
                    for key, attribute in vars(owner).items():
                        function = function_of(attribute)
                        if function is not None and (key == "__init__" or not key.startswith("_")):
                            see(f"{space}.{name}.{key}", attribute, function, owner)
            elif callable(value):
                see(f"{space}.{name}", value, function_of(value))
    return found


def docstring(attribute, function, owner):
    """What help() shows of it: of a method its own text or that of the one it overrides, of __init__ that of
    its class; of `forward` of a module, which is called as the module is, those of its classes too."""
    if owner is not None and function.__name__ in ("__init__", "forward"):
        own = [vars(cls).get("__doc__") or "" for cls in owner.__mro__ if cls is not object]
        return "\n".join([inspect.getdoc(attribute) or "", *own])
    text = inspect.getdoc(attribute) or ""
    seen_at = re.search(r"see `(\w+)`", text)           # a function and the class behind it
    if seen_at and hasattr(sys.modules[function.__module__], seen_at.group(1)):
        text += inspect.getdoc(getattr(sys.modules[function.__module__], seen_at.group(1))) or ""
    return text


def test_the_surface_is_found():
    names = [name for name, *_ in surface()]
    assert len(names) > 500
    assert {"md.nn.Linear", "md.Net.forward", "md.data.DataLoader.state_dict", "md.functions.softmax",
            "md.optim.ParamGroup.lr", "md.optim.schedulers.cosine"} <= set(names)


def test_every_name_has_a_docstring():
    silent = []
    for name, attribute, function, _ in surface():
        if inspect.isclass(attribute):
            if not vars(attribute).get("__doc__") and attribute not in GENERATED:
                silent.append(name)
        elif function.__name__ != "__init__" and not inspect.getdoc(attribute):
            silent.append(name)
    assert not silent


def test_every_parameter_and_result_has_a_type():
    untyped = []
    for name, _, function, _ in surface():
        if function is None:
            continue
        signature = inspect.signature(function)
        untyped += [f"{name}: {one.name}" for place, one in enumerate(signature.parameters.values())
                    if one.annotation is one.empty and not (place == 0 and one.name in ("self", "cls"))]
        if signature.return_annotation is signature.empty and function.__name__ != "__init__":
            untyped.append(f"{name}: its result")
    assert not untyped


def is_own_error(function, name):
    kind = getattr(sys.modules[function.__module__], name, None)
    return inspect.isclass(kind) and issubclass(kind, MinidropError)


def test_docstrings_name_the_errors_that_are_raised():
    silent = []
    for name, attribute, function, owner in surface():
        # The __init__ of a dataclass has no source, and raises nothing.
        if function is None or function.__code__.co_filename == "<string>":
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))
        raised = {node.exc.func.id for node in ast.walk(tree) if isinstance(node, ast.Raise)
                  and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name)}
        raised = {one for one in raised if one == "ValueError" or is_own_error(function, one)}
        said = docstring(attribute, function, owner)
        silent += [f"{name}: {one}" for one in sorted(raised) if one not in said]
    assert not silent


def test_docstrings_speak_of_the_arrays_that_are_taken_or_returned():
    silent = []
    for name, attribute, function, owner in surface():
        if function is None:
            continue
        signature = inspect.signature(function)
        parameters = list(signature.parameters.values())
        arrays = [one.name for one in parameters if IS_ARRAY.search(str(one.annotation))]
        if not arrays and not IS_ARRAY.search(str(signature.return_annotation)):
            continue
        # Names of formulas, such as x and b, are said as well as words for arrays are.
        text = docstring(attribute, function, owner)
        if not ARRAYS.search(text) and not any(re.search(rf"\b{one}\b", text) for one in (*arrays, "x")):
            silent.append(name)
    assert not silent


@pytest.mark.parametrize("space", [space for space in SPACES if space != "md.optim.schedulers"])
def test_an_editor_offers_public_names_alone(space):
    module = SPACES[space]
    assert dir(module) == sorted(module.__all__) and len(set(module.__all__)) == len(module.__all__)
    assert all(hasattr(module, name) for name in module.__all__)


def test_functions_that_modules_define_are_in_all():
    """Nothing public of the ready modules was forgotten."""
    defined = {name for part in ("containers", "losses", "products", "sequences", "simple")
               for name, value in vars(sys.modules[f"minidrop.nn.{part}"]).items()
               if not name.startswith("_") and callable(value) and value.__module__ == f"minidrop.nn.{part}"}
    assert defined <= set(md.nn.__all__)
    schedulers = md.optim.schedulers
    assert {name for name, value in vars(schedulers).items() if not name.startswith("_")
            and getattr(value, "__module__", "") == schedulers.__name__} == set(schedulers.__all__)


def test_help_of_a_module_begins_with_how_to_make_it():
    lines = pydoc.render_doc(md.nn.Linear, renderer=pydoc.plaintext).split("\n")
    head = " ".join(" ".join(lines[2:20]).replace("|", "").split()).replace("( ", "(")   # one line or many
    assert "Linear(in_features: 'int', out_features: 'int', bias: 'bool' = True, *" in head
    assert "W (out_features, in_features)" in head


def test_signatures_have_both_names_of_axes():
    """`dim` and `keepdim` are parameters that help, editors and checkers see; they show what they are."""
    found = {name: inspect.signature(function).parameters for name, _, function, _ in surface()
             if function is not None}
    reductions = {name: own for name, own in found.items() if "keepdims" in own and "dim" in own}
    assert {"sum", "argmax"} <= {name.split(".")[-1] for name in reductions} and len(reductions) == 12
    assert not [name for name, own in reductions.items() if not {"dim", "keepdim"} <= set(own)]
    head = pydoc.render_doc(md.functions.softmax, renderer=pydoc.plaintext).split("\n")[2]
    assert head == "softmax(x: 'Any', axis: 'int' = 1, *, dim: 'int' = axis) -> 'Tensor'"


# -- types, for whoever runs mypy ----------------------------------------------------------------------------
def test_the_typed_script_runs():
    spec = importlib.util.spec_from_file_location("typed_user", TYPED_USER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert math.isfinite(module.right())


@pytest.mark.full       # mypy reads all of minidrop, which takes a minute without its cache
def test_mypy_accepts_right_uses_and_finds_wrong_ones(tmp_path):
    pytest.importorskip("mypy")
    checked = subprocess.run([sys.executable, "-m", "mypy", "--no-error-summary", "--ignore-missing-imports",
                              "--check-untyped-defs", "--follow-imports=silent", "--config-file=",
                              f"--cache-dir={tmp_path}", str(TYPED_USER)], capture_output=True, text=True)
    found = {int(line.split(":")[1]) for line in checked.stdout.splitlines() if ": error:" in line}
    lines = TYPED_USER.read_text().splitlines()
    assert found == {number for number, line in enumerate(lines, 1) if "# wrong:" in line}, checked.stdout
