"""Function.apply: what is common to all functions, above all the rules for kept sets."""

import re

import numpy as np
import pytest
from cases import in_turn

from minidrop import Function, GraphError, Kept, Parameter, ShapeError, Tensor, functions, nn, no_grad
from minidrop.backend import Backend

KEPT, OTHER = Kept(0, 2, 1, 6), Kept(1, 2, 1, 6)


class Double(Function):
    def forward(self, backend, *xs):
        self.seen = xs
        return sum(xs) * 2

    def backward(self, backend, gy, wanted):
        return tuple(gy * 2 if want else None for want in wanted)


class Same(Double):
    kept_rule = "same"


class Native(Double):
    kept_rule = "native"

    def forward(self, backend, *xs):
        assert self.input_kept == ((KEPT, 1),)
        self.output_kept = (OTHER, 0)
        return np.zeros((3, 2))


class Pair(Function):
    """Two outputs; the gradient of one that nobody read is None."""

    def forward(self, backend, x):
        return x + 1, x * 10

    def backward(self, backend, gy, wanted):
        self.got = gy
        return sum(g * factor for g, factor in zip(gy, (1, 10), strict=True) if g is not None)


class One(Function):
    """A tuple of one."""

    def forward(self, backend, x):
        return (x * 3,)

    def backward(self, backend, gy, wanted):
        assert isinstance(gy, tuple)
        return gy[0] * 3


def compact(kept=KEPT, axis=1, requires_grad=True):
    return Tensor(np.ones((2, 3)) if axis else np.ones((3, 2)), requires_grad, kept=kept, kept_axis=axis)


def test_same_carries_the_kept_set_on():
    y = Same().apply(compact(), compact())
    assert y.kept == KEPT and y.kept_axis == 1 and y.shape == (2, 6) and y.data.shape == (2, 3)
    assert Same().apply(Tensor(np.ones(3))).kept is None


def test_same_refuses_different_sets():
    message = (r"^Same needs inputs with one kept set, got Kept.*from 0\), Kept.*from 1\); "
               r"call functions.expand on them first$")
    with pytest.raises(ShapeError, match=message):
        Same().apply(compact(), compact(OTHER))
    with pytest.raises(ShapeError, match=r"^Same needs inputs with one kept set, got .*, None; call"):
        Same().apply(compact(), Tensor(np.ones((2, 6))))
    with pytest.raises(ShapeError, match="^Same needs inputs with one kept set"):
        Same().apply(compact(), compact(axis=0))


def test_dense_refuses_compact_input():
    message = (r"^Double needs every unit of its input, which carries Kept\(3 of 6: 1 of every 2 from 0\); "
               r"call functions.expand on it first$")
    with pytest.raises(ShapeError, match=message):
        Double().apply(Tensor(np.ones((2, 3))), compact())


def test_native_says_itself_what_it_carries():
    y = Native().apply(compact())
    assert (y.kept, y.kept_axis, y.shape) == (OTHER, 0, (6, 2))


def test_inputs_may_be_plain_arrays():
    assert Double().apply(np.ones(2), [1, 1]).numpy().tolist() == [4, 4]


def test_nothing_is_remembered_where_nobody_wants_a_gradient():
    y = Double().apply(Tensor(np.ones(2)))
    assert y.creator is None and not y.requires_grad
    function = Double()
    with no_grad():
        y = function.apply(Tensor(np.ones(2), requires_grad=True))
    assert y.creator is None and not y.requires_grad and not hasattr(function, "seen")
    assert Double().apply(Tensor(np.ones(2), requires_grad=True)).creator is not None


class Doubler:
    """Methods under no_grad, and what they see of it."""

    @no_grad()
    def once(self, x):
        return Double().apply(x)

    @no_grad
    def bare(self, x):
        return Double().apply(x)

    @no_grad()
    def steps(self, x):
        """Steps."""
        for _ in range(2):
            try:
                x = x + (yield Double().apply(x))
            except KeyError:
                x = x * 10
        return x


def test_no_grad_decorates_functions_and_generators():
    x, own = Tensor(np.ones(2), requires_grad=True), Doubler()
    for y in (own.once(x), own.bare(x)):
        assert not y.requires_grad and y.data.tolist() == [2, 2]
    steps = own.steps(x)
    assert Doubler.steps.__doc__ == "Steps." and not next(steps).requires_grad
    assert Double().apply(x).requires_grad                  # between two steps of the generator
    assert steps.send(Tensor(np.ones(2))).data.tolist() == [4, 4]
    with pytest.raises(StopIteration) as end:
        steps.throw(KeyError())
    assert end.value.value.data.tolist() == [20, 20] and not end.value.value.requires_grad
    left = own.steps(x)
    next(left)
    left.close()
    assert Double().apply(x).requires_grad


def test_no_grad_decorates_nothing_else():
    with pytest.raises(TypeError, match="no_grad takes a function, as a decorator, or nothing; got False"):
        no_grad(False)


def test_no_grad_ends_with_an_error_too():
    with pytest.raises(KeyError), no_grad():
        raise KeyError
    assert Double().apply(Tensor(np.ones(2), requires_grad=True)).requires_grad
    with no_grad():
        with no_grad():
            pass
        assert not Double().apply(Tensor(np.ones(2), requires_grad=True)).requires_grad


def test_unwanted_gradients_are_not_asked_for():
    asked = []

    class Spy(Double):
        def backward(self, backend, gy, wanted):
            asked.append(wanted)
            return super().backward(backend, gy, wanted)
    a, b = Tensor(np.ones(2), requires_grad=True), Tensor(np.ones(2))
    Spy().apply(a, b).backward(np.ones(2))
    assert asked == [(True, False)] and b.grad is None and a.grad.tolist() == [2, 2]


def test_several_outputs_and_one_that_nobody_reads():
    x = Tensor(np.ones(2), requires_grad=True)
    first, second = Pair().apply(x)
    second.backward(np.ones(2))
    assert x.grad.tolist() == [10, 10]
    first, second = Pair().apply(x)
    function = first.creator
    (first + second).backward(np.ones(2))
    assert x.grad.tolist() == [21, 21]
    assert not hasattr(function, "got"), "what was saved for backward is dropped"


def test_a_tuple_of_one_output():
    x = Tensor(np.ones((3, 2)), requires_grad=True)
    y, = One().apply(x)
    y.backward(np.ones(y.shape))
    assert x.grad.tolist() == [[3, 3]] * 3


@pytest.mark.parametrize("method", ["forward", "backward"])
def test_a_function_must_say_what_it_computes(method):
    with pytest.raises(NotImplementedError):
        getattr(Function(), method)(None, None, None)


def test_plain_arrays_go_to_the_device_of_the_tensors():
    class Elsewhere(Backend):
        moved = 0

        def asarray(self, x, dtype=None):
            self.moved += 1
            return super().asarray(x, dtype)

    backend = Elsewhere()
    scores = Tensor(np.zeros((2, 3)), backend=backend)
    assert functions.softmax_cross_entropy(scores, [0, 2]).backend is backend
    assert functions.add([[1, 2, 3]], Tensor(np.ones((1, 3)), backend=backend)).backend is backend
    assert backend.moved == 2


def subclasses(kind):
    for one in kind.__subclasses__():
        yield one
        yield from subclasses(one)


def test_what_our_functions_store_has_slots():
    ours = [kind for kind in subclasses(Function) if kind.__module__.startswith("minidrop.")]
    assert len(ours) > 25 and [kind for kind in ours if kind.__dictoffset__] == []


def test_release_forgets_what_was_stored_with_and_without_slots():
    for kind, name in ((functions.activation.Sigmoid, "y"), (Double, "seen")):
        y = kind().apply(Tensor(np.ones((2, 3)), requires_grad=True))
        function = y.creator
        assert getattr(function, name) is not None
        y.backward(np.ones((2, 3)))
        assert not hasattr(function, name) and function.inputs is None


def test_watches_of_backward_add_up():
    seen = []

    def watch(name):
        def watching(backward):
            def watched(*arguments):
                seen.append(name)
                return backward(*arguments)
            return watched
        return watching
    y = functions.sigmoid(Tensor(np.zeros(3), requires_grad=True))
    y.creator.watch_backward(watch("inner"))
    y.creator.watch_backward(watch("outer"))
    y.backward(np.ones(3))
    assert seen == ["outer", "inner"]


class Power(Function):
    """y = x ** number, of which backward reads what forward has stored."""

    def __init__(self, number):
        self.number = number

    def forward(self, backend, x):
        self.x = x
        return x ** self.number

    def backward(self, backend, gy, wanted):
        return gy * self.number * self.x ** (self.number - 1)


class Square(Function):
    __slots__ = ("x",)

    def forward(self, backend, x):
        self.x = x
        return x * x

    def backward(self, backend, gy, wanted):
        return 2 * self.x * gy


@in_turn("make", [lambda: Power(2), Square])
def test_one_object_computes_several_times(make):
    square, leaves = make(), [Tensor(np.array([value]), requires_grad=True) for value in (1.0, 5.0, 3.0)]
    first, second = square.apply(leaves[0]), square.apply(leaves[1])
    (first + second).backward()
    square.apply(square.apply(leaves[2])).backward()        # x ** 4
    assert [leaf.grad.tolist() for leaf in leaves] == [[2], [10], [108]]
    x = Tensor(np.array([2.0]), requires_grad=True)
    twice = nn.Sequential(nn.Lambda(square.apply), nn.Lambda(square.apply))     # one object in two layers
    twice.to(dtype="float64")(x).backward()
    assert x.grad.tolist() == [32]


@in_turn("returned, error, words", [
    (lambda gy: gy, GraphError, "Mine: backward returned 1 gradients for 2 inputs; a tuple has one for each"),
    (lambda gy: (gy, gy, gy), GraphError, "Mine: backward returned 3 gradients for 2 inputs"),
    (lambda gy: (2.0, gy), GraphError, "Mine: backward returns arrays of real numbers, a tuple of them for "
                                       "several inputs, got float"),
    (lambda gy: ([gy], gy), GraphError, "several inputs, got list"),
    (lambda gy: (Tensor(gy), None), GraphError, "several inputs, got Tensor of float64"),
    (lambda gy: (gy * 1j, gy), GraphError, "several inputs, got ndarray of complex128"),
    (lambda gy: (gy, gy[:1]), ShapeError, "a gradient of shape (1,) for an input of shape (2,)"),
])
def test_what_backward_may_return(returned, error, words):
    class Mine(Double):
        def backward(self, backend, gy, wanted):
            return returned(gy)

    x, y = (Tensor(np.ones(2), requires_grad=True) for _ in range(2))
    with pytest.raises(error, match="^.*" + re.escape(words)):
        Mine().apply(x, y).sum().backward()
    with pytest.raises(error, match="^.*" + re.escape(words)):
        Mine().apply(Parameter(np.ones(2)), y).sum().backward()


def test_who_writes_a_function_as_for_pytorch_is_told_what_to_write():
    class Theirs(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x

    with pytest.raises(TypeError, match=r"^a Function is an object for each call, so write MyFunction\(\)"):
        Double.apply(Tensor(np.ones(2)))
    with pytest.raises(AttributeError, match="'save_for_backward'; a Function keeps what backward needs on "):
        Theirs().apply(Tensor(np.ones(2)))
    with pytest.raises(AttributeError, match="^NumpyBackend has no attribute 'zzz'$"):
        _ = Tensor(np.ones(2)).backend.zzz
