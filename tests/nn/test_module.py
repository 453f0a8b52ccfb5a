"""Modules: their tree, their parameters and states, and how they are called."""

import copy
import gc
import re
import threading
import weakref

import numpy as np
import pytest
from cases import in_turn

import minidrop as md
from minidrop import nn
from minidrop.nn.built import MOST_NETS

F = md.functions


def numbers(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype("f")


def mlp(drop=None, seed=1):
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), drop or nn.ApproxDropout(0.5),
                         nn.Linear(16, 3)).to("cpu").set_seed(seed)


class Images(nn.Module):
    """Batch norms, which have statistics, and dropout."""

    def __init__(self):
        self.conv, self.norm = nn.Conv2d(2, 8, 3, padding=1, bias=False), nn.BatchNorm(8)
        self.rest = nn.Sequential(nn.ReLU(), nn.ApproxDropout(0.5), nn.AvgPool2d(None), nn.Flatten())
        self.scores = nn.Linear(8, 3)

    def forward(self, x):
        return self.scores(self.rest(self.norm(self.conv(x))))


def step(model, x, label, lr=0.1):
    model.zero_grad()
    loss = F.softmax_cross_entropy(model(x), label)
    loss.backward()
    for parameter in model.parameters():
        parameter.data[...] -= parameter.dtype.type(lr) * parameter.dense_grad()
    return float(loss)


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


# -- calls ---------------------------------------------------------------------------------------------------
def test_calls_of_several_batch_sizes_share_parameters_and_the_counter():
    model, label = mlp(), np.array([0, 1, 2, 0])
    for rows in (4, 2, 4, 3):
        step(model, numbers(rows, 6), label[:rows])
    assert model.iteration == 4
    nets = [model.net_for(numbers(rows, 6)) for rows in (2, 3, 4)]
    assert len({id(net) for net in nets}) == 3
    assert all(net.params["0"]["weight"] is model[0].weight for net in nets)
    model.eval()
    whole = model(numbers(4, 6)).numpy()
    for rows in (1, 2, 3):
        np.testing.assert_allclose(model(numbers(4, 6)[:rows]).numpy(), whole[:rows], rtol=1e-5, atol=1e-6)
    assert model.iteration == 4
    for rows in range(1, MOST_NETS + 9):
        model(numbers(rows, 6))
    assert len(model._nets.built) == MOST_NETS


def test_nets_that_wait_hold_no_batch():
    """Of nets of several shapes only the one that ran last holds its inputs and what it computed."""
    model, freed = mlp(), []
    for rows in range(2, 10):
        x = numbers(rows, 6)
        weakref.finalize(x, freed.append, rows)
        out = model(x)
        weakref.finalize(out.data, freed.append, -rows)
        del x, out
    gc.collect()
    assert sorted(freed) == sorted([*range(2, 9), *range(-8, -1)])


def test_a_second_thread_is_refused_while_one_runs():
    model, x = mlp().eval(), numbers(4, 6)
    inside, go_on, found = threading.Event(), threading.Event(), []

    def wait(y):
        if threading.current_thread() is not threading.main_thread():
            inside.set()
            go_on.wait(30)
        return y
    whole = nn.Sequential(model, nn.Lambda(wait)).to("cpu")
    whole.eval()
    expected = whole(x).numpy()
    thread = threading.Thread(target=lambda: found.append(whole(x).numpy()))
    thread.start()
    assert inside.wait(30)
    try:
        for batch in (x, x[:2]):        # of another net of the module, too
            with pytest.raises(md.DataError, match="^another thread runs this module: .* give each thread a "
                                                   "copy of its own"):
                whole(batch)
    finally:
        go_on.set()
        thread.join()
    assert np.array_equal(found[0], expected) and np.array_equal(whole(x).numpy(), expected)


def test_every_call_in_training_has_the_patterns_of_its_iteration():
    model, x = mlp(), numbers(8, 6)
    outputs = [model(x).numpy() for _ in range(3)]
    assert not np.array_equal(outputs[0], outputs[1])
    model.iteration = 1
    np.testing.assert_array_equal(model(x).numpy(), outputs[1])
    net = model.net_for(x)
    net.draw_patterns(2)
    np.testing.assert_array_equal(net.forward(x=x)["3"].numpy(), outputs[2])


@pytest.mark.parametrize("drop", [nn.ApproxDropout(0.5), nn.Dropout(0.5), nn.GaussianDropout(0.5)])
def test_no_dropout_out_of_training(drop):
    model, x = mlp(drop).eval(), numbers(8, 6)
    first, second = model[0], model[3]
    expected = np.maximum(x @ first.weight.data.T + first.bias.data, 0) @ second.weight.data.T
    np.testing.assert_allclose(model(x).numpy(), expected + second.bias.data, rtol=1e-4, atol=1e-5)
    model.train()
    assert not np.allclose(model(x).numpy(), expected + second.bias.data)


def test_a_part_that_is_not_in_training():
    """A frozen norm in a net that trains; and a drop that stays on in one that does not."""
    model, x = Images().to("cpu"), numbers(4, 2, 5, 5)
    model.norm.eval()
    before = model.norm.norm.mean.data.copy()
    model(x)
    np.testing.assert_array_equal(model.norm.norm.mean.data, before)
    model.norm.train()
    model(x)
    assert not np.array_equal(model.norm.norm.mean.data, before)
    drops = mlp().eval()
    still = drops(numbers(8, 6)).numpy()
    drops[2].train()
    assert not np.array_equal(drops(numbers(8, 6)).numpy(), still)


@pytest.mark.parametrize("drop", [nn.ApproxDropout(0.5), nn.Dropout(0.5), nn.GaussianDropout(0.5)])
def test_drops_in_training_alone_draw_anew_in_each_call(drop):
    """Monte-Carlo dropout as PyTorch's users write it; the patterns are those of the iterations."""
    model, x = mlp(drop).eval(), numbers(8, 6)
    still = model(x).numpy()
    drop.train()
    passes = [model(x).numpy() for _ in range(6)]
    assert model.iteration == 6 and all(np.abs(one - passes[0]).max() > 1e-3 for one in passes[1:])
    model.draw_from(0)
    np.testing.assert_array_equal(model.train()(x).numpy(), passes[0])
    np.testing.assert_array_equal(model.eval()(x).numpy(), still)
    assert model.iteration == 1


def test_a_norm_in_training_alone_draws_nothing():
    model = Images().to("cpu").eval()
    model.norm.train()
    model(numbers(4, 2, 5, 5))
    assert model.iteration == 0


def test_structures_go_in_and_out():
    class Many(nn.Module):
        def forward(self, pair, *, more, factor=1.0):
            a, b = pair
            return {"sum": a + b, "rest": [more["x"] * factor, None], "a": a}
    model = Many().to("cpu")
    a, b, c = numbers(2, 3), numbers(2, 3, seed=1), numbers(4)
    result = model((a, b), more={"x": c}, factor=2.0)
    np.testing.assert_array_equal(result["sum"].numpy(), a + b)
    np.testing.assert_array_equal(result["rest"][0].numpy(), 2 * c)
    np.testing.assert_array_equal(result["a"].numpy(), a)
    assert result["rest"][1] is None
    np.testing.assert_array_equal(model((a, b), more={"x": c}, factor=0.5)["rest"][0].numpy(), c / 2)


def test_an_output_that_is_read_as_well_is_complete():
    """Below a drop only what it keeps would be computed, and the activation be applied already."""
    class Inner(nn.Module):
        def __init__(self):
            self.fc1, self.act, self.drop, self.fc2 = (nn.Linear(6, 64), nn.ReLU(), nn.ApproxDropout(0.7),
                                                       nn.Linear(64, 3))

        def forward(self, x):
            h = self.fc1(x)
            return h, self.fc2(self.drop(self.act(h)))
    model, x = Inner().to("cpu"), numbers(8, 6)
    expected = x @ model.fc1.weight.data.T + model.fc1.bias.data
    np.testing.assert_allclose(model(x)[0].numpy(), expected, rtol=1e-4, atol=1e-5)
    assert (expected < 0).any()


def test_gradients_of_inputs_and_through_several_calls():
    model, x = mlp(), md.Tensor(numbers(8, 6), requires_grad=True)
    two = model(x) + model(x)           # the same net twice before one backward
    two.backward(np.ones((8, 3), "f"))
    model.iteration, y = 0, md.Tensor(x.data, requires_grad=True)
    both = [p.grad.copy() for p in model.parameters()]
    model.zero_grad()
    for _ in range(2):
        model(y).backward(np.ones((8, 3), "f"))
    np.testing.assert_allclose(y.grad, x.grad, rtol=1e-5, atol=1e-6)
    for parameter, expected in zip(model.parameters(), both, strict=True):
        np.testing.assert_allclose(parameter.grad, expected, rtol=1e-5, atol=1e-5)


def test_a_custom_loss_of_primitives():
    model, x, y = mlp().to(dtype="float64"), numbers(8, 6), numbers(8, 3, seed=1)
    [weight, *_] = model.parameters()

    def loss(i=0):
        model.iteration = i
        difference = model(x) + F.scale(md.Tensor(y.astype(float)), -1.0)
        return F.reduction(F.log(F.absval(difference), None, 1.0, 1.0), "MEAN", 0)
    loss().backward()
    place, step = (3, 2), 1e-6
    ends = []
    for sign in (1, -1):
        weight.data[place] += sign * step
        ends.append(float(loss()))
        weight.data[place] -= sign * step
    assert weight.grad[place] == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5)


def test_the_net_of_a_module_saves_and_loads_its_weights(tmp_path):
    """As Caffe's files, by the names of layers."""
    model, other, x = mlp(), mlp(seed=5), numbers(4, 6)
    model.net_for(x).save(tmp_path / "w.caffemodel")
    other.net_for(x).load_weights(tmp_path / "w.caffemodel")
    np.testing.assert_array_equal(other.eval()(x).numpy(), model.eval()(x).numpy())
    copied = copy.deepcopy(model.net_for(x))
    assert copied.params["0"]["weight"] is not model[0].weight


def test_no_inputs_and_unused_ones():
    class Model(nn.Module):
        def __init__(self):
            self.table, self.act = nn.Weight(3, 4, filler="uniform"), nn.Tanh()

        def forward(self, unused=None):
            return self.act(self.table())
    model = Model().to("cpu")
    expected = np.tanh(model.table.weight.data)
    np.testing.assert_allclose(model().numpy(), expected, rtol=1e-6)
    np.testing.assert_allclose(model(numbers(2)).numpy(), expected, rtol=1e-6)
    assert model.net_for(numbers(2)).outputs == ["act"]


# -- plain Python --------------------------------------------------------------------------------------------
class Adversaries(nn.Module):
    """Two nets that train each other, and a loop that values decide."""

    traced = False

    def __init__(self):
        self.make, self.judge = nn.Sequential(nn.Linear(4, 6), nn.Tanh()), mlp()
        self.count = 0

    def forward(self, noise, real):
        made = self.make(noise)
        self.count = 0
        while float(F.reduction(made, "ASUM", 0)) > 1 and self.count < 5:
            made = F.scale(made, 0.5)
            self.count += 1
        return self.judge(made), self.judge(real)


def test_a_module_that_runs_as_plain_python():
    model = Adversaries().to("cpu").set_seed(2)
    fake, real = model(numbers(8, 4), numbers(8, 6))
    assert model.count == 5
    F.softmax_cross_entropy(fake, np.zeros(8)).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert (model.judge.iteration, model.make.iteration, model.iteration) == (2, 1, 0)
    judge = model.judge.net_for(numbers(8, 6))
    assert list(judge.params) == ["judge.0", "judge.3"]
    assert judge.plan.drops[0].producers and judge.plan.drops[0].consumers
    model(numbers(8, 4), numbers(8, 6))
    assert model.judge.net_for(numbers(8, 6)) is judge      # setting `count` makes no new nets below


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
