"""Modules: their tree, their parameters and states."""

import copy
import re

import numpy as np
import pytest
from cases import in_turn
from modules import Images, mlp, numbers, step

import minidrop as md
from minidrop import nn

F = md.functions


# -- the tree ------------------------------------------------------------------------------------------------
class Tree(nn.Module):
    def __init__(self):
        self.first = mlp()
        self.list = nn.ModuleList([nn.Linear(3, 3), nn.Tanh()])
        self.dict = nn.ModuleDict({"a": nn.LayerNorm(3)}, b=nn.ReLU())
        self.again = self.list[0]

    def forward(self, x):
        return self.again(self.dict["b"](self.dict["a"](self.list[1](self.list[0](self.first(x))))))


def test_names_and_order():
    model = Tree().to("cpu")
    names = [f"{path}.{name}" for path in ("first.0", "first.3", "list.0", "dict.a")
             for name in ("weight", "bias")]
    assert [name for name, _ in model.named_parameters()] == names == list(model.state_dict())
    assert [path for path, _ in model.named_modules()] == [
        "", "first", "first.0", "first.1", "first.2", "first.3", "list", "list.0", "list.1", "dict", "dict.a",
        "dict.b"]
    assert [name for name, _ in model.named_children()] == ["first", "list", "dict", "again"]
    assert list(model.children()) == [model.first, model.list, model.dict, model.list[0]]
    net = model.net_for(numbers(4, 6))
    assert [name for name in net.layers if "input" not in name] == [
        "first.0", "first.1", "first.2", "first.3", "list.0", "list.1", "dict.a", "dict.b", "list.0_2"]
    assert model.list[0].weight is model.again.weight is net.params["list.0_2"]["weight"]
    assert len(net.graph.parameters) == len(names)      # what is used twice is one in the graph
    assert (len(model.list), len(model.first), "b" in model.dict) == (2, 4, True)
    assert [type(one).__name__ for one in model.first[1:3]] == ["ReLU", "ApproxDropout"]


def test_a_module_takes_the_place_of_the_one_that_it_replaces():
    """As a new head does, however it is set. It moved to the end, and the model was another."""
    model = nn.Sequential(a=nn.Linear(4, 5), b=nn.ReLU(), c=nn.Linear(5, 2)).to("cpu")
    x = numbers(3, 4)
    model(x)
    head = nn.Linear(5, 6)
    model[-1] = head
    model.b = nn.Tanh()
    model.add_module("a", nn.Linear(4, 5))
    assert [name for name, _ in model.named_children()] == ["a", "b", "c"] and model.c is head
    np.testing.assert_array_equal(model(x).numpy(), model.c(model.b(model.a(x))).numpy())
    held, named = nn.ModuleList([nn.ReLU(), nn.ReLU()]), nn.ModuleDict({"x": nn.ReLU(), "y": nn.ReLU()})
    held[0], named["x"] = nn.Tanh(), nn.Tanh()
    assert [[type(one) for one in several] for several in (held, named.values())] == [[nn.Tanh, nn.ReLU]] * 2
    for place, error in ((slice(1), md.ConfigError), (3, IndexError)):
        with pytest.raises(error):
            model[place] = nn.ReLU()


def test_repr_is_a_tree():
    assert repr(Tree().dict) == "ModuleDict(\n  (a): LayerNorm(3)\n  (b): ReLU()\n)"
    assert repr(nn.Conv2d(1, 2, kernel_size=3)) == "Conv2d(1, 2, kernel_size=3)"


def test_attributes_of_the_usual_names():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.layers, self.name, self.size = mlp(), nn.ModuleList([nn.Tanh()]), "model", 3

        def forward(self, x):
            return self.layers[0](self.net(x))[:, :self.size]
    model = Model().to("cpu")
    assert model(numbers(4, 6)).shape == (4, 3) and model.name == "model"
    assert model.net.layer_path == "net"
    del model.net
    assert not hasattr(model, "net") and list(model.named_parameters()) == []


def test_a_layers_name_in_place_of_its_path():
    model = nn.Sequential(nn.Linear(3, 4, name="ip1"), nn.Linear(4, 2)).to("cpu").set_seed(5)
    other = nn.Sequential(ip1=nn.Linear(3, 4)).to("cpu").set_seed(5)
    assert list(model.net_for(numbers(2, 3)).params) == ["ip1", "1"]
    assert list(model.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    np.testing.assert_array_equal(model[0].weight.data, other.ip1.weight.data)


def test_values_follow_from_seed_and_name_alone():
    """Neither the order of calls nor what else there is changes them."""
    one, other = mlp(seed=9), Tree().to("cpu").set_seed(9)
    other.list.append(nn.Linear(3, 3))
    other.first[3].weight      # noqa: B018  (asked for first)
    assert not np.array_equal(one[0].weight.data, other.first[0].weight.data)      # another name
    assert np.array_equal(one[0].weight.data, mlp(seed=9)[0].weight.data)
    assert not np.array_equal(one[0].weight.data, mlp(seed=8)[0].weight.data)
    # A part that has a seed of its own keeps it.
    part = mlp(seed=3)
    whole = nn.Sequential(part, nn.Linear(3, 2)).to("cpu").set_seed(4)
    whole.parameters()
    assert part[0].seed == 3 and whole[1].seed == 4 == whole.seed
    with pytest.raises(md.ConfigError, match="Sequential: its parameters have values already, of seed 4"):
        whole.set_seed(5)
    assert whole.seed == 4


# -- states --------------------------------------------------------------------------------------------------
def test_state_dict_round_trip(tmp_path):
    model, label = Images().to("cpu").set_seed(3), np.array([0, 1, 2, 0])
    for i in range(3):
        step(model, numbers(4, 2, 5, 5, seed=i), label)
    assert list(model.state_dict()) == ["conv.weight", "norm.norm.mean", "norm.norm.variance",
                                        "norm.norm.scale_factor", "norm.scale.factor", "norm.scale.bias",
                                        "scores.weight", "scores.bias"]
    assert [name for name, _ in model.named_buffers()] == ["norm.norm.mean", "norm.norm.variance",
                                                           "norm.norm.scale_factor"]
    np.savez(tmp_path / "state.npz", **model.state_dict())
    with np.load(tmp_path / "state.npz") as state:
        other = Images().to("cpu").set_seed(4)
        assert other.load_state_dict(state) == ([], [])
    x = numbers(6, 2, 5, 5, seed=9)
    np.testing.assert_array_equal(other.eval()(x).numpy(), model.eval()(x).numpy())
    assert model.norm.norm.scale_factor.data[0] > 0


def test_a_resumed_run_equals_an_uninterrupted_one():
    class Model(nn.Module):
        def __init__(self):
            self.embed, self.lstm = nn.Embedding(5, 8), nn.LSTM(8, 8, stateful=True)
            self.drop, self.scores = nn.ApproxDropout(0.5), nn.Linear(8, 5)

        def forward(self, x):
            return F_flat(self.scores(self.drop(self.lstm(self.embed(x)))))

    def F_flat(x):
        return x.reshape(-1, 5)

    def batch(i):
        rng = np.random.default_rng(i)
        return rng.integers(0, 5, (4, 3)), rng.integers(0, 5, 12)
    whole = Model().to("cpu").set_seed(1)
    losses = [step(whole, *batch(i)) for i in range(6)]
    first = Model().to("cpu").set_seed(1)
    assert [step(first, *batch(i)) for i in range(3)] == losses[:3]
    second = Model().to("cpu").set_seed(1)
    second.load_state_dict(first.state_dict())
    run = first.run_state()
    assert sorted(run) == ["iteration", "lstm.state:train:0:c", "lstm.state:train:0:h"]
    second.load_run_state(run)
    assert [step(second, *batch(i)) for i in range(3, 6)] == losses[3:]
    with pytest.raises(md.SnapshotError, match="the state of a run has 'lstn.state:train:0:c', which fits no "
                       "module; did you mean 'lstm'?"):
        second.load_run_state({"lstn.state:train:0:c": run["lstm.state:train:0:c"]})


@in_turn("state, message", [
    ([1], "LSTM: expected {name: array}, got list; np.load reads a .npz file"),
    ({"iteration": np.array(-3)}, "LSTM: iteration: expected a whole number of at least 0, got"),
    ({"iteration": np.array(np.nan)}, "LSTM: iteration: expected a whole number of at least 0, got"),
    ({"iteration": np.array(2.5)}, "LSTM: iteration: expected a whole number of at least 0, got"),
    ({"state:c": np.zeros((2, 4))}, "LSTM: the state of a run has 'state:c', which fits no module"),
    ({"state:test:0:c": np.zeros((2, 4))}, "has 'state:test:0:c', which fits no module"),
    ({"state:train:a:c": np.zeros((2, 4))}, "has 'state:train:a:c', which fits no module"),
    ({"state:train:0:c": np.full((2, 4), np.nan)}, "LSTM: 'state:train:0:c': a NaN, an infinity or a "),
    ({"state:train:0:c": np.array(["a"])}, "LSTM: 'state:train:0:c': dtype <U1, expected numbers")])
def test_a_state_of_a_run_that_does_not_fit_changes_nothing(state, message):
    model = nn.LSTM(3, 4, stateful=True).to("cpu")
    model(numbers(5, 2, 3))
    before = model.run_state()
    given = {"iteration": np.array(7), **state} if isinstance(state, dict) else state
    with pytest.raises(md.SnapshotError, match=re.escape(message)):
        model.load_run_state(given)
    assert_same(model.run_state(), before)


def assert_same(found, expected):
    assert sorted(found) == sorted(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_a_state_that_no_layer_has_is_named():
    model = nn.LSTM(3, 4, stateful=True).to("cpu")
    model.load_run_state({"state:train:0:q": np.zeros((2, 4))})
    with pytest.raises(md.ShapeError, match="carries a state 'q' on, which it does not have; call reset"):
        model(numbers(5, 2, 3))
    with pytest.raises(md.ConfigError, match="draw_from: expected a whole number of at least 0, got 2.5"):
        model.draw_from(2.5)


def test_a_deep_copy_is_independent():
    model, x, label = mlp(), numbers(8, 6), np.arange(8) % 3
    step(model, x, label)
    other = copy.deepcopy(model)
    assert [step(other, x, label) for _ in range(3)] == [step(model, x, label) for _ in range(3)]
    step(other, x, label)
    assert not np.array_equal(other[0].weight.data, model[0].weight.data)
    part = copy.deepcopy(model[3])
    np.testing.assert_array_equal(part.weight.data, model[3].weight.data)
    assert part.layer_path == "" and part.backend is model.backend
    tied = nn.Sequential(embed=nn.Embedding(7, 4), scores=nn.Linear(4, 7, bias=False)).to("cpu")
    tied.scores.tie("weight", tied.embed)
    again = copy.deepcopy(tied)
    assert again.scores.weight is again.embed.weight is not tied.embed.weight
    shifted = mlp()
    shifted.shift = md.tensor([1.0, 2.0])
    again = copy.deepcopy(shifted)
    assert again.shift.tolist() == [1.0, 2.0] and again.shift.data is not shifted.shift.data


def test_frozen_parameters_have_no_gradient():
    model, x = mlp(), numbers(8, 6)
    model[0].requires_grad_(False)
    F.softmax_cross_entropy(model(x), np.arange(8) % 3).backward()
    assert [parameter.grad is None for parameter in model.parameters()] == [True, True, False, False]
    model[0].requires_grad_()
    F.softmax_cross_entropy(model(x), np.arange(8) % 3).backward()
    assert model[0].weight.grad is not None


def test_another_dtype_moves_what_is_there():
    model, x = Images().to("cpu"), numbers(4, 2, 5, 5)
    [weight, *_] = model.parameters()
    single = model.eval()(x).numpy()
    model.to(dtype="float64")
    assert model.parameters()[0] is weight and weight.dtype == "float64"
    double = model(x).numpy()
    assert double.dtype == "float64" and single.dtype == "float32"
    np.testing.assert_allclose(double, single, rtol=1e-4, atol=1e-5)


def test_an_attribute_that_changes_makes_a_new_net():
    class Switch(nn.Module):
        def __init__(self):
            self.fc, self.act, self.twice = nn.Linear(3, 3), nn.ReLU(), False

        def forward(self, x):
            y = self.act(self.fc(x))
            return self.fc(y) if self.twice else y
    inner = Switch()
    model, x = nn.Sequential(inner).to("cpu"), numbers(2, 3)
    once = model(x).numpy()
    inner.twice = True
    assert not np.array_equal(model(x).numpy(), once)
    inner.twice = False
    np.testing.assert_array_equal(model(x).numpy(), once)
    inner.act = nn.Tanh()
    assert not np.array_equal(model(x).numpy(), once)
    assert [type(one).__name__ for one in model.modules()] == ["Sequential", "Switch", "Linear", "Tanh"]
