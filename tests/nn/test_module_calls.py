"""Calls of modules: the nets that they run, drops, gradients, structures, and forward as plain Python."""

import copy
import gc
import threading
import weakref

import numpy as np
import pytest
from modules import Images, mlp, numbers, step

import minidrop as md
from minidrop import nn
from minidrop.nn.built import MOST_NETS

F = md.functions


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


class Sees(nn.Module):
    """Gives what its forward is given."""

    traced = False

    def forward(self, *inputs, **named):
        return inputs, named


def test_plain_python_is_given_tensors():
    x, label = np.array([[-1.0, 2.0]]), np.array([3, 1])
    cache = {"x": x}
    (seen, label_seen, held), named = Sees()(x, label, cache, mask=label > 1, scale=np.float32(3))
    np.testing.assert_array_equal(seen.relu().numpy(), [[0.0, 2.0]])
    assert (seen.dtype, label_seen.dtype) == ("float32", "int64")
    assert held is cache and cache["x"] is x            # forward may write into what holds arrays
    assert isinstance(label_seen, md.Tensor) and label_seen.tolist() == [3, 1]
    assert named["mask"].tolist() == [True, False] and type(named["scale"]) is np.float32
    (wide,), _ = Sees().to(dtype="float64")(x)
    assert wide.dtype == "float64"
    given = md.Tensor(x, requires_grad=True), object(), [x[0].tolist()]
    assert all(one is two for one, two in zip(Sees()(*given)[0], given, strict=True))
    for masked in (np.ma.masked_array(x, x > 0), np.ma.masked_array(label, label > 1)):
        with pytest.raises(md.MinidropError, match="masked"):
            Sees()(masked)


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
