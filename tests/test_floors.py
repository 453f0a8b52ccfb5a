"""A module imports only lower floors; cupy stays in its two rooms; importing minidrop is light."""

import ast
import json
import subprocess
import sys
from functools import cache
from pathlib import Path

from cases import in_turn

PACKAGE = Path(__file__).resolve().parents[1] / "minidrop"

# Floor by floor; inside a floor those that stand first may be imported by those after them, and by nobody
# before.
FLOORS = (
    ("errors", "files", "kept", "registry", "rng"),
    ("config", "patterns", "kernels"),
    ("backend",),
    ("autograd",),
    ("functions",),
    ("data", "fillers", "layers"),
    ("snapshot", "net"),
    ("nn", "solver", "optim", "testing"),
    ("apps",),
    ("caffe",),
    ("cli",),
    ("__main__",),
)
SHARED_BY_LAYERS = tuple(f"layers{name}" for name in (        # no layer types themselves
    "", ".axes", ".base", ".continuing", ".data_layer", ".drop_settings", ".flow", ".given",
    ".hidden_dropout", ".loss_settings", ".numbers", ".python_blob", ".recurrent", ".row_norm", ".sliding"))
PLACE = {name: (floor, i) for floor, names in enumerate(FLOORS) for i, name in enumerate(names)}
SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def dotted(path):
    """The dotted name of a module inside the package, e.g. "layers.relu"; of a package, its own name."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def is_module(name):
    path = PACKAGE.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or path.is_dir()


@cache
def parsed(text):
    return ast.parse(text)


def imports(own, text, is_package=False):
    """Yield (absolute module name, line) of every import in the text of module `own`, those inside functions
    too."""
    package = ["minidrop", *own.split(".")]
    package = package if is_package else package[:-1]
    for node in ast.walk(parsed(text)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[:len(package) - node.level + 1] if node.level else []
            base = ".".join(base + ([node.module] if node.module else []))
            for alias in node.names:
                inside = f"{base}.{alias.name}"
                is_ours = inside.startswith("minidrop.") and is_module(inside.removeprefix("minidrop."))
                yield inside if is_ours else base, node.lineno


def mistakes(own, text, is_package=False):
    """Yield what a module imports that it must not."""
    room = own.split(".")[0]
    if room not in PLACE:
        yield f"{own}: stands on no floor; add it to FLOORS"
        return
    for name, line in imports(own, text, is_package):
        if name.split(".")[0] == "cupy" and room not in ("kernels", "backend"):
            yield f"{own}:{line}: imports cupy"
        if name == "minidrop" and room != "cli":
            yield f"{own}:{line}: imports the whole package"
        if not name.startswith("minidrop."):
            continue
        target = name.removeprefix("minidrop.")
        other = target.split(".")[0]
        if other not in PLACE:
            yield f"{own}:{line}: imports {target}, which stands on no floor"
        elif other != room and PLACE[other] >= PLACE[room]:
            yield f"{own}:{line}: imports {target}, which stands above it"
        elif room == other == "layers" and own != "layers" and target not in (*SHARED_BY_LAYERS, own):
            yield f"{own}:{line}: a layer imports another, {target}"


@in_turn("path", SOURCES)
def test_imports_go_down(path):
    assert list(mistakes(dotted(path), path.read_text(encoding="utf-8"), path.name == "__init__.py")) == []


@in_turn("own, text, expected", [
    ("functions.new", "from minidrop.layers import Layer", "functions.new:1: imports layers, which stands "
     "above it"),
    ("functions.new", "def f():\n    from minidrop.net import Net", "functions.new:2: imports net, which "
     "stands above it"),
    ("functions.new", "from minidrop import net", "functions.new:1: imports net, which stands above it"),
    ("functions.new", "from .. import net", "functions.new:1: imports net, which stands above it"),
    ("functions.new", "from ..net import Net", "functions.new:1: imports net, which stands above it"),
    ("functions.new", "import minidrop", "functions.new:1: imports the whole package"),
    ("functions.new", "from minidrop import Net", "functions.new:1: imports the whole package"),
    ("functions.new", "import minidrop.attic", "functions.new:1: imports attic, which stands on no floor"),
    ("layers.new", "from .relu import ReLU", "layers.new:1: a layer imports another, layers.relu"),
    ("layers.new", "import minidrop.layers.relu", "layers.new:1: a layer imports another, layers.relu"),
    ("functions.new", "import cupy.cuda", "functions.new:1: imports cupy"),
    ("solver.new", "from cupy import cuda", "solver.new:1: imports cupy"),
    ("config.new", "from minidrop.kernels import cpu", "config.new:1: imports kernels.cpu, which stands "
     "above it"),
    ("fillers", "from minidrop.layers import base", "fillers:1: imports layers.base, which stands above it"),
    ("attic", "", "attic: stands on no floor; add it to FLOORS"),
])
def test_the_check_sees_what_it_should(own, text, expected):
    assert list(mistakes(own, text)) == [expected]


def test_the_check_allows_what_it_should():
    assert list(mistakes("layers.new", "import numpy\nfrom minidrop import data, functions\nfrom .base "
                         "import Layer")) == []
    assert list(mistakes("backend.new", "import cupy\nfrom minidrop.kernels import cpu")) == []
    assert list(mistakes("solver", "from .loop import Solver", is_package=True)) == []


@in_turn("path", [*SOURCES, PACKAGE / "__init__.py"])
def test_nothing_that_runs_data_as_code(path):
    tree = parsed(path.read_text(encoding="utf-8"))
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call)
              and isinstance(node.func, ast.Name)}
    assert not called & {"eval", "exec", "compile", "__import__"}
    loaded = {name.split(".")[0] for name, _ in imports(dotted(path), path.read_text(encoding="utf-8"))}
    assert not loaded & {"pickle", "dill", "marshal", "shelve", "cloudpickle", "joblib"}


def test_importing_minidrop_is_light():
    code = "import json, sys; import minidrop; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          cwd=PACKAGE.parent)
    modules = json.loads(done.stdout)
    assert "minidrop.net" in modules
    heavy = {"cupy", "numba", "h5py", "torch", "sklearn", "click", "tqdm", "socket", "ssl", "http.client",
             "urllib.request"}
    assert heavy & set(modules) == set()
