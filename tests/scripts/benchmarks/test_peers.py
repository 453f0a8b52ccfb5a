"""peers.py: what a peer computes is what minidrop's net computes, and the command says what it measured."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from programs import run_here

import minidrop as md
from minidrop.net.torch_modules import form_of

RATE, STEPS = 0.35, 3                   # of 30 units 19 or 20 live: two kinds of steps at each drop
TYPES = {"ip": "InnerProduct", "sc": "InnerProduct", "em": "Embed", "ls": "LSTM"}
EXACT, SINGLE = {"rtol": 1e-8, "atol": 1e-13}, {"rtol": 1e-3, "atol": 1e-6}


@pytest.fixture
def mlp(scripts):
    return scripts.bench_models.Perceptron((45, 37), 6)


@pytest.fixture
def lm(scripts):
    return replace(scripts.bench_models.MODELS["quick_lm"], units=35, vocabulary=15, streams=4)


@pytest.fixture
def torch(monkeypatch):
    """PyTorch on one thread; its compiler, which takes long, gives back what it is given."""
    torch = pytest.importorskip("torch", reason="PyTorch (the extra `peers`) is the other side here")
    monkeypatch.setattr(torch, "compile", lambda loss, **_: loss)
    monkeypatch.setattr("minidrop.kernels.threads.COUNT", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield torch
    torch.set_num_threads(before)


def own_net(model, method):
    """minidrop's net, in float64."""
    return md.Net(model.net(method, RATE), "TRAIN", "cpu", dtype="float64", seed=0)


def own_gradients(net, batch, iteration):
    """{parameter: its dense gradient} of an iteration; the states of an LSTM begin as zeros."""
    net.draw_patterns(iteration)
    for parameter in net.parameters().values():
        parameter.clear_grad()
    net.reset_states()
    net.forward(**batch)
    net.backward()
    return {name: parameter.dense_grad() for name, parameter in net.parameters().items()}


def one_of_each_kind(net):
    """Iterations with every number of units that live at each drop."""
    return list({tuple(site.draw(i).kept.count for site in net.drop_sites.values()): i
                 for i in range(40)}.values())


def torch_parameters(peer, net, arrays):
    """[(PyTorch's parameter, its part of `arrays`, which have minidrop's names: weights or gradients)]."""
    modules = ({f"ip{i}": one for i, one in enumerate((one for one in peer.module.net
                                                       if hasattr(one, "weight")), 1)}
               if hasattr(peer.module, "net") else
               {"embed": peer.module.embed, "lstm1": peer.module.lstm, "lstm2": peer.module.lstm,
                "scores": peer.module.scores})
    pairs = []
    for name, module in modules.items():
        layer = net.layers[name]
        own = {key: arrays[f"{name}/{key}"] for key in layer.params}
        for key, array in form_of(TYPES[name[:2]]).write(layer, own).items():
            pairs.append((getattr(module, key.replace("_l0", "_l1") if name == "lstm2" else key), array))
    return pairs


def check_torch(torch, peer, net, iterations, dropping=True):
    """Loss and all gradients agree, in float64."""
    peer.module.double()
    if hasattr(peer, "units"):
        peer.units.dtype = np.float64
        peer.units.known.clear()
    weights = {name: parameter.numpy() for name, parameter in net.parameters().items()}
    pairs = torch_parameters(peer, net, weights)
    assert len({id(parameter) for parameter, _ in pairs}) == len(peer.parameters)
    with torch.no_grad():
        for parameter, array in pairs:
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(array)))
    batch = {name: array.double() if array.is_floating_point() else array
             for name, array in peer.batches[1].items()}
    state = [torch.zeros_like(part).double() for part in getattr(peer, "state", ())]
    for iteration in iterations:
        gradients = own_gradients(net, {name: array.numpy() for name, array in batch.items()}, iteration)
        peer.optimizer.zero_grad()
        peer.state, peer.count = tuple(state), iteration
        loss = peer.forward(*batch.values(), *peer.draw())
        loss.backward()
        assert net.loss == pytest.approx(loss.item(), rel=1e-12)
        for parameter, wanted in torch_parameters(peer, net, gradients):
            name = next(name for name, own in peer.module.named_parameters() if own is parameter)
            if "bias_hh" not in name:       # the second of PyTorch's biases, which minidrop has not
                np.testing.assert_allclose(parameter.grad.numpy(), wanted, **EXACT, err_msg=name)
    if dropping:
        first = next(iter(net.parameters().values()))
        assert np.count_nonzero(first.dense_grad()) < 0.9 * first.data.size


# -- the same as minidrop ------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", ["torch handmade", "torch handmade compile"])
def test_handmade_perceptrons_are_minidrops_net(scripts, torch, mlp, method):
    net, peer = own_net(mlp, mlp.one_group), scripts.peers.peer_steps(method, mlp, RATE)
    assert len(net.plan.drops) == 2 and all(drop.producers and drop.consumers for drop in net.plan.drops)
    iterations = one_of_each_kind(net)
    assert len(iterations) >= 4 and peer.note == ""
    check_torch(torch, peer, net, iterations)


def test_handmade_language_models_are_minidrops_net(scripts, torch, lm):
    net, peer = own_net(lm, lm.one_group), scripts.peers.peer_steps("torch handmade", lm, RATE)
    assert len(net.plan.drops) == 3 and all(drop.consumers for drop in net.plan.drops)
    check_torch(torch, peer, net, one_of_each_kind(net)[:3], dropping=False)


@pytest.mark.parametrize("method", ["torch", "torch fused", "torch compile"])
def test_peers_with_ordinary_dropout_are_minidrops_net_but_for_the_masks(scripts, torch, mlp, lm, method):
    for model in (mlp, lm):
        net, peer = own_net(model, "Dropout"), scripts.peers.peer_steps(method, model, RATE)
        drops = [one for one in peer.module.modules() if isinstance(one, torch.nn.Dropout)]
        assert [one.p for one in drops] == [RATE] * 2 if model is mlp else peer.module.lstm.dropout == RATE
        assert bool(peer.optimizer.defaults["fused"]) == (method != "torch")
        net.set_dropping(False)
        peer.module.eval()
        if model is lm:
            assert peer.drop.p == RATE
            peer.drop.eval()
        check_torch(torch, peer, net, [0], dropping=False)


def test_a_handmade_step_updates_weights_and_momentum_as_the_solver(scripts, torch, mlp):
    own = scripts.bench_steps.MinidropSteps(mlp, mlp.one_group, RATE)
    peer = scripts.peers.peer_steps("torch handmade", mlp, RATE)
    weights = {name: parameter.numpy() for name, parameter in own.net.parameters().items()}
    with torch.no_grad():
        for parameter, array in torch_parameters(peer, own.net, weights):
            parameter.copy_(torch.from_numpy(array))
    assert [peer.step() for _ in range(STEPS)] == [own.step() for _ in range(STEPS)]
    assert peer.weights() == own.weights() and len(peer.weights()) == 4
    history = {name: arrays[0] for name, arrays in own.solver.updater.history.items()}
    for parameter, wanted in torch_parameters(peer, own.net, history):
        momentum = peer.optimizer.state[parameter]["momentum_buffer"].numpy() * 1e-4        # base_lr
        np.testing.assert_allclose(momentum, wanted, rtol=1e-3, atol=1e-6 * np.abs(wanted).max())


@pytest.mark.parametrize("method", ["jax", "jax handmade"])
def test_jax_is_minidrops_net(scripts, mlp, method):
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    handmade = method == "jax handmade"
    own = scripts.bench_steps.MinidropSteps(mlp, mlp.one_group if handmade else "Dropout", RATE)
    peer = scripts.peers.peer_steps(method, mlp, RATE)
    assert [W.shape for W, _ in peer.parameters] == [(45, 784), (37, 45), (10, 37)]
    peer.parameters = [tuple(jax.numpy.array(own.net.params[f"ip{i}"][name].numpy())
                             for name in ("weight", "bias")) for i in (1, 2, 3)]
    if not handmade:
        data = peer.batches[0][0]
        same, again, other = (peer.dense(peer.parameters, count, data) for count in (0, 0, 1))
        assert (same == again).all() and (same != other).all()
        lives = np.asarray(jax.random.bernoulli(jax.random.key(0), 1 - peer.rate, (1000,)))
        assert lives.mean() == pytest.approx(1 - RATE, abs=0.06)
        own.net.set_dropping(False)
        peer.rate = 0.0
    assert [peer.step() for _ in range(STEPS)] == [own.step() for _ in range(STEPS)]
    for i, history in enumerate(peer.history, 1):
        for name, mine in zip(("weight", "bias"), history, strict=True):
            wanted = own.solver.updater.history[f"ip{i}/{name}"][0]
            np.testing.assert_allclose(mine, wanted, rtol=2e-3, atol=1e-5 * np.abs(wanted).max())
    W, wanted = peer.parameters[1][0], own.net.params["ip2"]["weight"].numpy()
    np.testing.assert_allclose(W, wanted, **SINGLE)
    assert peer.weights() == own.weights()


def test_compilers_see_one_size_for_each_choice(scripts, mlp):
    units = scripts.peers.DrawnUnits(mlp, RATE, lambda array: array, padded=True)
    sizes, lived = {}, set()
    for i in range(200):
        for site, drawn, kept in zip(units.sites, units.at(i), (site.draw(i).kept for site in units.sites),
                                     strict=True):
            indices, factor = drawn
            assert (np.diff(indices) > 0).all() and (indices[factor > 0] == kept.indices).all()
            sizes.setdefault((site.layer_name, site.sequence.choice_at(i)), set()).add(len(indices))
            lived.add(kept.count)
    assert len(sizes) == 4 and all(len(found) == 1 for found in sizes.values()) and len(lived) > 8


# -- what is said --------------------------------------------------------------------------------------------
def test_a_compiler_that_fails_is_named_and_eager_steps_run(scripts, torch, mlp, monkeypatch):
    def compile_none(loss, **_):
        def fail(*given):
            raise RuntimeError("no C++ compiler here\nand more")
        return fail
    monkeypatch.setattr(torch, "compile", compile_none)
    for method in ("torch compile", "torch handmade compile"):
        peer = scripts.peers.peer_steps(method, mlp, RATE)
        assert peer.note == "eager: torch.compile fails with RuntimeError: no C++ compiler here"
        assert peer.step() in peer.weights()


def test_a_missing_package_is_named_before_anything_is_measured(scripts, tmp_path, monkeypatch):
    monkeypatch.setattr(scripts.peers, "find_spec", lambda name: None)
    for peer, line in {"jax": "--peer jax needs JAX: pip install jax",
                       "handmade": "--peer handmade needs PyTorch: pip install 'minidrop[peers]'"}.items():
        done = run_here(scripts.folder / "bench_mlp.py", "--peer", peer, folder=tmp_path)
        assert (done.returncode, done.stderr.strip(), done.stdout) == (1, line, "")


def test_the_table_has_a_ratio_to_each_peer(scripts, capsys, monkeypatch):
    bench, asked = scripts.bench_cpu, []

    def measure(name, rate, methods, *_, **__):
        asked.extend(methods)
        return {method: {"ms": 1.0 + i} | ({"note": "eager: why"} if method == "torch compile" else {})
                for i, method in enumerate(methods)}
    monkeypatch.setattr(bench, "measure", measure)
    monkeypatch.setattr(scripts.peers, "missing", lambda peer: "")
    options = SimpleNamespace(peer=["torch", "handmade", "compile"], blocks=1, block_seconds=1, json=None)
    bench.run(None, options, "network", [("40x30", 0.5, ["PERIODIC"])])
    assert asked == ["torch", "torch fused", "torch handmade", "torch compile", "torch handmade compile",
                     "Dropout", "PERIODIC", "PERIODIC:groups=1"]       # the last: the same as handmade
    _, head, *rows, note = capsys.readouterr().out.splitlines()
    place = head.index("/torch handmade ") + len("/torch handmade")
    assert len(rows) == 8 and rows[-1][:place].split()[-1] == "0.38x"       # 3 ms : 8 ms
    assert note == "    torch compile: eager: why"


# -- the floor of a step -------------------------------------------------------------------------------------
def test_bytes_of_a_step_counted_by_hand(scripts):
    matrix, moved = scripts.step_floor.Matrix, scripts.step_floor.bytes_moved
    # 6 x 4 and its bias: nothing dropped, so nothing gathered.
    assert moved([matrix(6, 4, ((6, 4),))]) == {"gathers": 0, "gradients": 120, "weights": 240,
                                                "momentum": 240}
    # Two groups of samples, 3 rows and 2 columns each: 6 weights and 3 biases each are read and written.
    assert moved([matrix(6, 4, ((3, 2), (3, 2)))]) == {"gathers": 2 * 2 * 4 * 9, "gradients": 2 * 4 * 9,
                                                       "weights": 240, "momentum": 240}
    # All rows, half of the columns, in float64: no bias is gathered, its gradient is whole.
    assert moved([matrix(6, 4, ((6, 2),))], 8) == {"gathers": 192, "gradients": 8 * 18, "weights": 480,
                                                   "momentum": 480}


def test_bytes_of_a_perceptron_are_those_of_its_draws(scripts):
    model, floor = scripts.bench_models.Perceptron((60, 30), 6), scripts.step_floor
    half = floor.mean_bytes(model, "PERIODIC:groups=1", 0.5)        # 15 of every 30 units, always
    assert half["gathers"] == 2 * 4 * ((30 * 784 + 30) + (15 * 30 + 15) + 10 * 15)
    assert half["gradients"] == 4 * ((30 * 784 + 30) + (15 * 30 + 15) + (10 * 15 + 10))
    assert floor.mean_bytes(model, "PERIODIC", 0.5)["gathers"] == 2 * half["gathers"]       # two groups
    dense = floor.mean_bytes(model, "Dropout", 0.5)
    weights = 4 * (60 * 785 + 30 * 61 + 10 * 31)
    assert dense == {"gathers": 0, "gradients": weights, "weights": 2 * weights, "momentum": 2 * weights}
    assert floor.CopySteps(model).bytes == 2 * weights
    assert floor.mean_bytes(model, "TILE", 0.5) is None


def test_a_floor_is_products_and_bytes_at_the_bandwidth_of_a_copy(scripts, workers_here, capsys):
    copy = scripts.step_floor.CopySteps(scripts.bench_models.Perceptron((60, 30), 6))
    copy.source[...] = np.arange(len(copy.source))
    assert copy.step() in copy.weights() and (copy.target == copy.source).all()
    results = {"torch": {"ms": 9.0}, "PERIODIC": {"ms": 5.0, "gemm_ms": 2.0}, "ROW": {"ms": 6.0}}
    moved = {"gathers": 10**6, "gradients": 10**6, "weights": 10**6, "momentum": 10**6}
    scripts.step_floor.add_floor(results, {"PERIODIC": moved, "ROW": moved}, 4e9)
    assert results["PERIODIC"]["floor_ms"] == 3.0 and results["PERIODIC"]["of_floor"] == 5 / 3
    assert "floor_ms" not in results["ROW"] and results["torch"] == {"ms": 9.0}
    scripts.step_floor.print_floor(results)
    out = capsys.readouterr().out
    assert "momentum           1.0      0.25\n" in out and "1.67x the floor" in out
    assert "ROW: no floor" in out and "torch" not in out
    measured = scripts.bench_cpu.measure("60x30", 0.5, ["Dropout", "PERIODIC"], 1, 0.01, floor=True)
    assert set(measured) == {"Dropout", "PERIODIC"}
    assert all(one["ms"] > 0 and one["floor_ms"] > one["gemm_ms"] > 0 for one in measured.values())
