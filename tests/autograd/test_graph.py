"""The backward pass over every shape of graph; and the checker of gradients checks."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minidrop as md
from minidrop import Function, Kept, Parameter, Tensor, check_gradients, functions, nn, optim
from minidrop.autograd import backward, graph
from minidrop.errors import GraphError, LostRankError, MinidropError, ShapeError


def leaf(*values):
    return Tensor(np.array(values), requires_grad=True)


def numbers(*shape):
    return np.random.default_rng(shape).standard_normal(shape)


def test_a_diamond():
    """y = x^2 + (x^2 * 3): the shared part runs backward once, after both readers."""
    calls = []

    class Square(Function):
        def forward(self, backend, x):
            self.x = x
            return x * x

        def backward(self, backend, gy, wanted):
            calls.append(gy.tolist())
            return 2 * self.x * gy
    x = leaf(3.0)
    square = Square().apply(x)
    (square + functions.power(square, 1.0, 3.0)).backward()
    assert calls == [[4.0]] and x.grad.tolist() == [24.0]


def test_arms_of_unequal_length():
    x = leaf(2.0)
    trunk = functions.power(x, 2.0)                     # x^2
    long = trunk
    for _ in range(5):
        long = functions.power(long, 1.0, 2.0)          # 32 x^2
    functions.weighted_sum([trunk, long, x]).backward()
    assert x.grad.tolist() == [2 * 2 * 33 + 1]


def test_a_tensor_used_twice_by_one_function():
    x = leaf(3.0)
    (x * x).backward()
    assert x.grad.tolist() == [6.0]
    y = leaf(3.0)
    (y + y).backward()
    assert y.grad.tolist() == [2.0]


def test_several_results_at_once():
    x = leaf(1.0, 2.0)
    trunk = functions.power(x, 2.0)
    a, b = functions.power(trunk, 1.0, 3.0), functions.power(trunk, 1.0, 5.0)
    backward([(a, np.array([1.0, 1.0])), (b, np.array([10.0, 0.0])), (trunk, np.array([0.0, 100.0])),
              (x, np.ones(2))])
    assert x.grad.tolist() == [2 * (3 + 50) + 1, 4 * (3 + 100) + 1]


def test_second_backward():
    y = functions.power(leaf(1.0), 2.0)
    y.backward()
    with pytest.raises(GraphError, match="^Power: backward has already run through this graph; run forward "
                       "again, or add the losses and run backward once$"):
        y.backward()
    assert issubclass(GraphError, MinidropError) and issubclass(GraphError, RuntimeError)      # as PyTorch's


class TestParametersThatChange:
    """A step between forward and backward: its weights are not those that forward read."""

    @pytest.fixture
    def parts(self):
        weights = [Parameter(numbers(4, 3), name="first"), Parameter(numbers(2, 4), name="second")]
        return weights, optim.SGD(weights, lr=0.5), numbers(5, 3)

    def test_what_backward_would_read_is_refused(self, parts):
        weights, optimizer, x = parts
        ys = [functions.linear(functions.linear(Tensor(x), weights[0]).tanh(), weights[1]) for _ in range(2)]
        ys[0].sum().backward()
        optimizer.step()
        with pytest.raises(GraphError, match="Linear: backward reads second, whose values have changed since "
                                             "forward, .* run forward again behind the step"):
            ys[1].sum().backward()

    @pytest.mark.parametrize("change", ["load_state_dict", "copy_to_parameters", "load_weights",
                                        "from_torch_state_dict", "copy_from"])
    def test_other_ways_to_change_them(self, change, tmp_path):
        model, x = nn.Sequential(nn.Linear(3, 4), nn.LSTM(4, 2)).to("cpu"), numbers(6, 2, 3)
        averages, y = optim.EMA(model.named_parameters(), 0.5), model(x).sum()
        with averages.applied():        # afterwards all is as it was
            pass
        if change == "load_state_dict":
            model.load_state_dict(model.state_dict())
        elif change == "load_weights":
            model.net_for(x).save(tmp_path / "w.h5")
            model.net_for(x).load_weights(tmp_path / "w.h5")
        elif change == "from_torch_state_dict":
            md.from_torch_state_dict(model.net_for(x), md.to_torch_state_dict(model.net_for(x)))
        elif change == "copy_from":
            model[1].weight.copy_from(model[1].weight)
        else:
            averages.copy_to_parameters()
        with pytest.raises(GraphError, match="whose values have changed since forward"):
            y.backward()

    def test_averages_in_their_place(self):
        model, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).to("cpu"), numbers(6, 3)
        averages = optim.EMA(model.named_parameters(), 0.5)
        model[2].weight.data[...] += 1
        before, after = model(x).sum(), model(x).sum()
        with averages.applied():
            with pytest.raises(GraphError, match="whose values have changed since forward"):
                before.backward()
            with md.no_grad():
                model(x)
        after.backward()                # they are the weights again
        gradient, after = model[0].weight.grad.copy(), model(x).sum()
        model.zero_grad()
        for _ in range(2):
            with averages.applied():
                within = model(x).sum()         # as in an evaluation without no_grad
        after.backward()
        np.testing.assert_array_equal(model[0].weight.grad, gradient)
        with pytest.raises(GraphError, match="whose values have changed since forward"):
            within.backward()
        with averages.applied():
            within = model(x).sum()
            with averages.withheld():
                optim.SGD(model.parameters(), lr=0.1).step()
                averages.update()
            with pytest.raises(GraphError, match="whose values have changed since forward"):
                within.backward()
        with averages.applied():
            within, also = model(x).sum(), model(x).sum()
            also.backward()
            with averages.withheld(), pytest.raises(GraphError, match="whose values have changed"):
                within.backward()
            within = model(x).sum()
        with pytest.raises(GraphError, match="whose values have changed since forward"):
            within.backward()

    def test_a_restored_optimizer(self, parts):
        """A pass of before is not refused, one of after a step within it is."""
        weights, optimizer, x = parts
        before = functions.linear(functions.linear(Tensor(x), weights[0]).tanh(), weights[1]).sum()
        with optimizer.restored():
            pass
        before.backward()
        with optimizer.restored():
            optimizer.step()
            within = functions.linear(functions.linear(Tensor(x), weights[0]).tanh(), weights[1]).sum()
        with pytest.raises(GraphError, match="whose values have changed since forward"):
            within.backward()

    def test_what_it_does_not_read_is_not(self, parts):
        """The first product of a net has no input gradient, and a sum none that depends on values."""
        weights, optimizer, x = parts
        first, wanted = weights[0], Tensor(x, requires_grad=True)
        y = functions.linear(Tensor(x), first).sum() + (wanted + Tensor(np.ones(3)) - first.mean(0)).sum()
        first.grad = np.ones((4, 3))
        optimizer.step()
        y.backward()
        np.testing.assert_allclose(first.grad, np.tile(x.sum(0), (4, 1)) - 5 / 4)
        assert (wanted.grad == 1).all()
        shift = Parameter(np.zeros(3), name="shift")
        z = wanted + shift
        shift.note_change()
        z.sum().backward()
        assert (wanted.grad == 2).all() and (shift.grad == 5).all()

    def test_what_was_gathered_is_that_of_forward(self, parts):
        """A product that leaves units out has rows of its own."""
        weights, optimizer, _ = parts
        x, kept = Tensor(numbers(5, 3), requires_grad=True), Kept.of([0, 1, 3], 4)
        before = weights[0].data.copy()
        y = functions.linear(x, weights[0], None, kept)
        weights[0].grad = np.ones((4, 3))
        optimizer.step()
        functions.expand(y).sum().backward()
        np.testing.assert_allclose(x.grad, np.tile(before[[0, 1, 3]].sum(0), (5, 1)))


def test_a_gradient_of_another_shape_is_refused():
    """Added up it would broadcast, or become a `grad` of that shape."""
    class Wrong(Function):
        def __init__(self, of):
            self.of = of

        def forward(self, backend, x):
            return x * 1

        def backward(self, backend, gy, wanted):
            return self.of(gy)

    for of, shape in ((lambda gy: gy[:1], "(1, 3)"), (lambda gy: gy.T, "(3, 2)"), (np.sum, "()")):
        for leaf in (Tensor(np.ones((2, 3)), requires_grad=True), Parameter(np.ones((2, 3)))):
            for x in (leaf, leaf * 2):
                with pytest.raises(ShapeError) as caught:
                    Wrong(of).apply(x).sum().backward()
                assert str(caught.value) == (f"Wrong: backward returned a gradient of shape {shape} for an "
                                             f"input of shape (2, 3); they must be equal")
    x = Tensor(np.ones((2, 3)), requires_grad=True)
    Wrong(lambda gy: gy * 5).apply(x).sum().backward()
    np.testing.assert_array_equal(x.grad, np.full((2, 3), 5))


def test_no_part_of_the_graph_is_run_for_a_tensor_without_gradient():
    y = functions.power(Tensor(np.ones(2)), 2.0)
    backward([(y, np.ones(2))])
    assert y.creator is None
    with pytest.raises(GraphError, match=r"^backward: nothing that this tensor of shape \(2,\) was computed "
                       "from requires a gradient; was it computed under no_grad, or detached"):
        y.backward(np.ones(2))


def test_each_leaf_has_a_gradient_of_its_own():
    """The derivative of a sum is one array for all terms; who scales that of one means that one alone."""
    seed = np.ones(3)
    a, b, whole = leaf(1.0, 2.0, 3.0), leaf(4.0, 5.0, 6.0), leaf(7.0, 8.0, 9.0)
    p = Parameter(np.ones(3))
    functions.weighted_sum((a, b, p, functions.reshape(whole, (3,)), a)).backward(seed)
    a.grad *= 10
    p.grad *= 100
    whole.grad[0] = 5
    assert a.grad.tolist() == [20] * 3 and b.grad.tolist() == seed.tolist() == [1] * 3
    assert p.grad.tolist() == [100] * 3 and whole.grad.tolist() == [5, 1, 1]
    c = leaf(1.0)
    c.backward(seed[:1])
    c.grad += 1
    assert seed[0] == 1


def test_a_deep_graph_needs_no_deep_stack():
    x = y = leaf(1.0)
    for _ in range(5000):
        y = functions.power(y, 1.0, 1.0, 1.0)
    y.backward()
    assert x.grad.tolist() == [1.0]


@given(st.lists(st.tuples(st.sampled_from(["sum", "product", "square"]), st.integers(0, 99),
                          st.integers(0, 99)),
                min_size=1, max_size=8))
@settings(deadline=None, max_examples=60)
def test_any_graph(steps):
    """Random graphs of two leaves: the gradient is that of central differences."""
    def build(a, b):
        values = [a, b]
        for kind, i, j in steps:
            p, q = values[i % len(values)], values[j % len(values)]
            values.append(functions.weighted_sum([p, q], [0.5, 0.25]) if kind == "sum" else
                          functions.tanh(p * q) if kind == "product"
                          else functions.tanh(functions.power(p, 2.0)))
        return values[-1]
    check_gradients(build, np.array([0.3, -0.7]), np.array([0.9, 0.4]))


class Wrong(Function):
    """y = x^2 with a gradient that is wrong in one entry."""

    def forward(self, backend, x):
        self.x = x
        return x * x

    def backward(self, backend, gy, wanted):
        gx = 2 * self.x * gy
        gx[1] *= 1.001
        return gx


class Forgets(Wrong):
    def backward(self, backend, gy, wanted):
        return None


class TestCheckGradients:
    def test_right(self):
        check_gradients(lambda a, b: (a * b, a + b), np.array([1.0, 2.0, 3.0]), np.array([0.5, 4.0, -1.0]))

    @pytest.mark.parametrize("function", [Wrong, Forgets])
    def test_wrong(self, function):
        with pytest.raises(AssertionError, match=r"gradient of input 0, shape \(3,\)"):
            check_gradients(lambda x: function().apply(x), np.array([1.0, 2.0, 3.0]))

    def test_wrong_only_in_the_second_input(self):
        with pytest.raises(AssertionError, match="gradient of input 1"):
            check_gradients(lambda a, b: a + Wrong().apply(b), np.ones(3), np.ones(3))

    def test_inputs_that_are_not_wanted(self):
        check_gradients(lambda a, b: a + Wrong().apply(b), np.ones(3), np.ones(3), wanted=[True, False])

    def test_single_precision_is_checked_in_double(self):
        check_gradients(functions.tanh, np.linspace(-1, 1, 5, dtype=np.float32))

    def test_numbers_are_left_as_they_were(self):
        x = np.linspace(-1, 1, 5)
        before = x.copy()
        check_gradients(functions.tanh, x)
        assert (x == before).all()


def test_recording_is_on():
    assert graph.is_recording()


def test_no_grad_holds_in_its_own_thread_only():
    with graph.no_grad(), ThreadPoolExecutor(1) as other:
        assert not graph.is_recording()
        assert other.submit(graph.is_recording).result()


def test_many_readers_of_one_tensor_add_up_in_one_order():
    """Of functions of equal rank the newest runs first, wherever they lie in memory: the sum is the same to
    the last bit."""
    rng = np.random.default_rng(0)
    x, factors = rng.standard_normal(50).astype("f4"), rng.standard_normal((7, 50)).astype("f4")
    expected = factors[-1]
    for factor in factors[-2::-1]:
        expected = expected + factor
    held = []
    for trial in range(20):
        # another layout of memory for each trial
        held.append([bytearray(64 + 8 * i) for i in range(trial)])
        tensor = Tensor(x, requires_grad=True)
        tops = [functions.multiply(tensor, Tensor(factor)) for factor in factors]
        backward([(tops[i], np.ones(50, "f4")) for i in rng.permutation(len(tops))])
        np.testing.assert_array_equal(tensor.grad, expected)


class Watched(graph.Watch):
    """Writes down what it is told, and the gradients that it finds complete."""

    def __init__(self, names):
        self.names, self.told, self.leaves = {id(one): name for name, one in names.items()}, [], None

    def begin(self, leaves):
        self.leaves = sorted(self.names[id(one)] for one in leaves)

    def has_run(self):
        self.told.append("ran")

    def complete(self, leaf):
        self.told.append((self.names[id(leaf)], None if leaf.grad is None else leaf.grad.tolist()))


def test_a_watch_is_told_once_of_each_leaf_when_nothing_can_change_its_gradient():
    """x is read twice by one function, w by two, v by a function that no gradient reaches, u by none."""
    class Half(Function):
        def forward(self, backend, one, other):
            return one

        def backward(self, backend, gy, wanted):
            return gy, None
    x, w, v, u = leaf(3.0), leaf(2.0), leaf(7.0), leaf(1.0)
    first = functions.power(x, 2.0) * w
    last = Half().apply(first, functions.power(v, 2.0)) * w
    watch = Watched({"x": x, "w": w, "v": v, "u": u})
    graph.backward([(last * last, np.ones(1))], watch=watch)
    assert watch.leaves == ["v", "w", "x"] and watch.told[-1] == ("v", None)
    assert watch.told.count("ran") == 5
    found = [one for one in watch.told if one != "ran"]
    assert found == [("w", w.grad.tolist()), ("x", x.grad.tolist()), ("v", None)]
    # w^4 x^4: 4 w^3 x^4 and 4 w^4 x^3; w is complete one function before x
    assert w.grad.tolist() == [4 * 8 * 81.0] and x.grad.tolist() == [4 * 16 * 27.0]
    assert watch.told.index(found[0]) < watch.told.index(found[1]) - 1


def test_a_leaf_that_is_a_seed_is_complete_as_well():
    x = leaf(3.0)
    watch = Watched({"x": x})
    graph.backward([(x, np.ones(1)), (functions.power(x, 2.0), np.ones(1))], watch=watch)
    assert watch.told == [("x", [7.0]), "ran"]


@pytest.mark.parametrize("at", ["has_run", "complete"])
def test_what_a_watch_raises_is_no_failure_of_a_function(at, monkeypatch):
    def fail(*_):
        raise LostRankError("rank 1 is gone", (1,))
    watch, x, blamed = Watched({}), leaf(3.0), []
    watch.names[id(x)] = "x"
    monkeypatch.setattr(watch, at, fail)
    with pytest.raises(LostRankError, match="^rank 1 is gone$"):
        graph.backward([(functions.power(x, 2.0), np.ones(1))], lambda *told: blamed.append(told), watch)
    assert not blamed


def test_nothing_that_a_tensor_lacks_is_asked_for(monkeypatch):
    """Its `__getattr__` looks for the nearest of all its names, which takes longer than a small product."""
    def fail(self, name):
        raise AssertionError(name)
    monkeypatch.setattr(Tensor, "__getattr__", fail)
    x, w = leaf([1.0, 2.0]), Parameter(np.array([[3.0, 4.0]]))
    y = functions.softmax_cross_entropy(functions.linear(x, w), np.array([0]))
    y.backward()
    assert x.grad is not None and w.grad is not None
