"""Fixtures: dtypes, backends, small nets, comparisons with other implementations, and where real data is."""

import gc
import importlib.util
import os
import signal
import sys
from pathlib import Path

if os.environ.get("PYTEST_XDIST_WORKER"):       # one process a core: more threads would only wait for each
                                                # other
    for _threads in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(_threads, "1")    # read once, when NumPy or PyTorch is loaded

# A process for each HDF5 file of each test would take minutes; tests of that process take the variable away.
os.environ.setdefault("MINIDROP_TRUST_DATA", "1")

import comparisons
import numpy as np
import pytest

comparisons.install()

# A shell that starts the tests in the background lets them, and all that they start, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Numba keeps its kernels in __pycache__ in any case. Without bytecode there too each worker would rewrite the
# assertions of all tests, and each process that a test starts compile all of minidrop: a tenth of a run.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

ROOT = Path(__file__).resolve().parents[1]


def pytest_configure(config):
    """The first of all processes fills a fresh checkout with compiled loops, before the others start."""
    if not hasattr(config, "workerinput"):
        loops, builds = (helper_module("kernels", name) for name in ("loops", "builds"))
        kept, place = loops.archive(builds.folder()), loops.SOURCES / "__pycache__"
        if loops.restore(kept, place):
            config.add_cleanup(lambda: loops.keep(kept, place))


def pytest_make_parametrize_id(val):
    """A gzip file holds the second in which it was made, and all workers must know a test by the same
    name."""
    return "gzip" if isinstance(val, bytes) and val.startswith(b"\x1f\x8b") else None


@pytest.hookimpl(trylast=True)          # after -m and -k have chosen
def pytest_collection_modifyitems(config, items):
    """Without a GPU one case of each test that needs one is left, to say that it was skipped, and why."""
    needing = [item for item in items if item.get_closest_marker("gpu")]
    if not needing:
        return
    from minidrop.backend import cuda_devices
    count, reason = cuda_devices()
    if count:
        return
    first_of = {}
    for item in needing:
        first_of.setdefault(item.nodeid.partition("[")[0], item)
    for item in first_of.values():
        item.add_marker(pytest.mark.skip(reason=reason))
    left_out = {id(item) for item in needing} - {id(item) for item in first_of.values()}
    config.hook.pytest_deselected(items=[item for item in items if id(item) in left_out])
    items[:] = [item for item in items if id(item) not in left_out]


def pytest_collection_finish():
    """Thousands of tests, and all modules, are there to stay: no garbage collection has to look at them. What
    tests leave in cycles can wait: looked for as often as usual it is a tenth of the time of small nets."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    return request.param


@pytest.fixture(params=["cpu", pytest.param("cuda:0", marks=pytest.mark.gpu)])
def backend(request, backend_of_name):
    """A backend; the GPU one is skipped, saying why, where it cannot be used."""
    return backend_of_name(request.param)


@pytest.fixture
def backend_of_name():
    """backend_of_name(name) -> the backend; skips, saying why, where there is no such device."""
    from minidrop.backend import cuda_devices, get_backend

    def find(name):
        if name != "cpu":
            count, reason = cuda_devices()
            if not count:
                pytest.skip(reason)
        return get_backend(name)
    return find


@pytest.fixture(scope="session")
def builds():
    """The module tests/kernels/builds.py: keeps what compilers make."""
    return helper_module("kernels", "builds")


@pytest.fixture(scope="session")
def loops():
    """The module tests/kernels/loops.py: keeps what Numba makes."""
    return helper_module("kernels", "loops")


@pytest.fixture(scope="session")
def emulation(builds):
    """The module tests/kernels/emulation.py; skipped, saying why, where no compiler can make it work."""
    module = helper_module("kernels", "emulation")
    module.built = builds.built
    if module.MISSING:
        pytest.skip(module.MISSING)
    return module


def helper_module(folder, name):
    """Return a module of a folder of tests, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tests" / folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def emulated(emulation):
    """A backend whose methods run the CUDA kernels on the host."""
    return emulation.EmulatedBackend()


@pytest.fixture
def rng():
    return np.random.default_rng(20)


@pytest.fixture
def close(dtype):
    """close(got, expected): equal to rounding in `dtype`."""
    relative = {"float64": 1e-10, "float32": 2e-5}[dtype]

    def check(got, expected, what=""):
        expected = np.asarray(expected, np.float64)
        size = np.abs(expected).max(initial=1.0)
        np.testing.assert_allclose(got, expected, rtol=relative, atol=relative * size, err_msg=what)
    return check


@pytest.fixture
def forward_backward(backend, dtype):
    """forward_backward(function, *arrays) -> (outputs, gradients), logical NumPy arrays.

    Float arrays become Tensors of the fixtures' dtype that require gradients, integer arrays ones that do
    not. The gradient of output number i is what `output_gradient(shape, i)` says.
    """
    from minidrop.autograd import Tensor, backward

    def run(function, *arrays):
        tensors = []
        for array in arrays:
            array = np.asarray(array)
            real = array.dtype.kind == "f"
            array = backend.asarray(array.astype(dtype) if real else array)
            tensors.append(Tensor(array, requires_grad=real, backend=backend))
        outputs = function(*tensors)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        assert all(y.dtype == dtype for y in outputs)
        seeds = []
        for i, y in enumerate(outputs):
            gy = backend.asarray(output_gradient(y.shape, i).astype(dtype))
            seeds.append((y, backend.take(gy, y.kept, y.kept_axis)))
        backward(seeds)
        gradients = [None if x.grad is None else backend.to_host(x.grad) for x in tensors]
        assert all(g is None or g.dtype == dtype for g in gradients)
        return [y.numpy() for y in outputs], gradients
    return run


def output_gradient(shape, number):
    return np.random.default_rng([7, number]).uniform(0.5, 1.5, shape)


@pytest.fixture
def agrees_with_torch(forward_backward, close):
    """agrees_with_torch(function, torch_function, *arrays): values and all gradients are equal, to
    rounding."""
    torch = pytest.importorskip("torch", reason="PyTorch (the extra `peers`) is the reference here")

    def check(function, torch_function, *arrays):
        outputs, gradients = forward_backward(function, *arrays)
        tensors = [torch.tensor(np.asarray(a), requires_grad=np.asarray(a).dtype.kind == "f") for a in arrays]
        expected = torch_function(*tensors)
        expected = expected if isinstance(expected, tuple) else (expected,)
        assert len(outputs) == len(expected)
        for i, (got, want) in enumerate(zip(outputs, expected, strict=True)):
            assert got.shape == tuple(want.shape)
            close(got, want.detach().numpy(), f"output {i}")
        torch.autograd.backward(expected, [torch.tensor(output_gradient(tuple(y.shape), i))
                                           for i, y in enumerate(expected)])
        for i, (got, x) in enumerate(zip(gradients, tensors, strict=True)):
            if x.requires_grad:
                close(got, x.grad.numpy(), f"gradient of input {i}")
    return check


@pytest.fixture
def make_net(backend, dtype):
    """make_net(text, **options) -> Net of a network text on the fixtures' backend, in their dtype."""
    from minidrop import Net
    from minidrop.config import parse_net

    nets = []

    def build(text, **options):
        nets.append(Net(parse_net(text, "net.prototxt"),
                        **{"device": backend.name, "dtype": dtype, **options}))
        return nets[-1]
    yield build
    for net in nets:
        net.close()


@pytest.fixture
def layer_function(make_net):
    """layer_function(layer text, *arrays, **options) -> the layer as a function of Tensors, through a Net.

    The layer reads blobs a, b, ..., shaped like the arrays. Its tops are the outputs; of their shapes the
    layer's `setup` must have been right.
    """
    def build(layer, *arrays, **options):
        names = "abcdef"[:len(arrays)]
        inputs = [f'layer {{ name: "in_{name}" type: "Input" top: "{name}" input_param {{ shape {{ '
                  f'{" ".join(f"dim: {length}" for length in np.shape(array))} }} }} }}'
                  for name, array in zip(names, arrays, strict=True)]
        net = make_net("\n".join([*inputs, layer]), **options)
        node = net.graph.nodes[-1]

        def function(*tensors):
            net.forward(**dict(zip(names, tensors, strict=True)))
            tops = tuple(net.blobs[top] for top in node.config.top)
            assert [y.shape for y in tops] == [net.graph.shapes[ref] for ref in node.tops]
            return tops
        return function
    return build


@pytest.fixture
def data_folder():
    """The folder of real data sets named by MINIDROP_DATA."""
    folder = os.environ.get("MINIDROP_DATA")
    if not folder:
        pytest.skip("MINIDROP_DATA is not set: no real data here")
    return Path(folder)


@pytest.fixture
def adamw():
    """OwnAdamW, registered as an update rule of a user's own, for any solver."""
    from minidrop.config import SolverParameter
    from minidrop.solver.rules import get_rule, register_rule
    from minidrop.solver.rules.base import _RULES
    with _RULES.forgetting():
        register_rule("OwnAdamW")(helper_module("solver", "own_rule").OwnAdamW)
        yield get_rule(SolverParameter(type="OwnAdamW", momentum=0.9, momentum2=0.999, delta=1e-8))
