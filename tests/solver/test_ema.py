"""EMA: averages of weights, applied and taken back, their states, and what is refused."""

import numpy as np
import pytest

from minidrop.autograd import Parameter
from minidrop.errors import ConfigError, SnapshotError
from minidrop.solver.ema import EMA


def parameters(backend, dtype="float64", seed=0):
    rng = np.random.default_rng(seed)
    return {name: Parameter(backend.asarray(rng.standard_normal(shape).astype(dtype)), backend)
            for name, shape in (("ip/weight", (3, 4)), ("ip/bias", (3,)))}


def train(params, rng):
    for parameter in params.values():
        change = rng.standard_normal(parameter.shape).astype(parameter.dtype)
        parameter.data[...] += parameter.backend.asarray(change)


def host(params):
    return {name: p.numpy().copy() for name, p in params.items()}


def test_averages_are_those_of_torch(rng):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    from minidrop.backend import get_backend
    params = parameters(get_backend("cpu"))
    module = torch.nn.ParameterDict({name.replace("/", "_"): torch.nn.Parameter(torch.tensor(value))
                                     for name, value in host(params).items()})
    theirs = torch.optim.swa_utils.AveragedModel(
        module, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    theirs.update_parameters(module)        # its first update copies
    ema = EMA(params, 0.9)
    for _ in range(20):
        train(params, rng)
        with torch.no_grad():
            for name, value in host(params).items():
                module[name.replace("/", "_")].copy_(torch.tensor(value))
        theirs.update_parameters(module)
        ema.update()
    for name, average in ema.averages.items():
        wanted = theirs.module[name.replace("/", "_")].detach().numpy()
        np.testing.assert_allclose(average, wanted, rtol=1e-12, atol=1e-12)


def test_the_warm_up_is_the_formula(backend, dtype, rng):
    params = parameters(backend, dtype)
    ema, expected = EMA(params, 0.5, warmup=True), {n: v.astype(float) for n, v in host(params).items()}
    for t in range(12):             # (1 + 8) / (10 + 8) = 0.5: from then on the decay is
        train(params, rng)
        ema.update()
        d = min(0.5, (1 + t) / (10 + t))
        expected = {n: d * expected[n] + (1 - d) * v for n, v in host(params).items()}
    for name, average in ema.averages.items():
        assert average.dtype == dtype
        np.testing.assert_allclose(backend.to_host(average), expected[name],
                                   rtol=1e-12 if dtype == "float64" else 1e-5)


def test_constant_weights_are_their_own_average(backend):
    params = parameters(backend, "float32")
    ema, before = EMA(params, 0.999), host(params)
    for _ in range(5):
        ema.update()
    assert all(np.array_equal(backend.to_host(ema.averages[n]), v) for n, v in before.items())


def test_applied_gives_the_weights_back_bit_for_bit(backend, rng):
    params = parameters(backend)
    ema = EMA(params, 0.7)
    train(params, rng)
    ema.update()
    arrays, weights = {n: p.data for n, p in params.items()}, host(params)
    averages = {n: backend.to_host(a).copy() for n, a in ema.averages.items()}
    with pytest.raises(ZeroDivisionError), ema.applied():
        assert all(params[n].data is a for n, a in arrays.items())      # nets share them
        assert all(np.array_equal(v, averages[n]) for n, v in host(params).items())
        assert all(np.array_equal(ema.state_dict()[f"average/{n}"], v) for n, v in averages.items())
        for refused in (ema.update, ema.copy_to_parameters, ema.applied().__enter__):
            with pytest.raises(ConfigError, match="hold the averages now"):
                refused()
        raise ZeroDivisionError
    assert not ema.is_applied
    assert all(np.array_equal(v, weights[n]) for n, v in host(params).items())
    ema.copy_to_parameters()
    assert all(np.array_equal(v, averages[n]) for n, v in host(params).items())


def test_a_loaded_state_goes_on_bit_for_bit(backend):
    first, second = parameters(backend), parameters(backend, seed=1)
    ema, rng = EMA(first, 0.9, warmup=True), np.random.default_rng(5)
    for _ in range(3):
        train(first, rng)
        ema.update()
    state = ema.state_dict()
    train(first, np.random.default_rng(6))
    ema.update()                                # the state is a copy
    other = EMA(second, 0.9, warmup=True)
    other.load_state_dict(state)
    for name, p in second.items():
        p.data[...] = first[name].data
    other.update()
    assert repr(other) == "EMA(2 parameters, decay=0.9, warmup=True, updates=4)"
    assert all(np.array_equal(other.state_dict()[n], v) for n, v in ema.state_dict().items())


@pytest.mark.parametrize("change, message", [
    (lambda s: s.pop("updates"), "EMA: has no 'updates'"),
    (lambda s: s.update(more=np.zeros(1)), "has 'more', which is unknown here"),
    (lambda s: s.update({"average/ip/bias": np.zeros(4)}), r"expected float64 of shape \(3,\), got float64"),
    (lambda s: s.update({"average/ip/bias": np.zeros(3, int)}), "got int64 of shape"),
    (lambda s: s.update({"average/ip/bias": np.full(3, np.nan)}), "'average/ip/bias' is not finite"),
    (lambda s: s.update(updates=np.array([-1])), "expected a number >= 0, got -1"),
])
def test_another_state_is_refused_unchanged(backend, change, message):
    ema = EMA(parameters(backend), 0.9)
    before, state = ema.state_dict(), ema.state_dict()
    change(state)
    with pytest.raises(SnapshotError, match=message):
        ema.load_state_dict(state)
    assert all(np.array_equal(ema.state_dict()[n], v) for n, v in before.items())


@pytest.mark.parametrize("decay", [1, -0.1, float("nan")])
def test_a_decay_out_of_range_is_refused(backend, decay):
    with pytest.raises(ConfigError, match="decay: expected a number from 0 to below 1, got"):
        EMA(parameters(backend), decay)


def test_a_decay_may_be_set_between_updates(backend):
    p = Parameter(np.zeros(1), backend)
    ema = EMA([p], 0.5)
    p.data[...] = 8
    ema.update()
    ema.decay = 0.75
    ema.update()
    [average] = ema.averages.values()
    assert average.tolist() == [5.0]
    with pytest.raises(ConfigError, match="EMA: decay: expected a number from 0 to below 1, got 3"):
        ema.decay = 3
    assert ema.decay == 0.75


def test_names_of_parameters(backend):
    one, two, three = (Parameter(backend.zeros((2,), "float64"), backend, name) for name in ("w", "w", None))
    assert list(EMA([one, two, three], 0.5).parameters) == ["w", "w 1", "parameter 2"]
    assert list(EMA([("a", one), ("b", two)], 0.5).parameters) == ["a", "b"]
    for params, message in (([one, one], "are one Parameter"),
                            ([("a", one), ("a", two)], "two are named 'a'"),
                            (one, "got one; write"), ([3], "got int at place 0")):
        with pytest.raises(ConfigError, match=message):
            EMA(params, 0.5)
