"""What once went wrong without a word: each is refused, named, or right."""

import errno
import json
import math
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from cases import in_turn

import minidrop as md
from minidrop.autograd import Blocks
from minidrop.cli import run, run_folder
from minidrop.cli.console import STREAMS
from minidrop.config import parse_net, parse_solver
from minidrop.errors import ConfigError, DataError, NonFiniteError, SnapshotError
from minidrop.net import Net
from minidrop.solver import Solver, evaluation, load_weights

DATA = '''layer { name: "d" type: "HDF5Data" top: "data" top: "label"
          hdf5_data_param { source: "list.txt" batch_size: 4 } }\n'''
LOSS = 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }\n'


def ip(name="ip", bottom="data", more=""):
    return (f'layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{name}" {more} '
            f'inner_product_param {{ num_output: 3 weight_filler {{ type: "xavier" }} }} }}\n')


def solver_of(tmp_path, net, settings="", x=None, **options):
    x = np.random.default_rng(0).normal(size=(12, 4)).astype("f") if x is None else x
    with h5py.File(tmp_path / "new.h5", "w") as h5:
        h5["data"], h5["label"] = x, np.arange(len(x)) % 3
    (tmp_path / "new.h5").replace(tmp_path / "a.h5")        # which a solver before may still read
    (tmp_path / "list.txt").write_text("a.h5\n")
    (tmp_path / "net.prototxt").write_text(net)
    path = tmp_path / "solver.prototxt"
    path.write_text(f'net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 4 random_seed: 1 '
                    f'{settings}')
    return Solver(str(path), device="cpu", snapshot_prefix=tmp_path / "m", **options)


def test_clipping_to_zero_is_refused():
    text = 'net_param { } base_lr: 1 lr_policy: "fixed" max_iter: 1 clip_gradients: 0'
    with pytest.raises(ConfigError, match="clip_gradients: 0 makes every gradient 0"):
        Solver(parse_solver(text, "solver.prototxt"), device="cpu")


class TestGradients:
    # The distance of two equal vectors: the square root at 0 has an infinite gradient, that of the square is
    # 0.
    NET = DATA + ip("ia", more='param { name: "w" } param { name: "b" }') + ip(
        "ib", more='param { name: "w" } param { name: "b" }') + '''
        layer { name: "difference" type: "Eltwise" bottom: "ia" bottom: "ib" top: "difference"
          eltwise_param { coeff: 1 coeff: -1 } }
        layer { name: "square" type: "Power" bottom: "difference" top: "square" power_param { power: 2 } }
        layer { name: "root" type: "Power" bottom: "square" top: "root" power_param { power: 0.5 }
          loss_weight: 1 }
        layer { name: "quiet" type: "Silence" bottom: "label" }'''

    def test_one_that_is_not_finite_stops_before_the_update(self, tmp_path):
        solver = solver_of(tmp_path, self.NET)
        before = {name: p.data.copy() for name, p in solver.net.parameters().items()}
        with pytest.raises(NonFiniteError, match=r"^iteration 0: the loss is finite, but the gradient of "
                           r"ia/bias"):
            solver.step(1)
        assert all(np.array_equal(p.data, before[name]) for name, p in solver.net.parameters().items())

    @pytest.mark.parametrize("clip", ["", "clip_gradients: 1"])
    def test_huge_ones_are_finite(self, tmp_path, clip):
        """Their squares overflow in float32; clipped, they still train."""
        solver = solver_of(tmp_path, DATA + ip() + LOSS.replace(" }\n", " loss_weight: 1e25 }\n"),
                           clip + " momentum: 0")
        before = solver.net.params["ip"]["weight"].data.copy()
        solver.step(1)
        change = np.abs(solver.net.params["ip"]["weight"].data - before)
        assert np.isfinite(change).all() and change.max() > (0 if clip else 1e20)
        if clip:
            total = sum(np.square(p.data.astype(float) - q).sum() for p, q in (
                (solver.net.params["ip"]["weight"], before), (solver.net.params["ip"]["bias"], 0)))
            assert np.sqrt(total) == pytest.approx(0.1, rel=1e-5)        # base_lr times the norm of 1


    @pytest.mark.parametrize("clip", ["", "clip_gradients: 1", "log_gradient_norm: true"])
    def test_no_dense_gradient_is_written_of_blocks_that_overlap(self, tmp_path, monkeypatch, clip):
        drop = """layer { name: "drop" type: "ApproxDropout" bottom: "wide" top: "wide"
          approx_dropout_param { pattern: "BLOCK" block_samples: 2 block_units: 8 dropout_ratio: 0.7 } }\n"""
        wide = ip("wide").replace("num_output: 3", "num_output: 64")
        solver = solver_of(tmp_path, DATA + wide + drop + ip(bottom="wide") + LOSS, clip)
        overlap = []
        while not overlap:
            solver.iteration += 1
            solver.steps.forward_backward()
            overlap = [p for p in solver.net.parameters().values() if not p.has_separate_blocks()]
        found = [p.dense_grad() for p in solver.net.parameters().values()]
        expected = math.sqrt(sum(float((grad ** 2).sum()) for grad in found))
        monkeypatch.setattr(Blocks, "dense", lambda *given: pytest.fail("a dense gradient is written"))
        norm = solver.updater.norm()
        # Without clipping it only has to show whether the gradients are finite.
        assert norm == pytest.approx(expected, rel=1e-6) if clip else np.isfinite(norm)


def test_a_nan_in_the_data_is_named(tmp_path):
    x = np.ones((12, 4), "f")
    x[6, 2] = np.nan
    with pytest.raises(NonFiniteError, match=r"the data hold a NaN or infinity: .*a\.h5: record 6 "
                       r"") as caught:
        solver_of(tmp_path, DATA + ip() + LOSS, x=x).step(3)
    assert "base_lr" not in str(caught.value)


class TestNames:
    SHARED = 'param { name: "w" } param { name: "b" }'
    SIAMESE = DATA + ip("ia", more=SHARED) + ip("ib", more=SHARED) + '''
        layer { name: "loss" type: "EuclideanLoss" bottom: "ia" bottom: "ib" top: "loss" }
        layer { name: "quiet" type: "Silence" bottom: "label" }'''

    def test_shared_weights_are_found_under_either_name(self, tmp_path):
        solver = solver_of(tmp_path, self.SIAMESE)
        solver.snapshot(tmp_path / "a.snapshot.h5")
        for name in ("ia", "ib"):
            inputs = ('layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 1 dim: 4 } } '
                      '}\n')
            net = Net(parse_net(inputs + ip(name)), device="cpu", seed=9)
            copied, left = load_weights(net, tmp_path / "a.snapshot.h5")
            assert copied == [f"{name}/weight", f"{name}/bias"] and left == []
            np.testing.assert_array_equal(net.params[name]["weight"].data,
                                          solver.net.params["ia"]["weight"].data)

    @pytest.mark.parametrize("shared", ["{}", "[1]", "[[]]", '[["a", 2]]', "no JSON"])
    def test_damaged_names_are_refused(self, tmp_path, shared):
        from minidrop.snapshot import read_snapshot, write_snapshot
        solver = solver_of(tmp_path, self.SIAMESE)
        solver.snapshot(tmp_path / "a.snapshot.h5")
        snapshot = read_snapshot(tmp_path / "a.snapshot.h5")
        assert json.loads(snapshot.attrs["shared"]) == [["ia/weight", "ib/weight"], ["ia/bias", "ib/bias"]]
        snapshot.attrs["shared"] = shared
        write_snapshot(tmp_path / "b.h5", snapshot)
        if shared != "{}":                  # no names at all
            with pytest.raises(SnapshotError, match="expected shared to be lists of names"):
                load_weights(solver.net, tmp_path / "b.h5")

    def test_a_test_net_uses_trained_weights_in_any_order(self, tmp_path):
        probe = ip("probe", more='include { phase: TEST } param { name: "w" } param { name: "b" }')
        solver = solver_of(tmp_path, DATA + probe + ip(more=self.SHARED) + LOSS
                           + 'layer { name: "q" type: "Silence" bottom: "probe" include { phase: TEST } }',
                           "test_iter: 1 test_interval: 100")
        assert solver.test_nets[0].params["ip"]["weight"] is solver.net.params["ip"]["weight"]

    def test_what_nothing_trains_is_told(self, tmp_path, caplog):
        other = ip("other", more="include { phase: TEST }")
        solver_of(tmp_path, DATA + other + ip() + LOSS
                  + 'layer { name: "q" type: "Silence" bottom: "other" include { phase: TEST } }',
                  "test_iter: 1 test_interval: 100")
        assert ("layer 'other': the net that this one shares weights with has no weight of that "
                "layer" in caplog.text)


class TestInitialWeights:
    def test_they_lie_beside_the_solver(self, tmp_path, monkeypatch):
        trained = solver_of(tmp_path, DATA + ip() + LOSS)
        trained.step(2)
        trained.snapshot(tmp_path / "pre.h5")
        monkeypatch.chdir("/")
        again = solver_of(tmp_path, DATA + ip() + LOSS, 'weights: "pre.h5"')
        np.testing.assert_array_equal(again.net.params["ip"]["weight"].data,
                                      trained.net.params["ip"]["weight"].data)

    def test_several_may_stand_in_one_string(self, tmp_path):
        """As in Caffe; of two files with the same layer the later counts."""
        for name, iterations in (("one", 3), ("two", 1)):
            other = solver_of(tmp_path, DATA + ip() + LOSS)
            other.step(iterations)
            other.snapshot(tmp_path / f"{name}.h5")
        again = solver_of(tmp_path, DATA + ip() + LOSS, 'weights: "one.h5, two.h5"')
        np.testing.assert_array_equal(again.net.params["ip"]["weight"].data,
                                      other.net.params["ip"]["weight"].data)

    def test_the_name_of_a_file_may_have_commas(self, tmp_path, monkeypatch):
        """Of a solver's weights, of --weights, and from Python, alone and among others."""
        names, solvers = ("a,b.h5", "lr=0.1,drop=0.5.h5"), []
        for i, name in enumerate(names):
            solvers.append(solver_of(tmp_path, DATA + ip() + LOSS))
            solvers[-1].step(i + 1)
            solvers[-1].snapshot(tmp_path / name)
        weights = [solver.net.params["ip"]["weight"].data for solver in solvers]
        for text, last in (("a,b.h5", 0), ("lr=0.1,drop=0.5.h5, a,b.h5", 0),
                           ("a,b.h5,lr=0.1,drop=0.5.h5,", 1)):
            monkeypatch.chdir("/")
            again = solver_of(tmp_path, DATA + ip() + LOSS, f'weights: "{text}"')
            np.testing.assert_array_equal(again.net.params["ip"]["weight"].data, weights[last])
            monkeypatch.chdir(tmp_path)
            solver = solver_of(tmp_path, DATA + ip() + LOSS)
            solver.net.load_weights(text)
            np.testing.assert_array_equal(solver.net.params["ip"]["weight"].data, weights[last])
        for text in ("a,b.h5", "lr=0.1,drop=0.5.h5,a,b.h5"):
            assert run(["test", "--model", "net.prototxt", "--weights", text, "--iterations", "1"]) == 0
        with pytest.raises(SnapshotError, match="lr=0.1: there is no such file"):
            solver.net.load_weights("a,b.h5,lr=0.1,drop=0.6.h5")

    def test_a_solver_to_be_restored_needs_none(self, tmp_path):
        settings = 'weights: "gone.h5"'
        with pytest.raises(SnapshotError, match=r"solver\.prototxt:\d+:\d+: weights: gone\.h5: there is no "
                           rf"such file of weights or snapshot \(looked for {tmp_path}/gone\.h5"):
            solver_of(tmp_path, DATA + ip() + LOSS, settings)
        assert solver_of(tmp_path, DATA + ip() + LOSS, settings, initial_weights=False).iteration == 0


def test_large_outputs_are_left_out_of_tests(tmp_path):
    wide = DATA + ip() + LOSS + '''layer { name: "wide" type: "InnerProduct" bottom: "data" top: "wide"
        inner_product_param { num_output: 30 } include { phase: TEST } }'''
    solver = solver_of(tmp_path, wide, "test_iter: 1 test_interval: 9 snapshot_best: 'wide'")
    told = []
    solver.add_callback(told.append)
    result, = solver.test_all()             # has them all, and the best snapshot may go by their mean
    assert set(result) == {"loss", "wide"} and solver.best == pytest.approx(np.mean(result["wide"]))
    assert set(told[0].values) == {"loss"}


class TestShapes:
    @pytest.mark.parametrize("points, sizes", [("", {6: (3, 3), 4: (2, 2)}), ("slice_point: 2", {6: (2, 4)})])
    def test_slice_of_another_batch(self, points, sizes):
        net = Net(parse_net(f'''layer {{ name: "in" type: "Input" top: "x"
              input_param {{ shape {{ dim: 8 dim: 3 }} }} }}
            layer {{ name: "s" type: "Slice" bottom: "x" top: "a" top: "b"
              slice_param {{ axis: 0 {points} }} }}'''),
                  device="cpu")
        for batch, expected in sizes.items():
            out = net.forward(x=np.ones((batch, 3)))
            assert (out["a"].shape[0], out["b"].shape[0]) == expected
        with pytest.raises(md.ShapeError, match="equal parts|rise strictly"):
            net.forward(x=np.ones((5 if not points else 2, 3)))

    def test_euclidean_loss_of_a_column_and_a_row(self):
        net = Net(parse_net('''layer { name: "in" type: "Input" top: "a" top: "b"
              input_param { shape { dim: 4 dim: 1 } shape { dim: 4 } } }
            layer { name: "l" type: "EuclideanLoss" bottom: "a" bottom: "b" top: "l" }'''), device="cpu",
                  dtype="float64")
        a, b = np.random.default_rng(0).normal(size=(2, 4))
        assert float(net.forward(a=a[:, None], b=b)["l"]) == pytest.approx(np.square(a - b).sum() / 8,
                                                                           rel=1e-12)

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_indices_that_a_float_cannot_tell_apart(self, dtype):
        text = '''layer {{ name: "in" type: "Input" top: "i" input_param {{ shape {{ dim: 3 }} }} }}
            layer {{ name: "e" type: "Embed" bottom: "i" top: "e"
              embed_param {{ input_dim: {} num_output: 1 }} }}'''
        if dtype == "float32":
            with pytest.raises(ConfigError, match="input_dim is 16777217, but float32 tells indices apart "
                               "only"):
                Net(parse_net(text.format(2**24 + 1)), device="cpu")
        else:
            Net(parse_net(text.format(2**24 + 1)), device="cpu", dtype=dtype)


@in_turn("dtype, integer, other", [("float32", 2**24 + 1, 2**24), ("float32", -2**24 - 1, -2**24),
                                   ("float64", 2**53 + 1, 2**53), ("float32", 2**24 + 2, None)])
def test_an_integer_that_the_dtype_lacks_is_refused(tmp_path, monkeypatch, dtype, integer, other):
    """A token or label became the one before it."""
    monkeypatch.chdir(tmp_path)
    x = np.array([[1, integer], [2, 3]])
    float64 = x.astype(np.float64)
    text = 'layer {{ name: "d" type: "{}" top: "x" top: "label" {} }}'
    given = Net(parse_net(text.format("Input", "input_param { shape { dim: 2 dim: 2 } }")), device="cpu",
                dtype=dtype)
    memory = Net(parse_net(text.format("MemoryData", "memory_data_param { batch_size: 2 channels: 1 height: "
                                       "1 width: 2 }")), device="cpu", dtype=dtype)
    with h5py.File("x.h5", "w") as h5:
        h5["x"], h5["label"] = x.astype(dtype), x[:, 1]
    Path("x.txt").write_text("x.h5\n")
    read = Net(parse_net(text.format("HDF5Data", 'hdf5_data_param { source: "x.txt" batch_size: 2 }')),
               device="cpu", dtype=dtype)
    module = md.nn.Linear(2, 1).to(dtype=dtype)
    loader = md.data.DataLoader(md.data.ArrayDataset(np.ones((2, 2), "f"), x[:, 1]), 2)
    solver = Solver.of(module, lambda y, t: (y.flatten() - t).mean(), md.optim.SGD(module.parameters(),
                       lr=0.1), train=loader, max_iter=1)
    ways = [lambda: given.forward(x=x, label=float64), lambda: given.forward(x=float64, label=md.tensor(x)),
            lambda: given.forward(x=x.tolist(), label=float64), lambda: module(x), read.forward, solver.solve,
            lambda: memory.set_input_arrays(float64.reshape(2, 1, 1, 2), x[:, 1])]
    for way in ways:
        if other is None:
            way()
        else:
            with pytest.raises(DataError, match=f"the integer {integer}, which in {dtype} would be {other};"):
                way()
    given.forward(x=float64, label=float64)     # numbers with fractions are rounded
    given.forward(x=x.astype(dtype), label=float64)


class TestStopping:
    NET = DATA + ip() + LOSS
    SETTINGS = "test_iter: 50 test_interval: 2 test_initialization: false"

    def test_a_test_ends_between_two_batches(self, tmp_path):
        """Asked 6 times in two iterations and a test: nothing of the third iteration has begun."""
        solver, whole = (solver_of(tmp_path, self.NET, self.SETTINGS) for _ in range(2))
        asked = []
        assert solver.solve(lambda _: asked.append(1) or len(asked) > 5) == {}
        assert solver.iteration == 2 and len(asked) == 6
        assert solver.solve() == whole.solve()
        np.testing.assert_array_equal(solver.net.params["ip"]["weight"].data,
                                      whole.net.params["ip"]["weight"].data)

    def test_run_test_says_that_it_was_stopped(self, tmp_path):
        net = solver_of(tmp_path, self.NET, self.SETTINGS).test_nets[0]
        with pytest.raises(evaluation.TestStopped):
            evaluation.run_test(net, 3, should_stop=lambda: True)


def test_a_terminal_that_is_gone_ends_nothing(monkeypatch):
    class Gone:
        def write(self, text):
            raise OSError(errno.EIO, "Input/output error")

    class Closed(Gone):
        def write(self, text):
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(sys, "stdout", Gone())
    STREAMS[False].write("lost")
    monkeypatch.setattr(sys, "stdout", Closed())
    with pytest.raises(BrokenPipeError):
        STREAMS[False].write("a closed pipe ends the program")


def test_runs_of_one_second_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_folder.time, "strftime", lambda form: "20260101-000000")
    found = [run_folder.fresh_folder("run").name for _ in range(3)]
    assert found == ["run-20260101-000000", "run-20260101-000000-2", "run-20260101-000000-3"]


def test_a_locked_file_is_called_locked(tmp_path):
    solver = solver_of(tmp_path, DATA + ip() + LOSS)
    solver.close()
    with h5py.File(tmp_path / "a.h5", "a"), pytest.raises(ConfigError, match="a.h5: is locked by another "
                                                          "process"):
        code = f"import minidrop as md; md.Net.from_file({str(tmp_path / 'net.prototxt')!r}, device='cpu')"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        raise ConfigError(done.stderr.splitlines()[-1])
