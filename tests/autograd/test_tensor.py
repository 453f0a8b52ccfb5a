"""Tensor and Parameter: logical against physical, and how gradients gather."""

import copy
import pickle

import numpy as np
import pytest

from minidrop import Kept, Parameter, ShapeError, Tensor, functions
from minidrop.autograd import Block
from minidrop.errors import TensorError

KEPT = Kept(1, 3, 1, 8)         # 1, 4, 7


def test_a_dense_tensor():
    x = Tensor(np.arange(6.0).reshape(2, 3), name="x")
    assert x.shape == (2, 3) and x.ndim == 2 and x.dtype == np.float64
    assert x.kept is None and x.grad is None and not x.requires_grad
    assert x.numpy().tolist() == [[0, 1, 2], [3, 4, 5]]
    assert repr(x) == ("Tensor(x, [[0., 1., 2.],\n           [3., 4., 5.]],\n"
                       "          shape=(2, 3), float64, cpu)")


def test_a_compact_tensor_shows_its_logical_self():
    x = Tensor(np.array([[1.0, 2.0, 3.0]]), kept=KEPT)
    assert x.shape == (1, 8) and x.data.shape == (1, 3)
    assert x.numpy().tolist() == [[0, 1, 0, 0, 2, 0, 0, 3]]
    assert np.asarray(x).tolist() == x.numpy().tolist()
    assert repr(x) == ("Tensor([[0., 1., 0., 0., 2., 0., 0., 3.]], shape=(1, 8), float64, cpu, axis 1 "
                       "Kept(3 of 8: 1 of every 3 from 1))")


def test_a_kept_set_on_the_first_axis():
    x = Tensor(np.ones((3, 2), np.float32), kept=KEPT, kept_axis=0)
    assert x.shape == (8, 2) and x.numpy()[:, 0].tolist() == [0, 1, 0, 0, 1, 0, 0, 1]


def test_a_kept_set_that_does_not_fit():
    with pytest.raises(ShapeError,
                       match=r"^tensor x: axis 1 of \(1, 4\) should hold the 3 entries of Kept\(3 of 8"):
        Tensor(np.zeros((1, 4)), kept=KEPT, name="x")


def test_lists_become_single_precision():
    assert Tensor([1.0, 2.0]).dtype == np.float32
    assert Tensor([1, 2]).dtype.kind == "i"
    assert Tensor(np.float64(2)).dtype == np.float64


def test_conversion_to_numpy_can_copy():
    x = Tensor(np.zeros(3))
    np.array(x)[0] = 1
    np.array(x, np.float32)[0] = 1
    assert x.data.tolist() == [0, 0, 0]
    assert np.asarray(x, np.float32).dtype == np.float32


def test_float():
    assert float(Tensor(np.array([[2.5]]))) == 2.5
    assert float(Tensor(np.array(2.5))) == 2.5
    with pytest.raises(ShapeError, match=r"^tensor scores of shape \(2,\) is no single number$"):
        float(Tensor(np.zeros(2), name="scores"))


def test_operators():
    a, b = Tensor([1.0, 2.0]), Tensor([3.0, 5.0])
    assert (a + b).numpy().tolist() == [4, 7] and (a * b).numpy().tolist() == [3, 10]


@pytest.mark.parametrize("array", [np.array([3.0, 5.0]), np.float32([3, 5])], ids=["float64", "float32"])
def test_an_array_before_the_operator_loses_no_gradient(array):
    """NumPy would make a plain array of it."""
    x = Parameter(np.array([1.0, 2.0]))
    for y, value, gradient in ((array * x, [3, 10], [3, 5]), (array + x, [4, 7], [1, 1]),
                               (x * array, [3, 10], [3, 5]), (x + array, [4, 7], [1, 1])):
        assert isinstance(y, Tensor) and y.numpy().tolist() == value
        y.backward(np.ones(2))
        assert x.grad.tolist() == gradient
        x.clear_grad()


@pytest.mark.parametrize("call", [lambda a, x: np.exp(x), lambda a, x: np.multiply(a, x),
                                  lambda a, x: np.add(x, a), lambda a, x: x << 2])
def test_what_a_tensor_has_no_operator_for_is_refused(call):
    """A ufunc would compute an array, which has no gradient."""
    with pytest.raises(TypeError):
        call(np.ones(2), Parameter(np.ones(2)))


@pytest.mark.parametrize("shape", [(2,), (3, 1), (0,)])
def test_the_gradient_of_several_numbers_has_to_be_given(shape):
    x = Tensor(np.ones(shape), requires_grad=True)
    with pytest.raises(ShapeError) as caught:
        functions.power(x, 2.0).backward()
    assert str(caught.value) == (f"backward: a tensor of shape {shape} is no single number, whose gradient "
                                 f"is 1; give gy, an array of the physical shape {shape}")
    one = Tensor(np.ones((1, 1)), requires_grad=True)
    functions.power(one, 2.0).backward()
    assert one.grad.tolist() == [[2]]


def test_gradients_of_leaves_add_up():
    x = Tensor(np.array([1.0, 2.0]), requires_grad=True)
    for _ in range(2):
        functions.power(x, 2.0).backward(np.ones(2))
    assert x.grad.tolist() == [4, 8]
    x.clear_grad()
    assert x.grad is None
    functions.power(x, 2.0).backward(np.array([1.0, 10.0]))
    assert x.grad.tolist() == [2, 40]


def parameter(shape=(8, 8)):
    return Parameter(np.zeros(shape), name="ip1.weight")


def test_a_new_parameter():
    W = parameter((2, 3))
    assert W.requires_grad and W.grad is None and W.blocks == [] and (W.lr_mult, W.decay_mult) == (1, 1)
    assert W.dense_grad().tolist() == [[0, 0, 0], [0, 0, 0]] and W.blocks == []
    assert not Parameter(np.zeros(3), lr_mult=0).requires_grad
    assert repr(W).endswith("shape=(2, 3), float64, cpu, requires_grad=True)")
    assert repr(W).startswith("Parameter(ip1.weight, [[0., 0., 0.],\n                       [0., 0., 0.]]")


def test_blocks_at_one_place_are_summed():
    W = parameter()
    for _ in range(3):
        W.accumulate(Block(np.ones((3, 8)), KEPT, None))
    assert len(W.blocks) == 1 and W.blocks[0].data.tolist() == np.full((3, 8), 3.0).tolist()
    assert W.grad.tolist() == [[3.0 if i in (1, 4, 7) else 0.0] * 8 for i in range(8)]


def test_whole_gradients_as_matrix_and_in_the_own_shape_are_summed():
    for first, second in (((2, 3, 4), (2, 12)), ((2, 12), (2, 3, 4))):
        p = Parameter(np.zeros((2, 3, 4)))
        p.accumulate(Block(np.ones(first)))
        p.accumulate(np.full(second, 2.0) if second == p.shape else Block(np.full(second, 2.0)))
        assert len(p.blocks) == 1 and p.grad.shape == p.shape and (p.grad == 3).all()


def test_equal_places_in_another_form_are_one_place():
    W = parameter()
    W.accumulate(Block(np.ones((3, 8)), KEPT))
    W.accumulate(Block(np.ones((3, 8)), Kept.of([1, 4, 7], 8)))
    assert len(W.blocks) == 1


def test_blocks_at_different_places():
    W, rng = parameter(), np.random.default_rng(0)
    expected = np.zeros((8, 8))
    places = [(None, None), (KEPT, None), (None, KEPT), (KEPT, KEPT), (Kept(0, 2, 1, 8), KEPT),
              (Kept(9, 9, 1, 8), None), (Kept(2, 9, 3, 8), Kept.of([0, 5], 8))]
    for rows, cols in places * 2:
        part = rng.standard_normal([8 if kept is None else kept.count for kept in (rows, cols)])
        before = part.copy()
        W.accumulate(Block(part, rows, cols))
        at = np.ix_(*(np.arange(8) if kept is None else kept.indices for kept in (rows, cols)))
        expected[at] += part
        np.testing.assert_allclose(W.dense_grad(), expected, atol=1e-12)
        assert len(W.blocks) <= 4
        assert (part == before).all(), "the caller's array was changed"
    np.testing.assert_allclose(W.grad, expected, atol=1e-12)


def test_what_is_written_to_a_gradient_counts():
    """Also where it came as blocks, of which `grad` is put together; who only reads it leaves them."""
    for places in ([(KEPT, None)], [(KEPT, KEPT), (None, KEPT)], [(None, None)]):
        W = parameter()
        for rows, cols in places:
            shape = [8 if kept is None else kept.count for kept in (rows, cols)]
            W.accumulate(Block(np.ones(shape), rows, cols))
        expected = np.minimum(W.dense_grad(), 0.5)
        assert len(W.blocks) == len(places)
        np.clip(W.grad, -0.5, 0.5, out=W.grad)
        W.grad[0, 0] = expected[0, 0] = 7
        assert (W.grad == expected).all() and (W.dense_grad() == expected).all()
        assert sum(block.size for block in W.blocks) == W.data.size
        W.accumulate(Block(np.ones((3, 8)), KEPT))
        expected[KEPT.indices] += 1
        assert (W.grad == expected).all()


def test_a_gradient_may_be_set():
    W = parameter((2, 2))
    W.accumulate(np.ones((2, 2)))
    assert W.grad.tolist() == [[1, 1], [1, 1]]
    W.grad = np.full((2, 2), 5.0)
    W.accumulate(np.ones((2, 2)))
    assert W.grad.tolist() == [[6, 6], [6, 6]]
    for value in (np.full((2, 2), 1j), np.ma.masked_equal(np.eye(2), 1), np.ones((2, 2), object)):
        with pytest.raises(TensorError, match=r"its gradient is an array of shape \(2, 2\), got "):
            W.grad = value
    assert W.grad.tolist() == [[6, 6], [6, 6]]
    W.clear_grad()
    assert W.grad is None


def test_a_copy_and_a_move_of_a_parameter():
    weight = Parameter(np.arange(6.0).reshape(2, 3), name="w", decay_mult=0.5)
    weight.accumulate(Block(np.ones((1, 3)), Kept(1, 2, 1, 2)))
    weight.require_grad(False)
    other = copy.deepcopy(weight)
    assert (other.name, other.lr_mult, other.decay_mult, other.requires_grad) == ("w", 1, 0.5, False)
    assert other.backend is weight.backend and other.grad.tolist() == [[0, 0, 0], [1, 1, 1]]
    other.data[...] = 7
    assert weight.data.max() == 5
    other.move_to(weight.backend, "float32")
    assert other.dtype == "float32" and other.numpy().tolist() == [[7, 7, 7]] * 2 and other.grad is None


def test_a_tensor_is_copied_but_not_pickled():
    x = Tensor(np.arange(3.0), requires_grad=True)
    (x * x).sum().backward()
    whole, same = copy.deepcopy(x), copy.copy(x)
    assert same.data is x.data and same.requires_grad and whole.requires_grad
    assert whole.backend is x.backend and whole.tolist() == [0, 1, 2] and whole.grad.tolist() == [0, 2, 4]
    whole.data[0] = whole.grad[0] = 7
    assert x.tolist() == [0, 1, 2] and x.grad.tolist() == [0, 2, 4]
    compact = copy.deepcopy(Tensor(np.ones((2, 2)), kept=Kept(0, 2, 1, 4)))
    assert compact.shape == (2, 4) and compact.kept == Kept(0, 2, 1, 4)
    weight = Parameter(np.ones(2), name="w", decay_mult=0.5)
    weight.require_grad(False)
    other = copy.copy(weight)
    assert other.data is weight.data
    assert (type(other), other.name, other.decay_mult, other.requires_grad) == (Parameter, "w", 0.5, False)
    y = copy.copy(x * 2)
    x.clear_grad()
    y.sum().backward()
    assert x.grad.tolist() == [2, 2, 2]
    with pytest.raises(TensorError, match=r"of shape \(3,\) that was computed is no leaf.*copy x.detach\(\)"):
        copy.deepcopy(x * 2)
    for one, kind in ((x, "Tensor"), (weight, "Parameter")):
        with pytest.raises(TensorError, match=rf"a {kind} cannot be pickled: .* pickle x.numpy\(\)"):
            pickle.dumps(one)


def test_a_computed_weight_gets_an_ordinary_gradient(rng):
    """A weight that is itself the result of a function: the compact gradient must reach it dense."""
    x, V = rng.standard_normal((4, 8)), rng.standard_normal((5, 8))
    V_tensor = Tensor(V.copy(), requires_grad=True)
    compact = functions.take(Tensor(x), KEPT)
    y = functions.linear(compact, functions.power(V_tensor, 2.0))
    np.testing.assert_allclose(y.numpy(), (x * KEPT.mask()) @ (V * V).T)
    y.backward(np.ones(y.shape))
    expected = np.broadcast_to((x * KEPT.mask()).sum(axis=0), V.shape) * 2 * V
    np.testing.assert_allclose(V_tensor.grad, expected)


@pytest.mark.parametrize("gy", [np.ones(4), np.ones((1, 4)), 2.0])
def test_a_gradient_of_another_shape_is_refused(gy):
    x = Tensor(np.ones((3, 4), np.float32), requires_grad=True)
    with pytest.raises(ShapeError, match=r"gy should have the physical shape of the tensor, \(3, 4\), got"):
        functions.tanh(x).backward(gy)
    functions.tanh(x).backward(np.ones((3, 4)))
    assert x.grad.dtype == np.float32


def test_a_gradient_that_is_set_has_the_shape_of_the_parameter():
    p = Parameter(np.ones((2, 3), np.float32), name="w")
    for wrong in (np.ones((3, 2)), np.ones(6), 2.0, [[1.0] * 3] * 2, Tensor(np.ones((2, 3)))):
        with pytest.raises(ShapeError, match=r"^w: its gradient is an array of shape \(2, 3\), got "):
            p.grad = wrong
    p.grad = np.full((2, 3), 0.5)
    p.grad *= 2
    assert p.grad.dtype == np.float32 and p.grad.tolist() == [[1, 1, 1], [1, 1, 1]]
    p.grad = None
    assert p.grad is None and not p.blocks


def test_data_that_are_set_take_the_parameters_dtype_and_must_fit():
    """Whole numbers or float64 as weights would silently compute in another dtype."""
    weight = Parameter(np.ones((2, 3), np.float32), name="ip.weight")
    for value in ([[0, 1, 2]] * 2, np.arange(6).reshape(2, 3), np.zeros((2, 3)), Tensor(np.ones((2, 3)))):
        weight.data = value
        assert weight.dtype == np.float32 and isinstance(weight.data, np.ndarray)
        np.testing.assert_array_equal(weight.data, value)
    held = np.zeros((2, 3), np.float32)
    weight.data = held
    assert weight.data is held
    fixed = np.arange(6, dtype="f").reshape(2, 3)
    fixed.flags.writeable = False
    for value in (np.arange(6, dtype="f").reshape(3, 2).T, np.broadcast_to(np.float32(2), (2, 3)), fixed):
        weight.data = value             # what the loops cannot write to is copied
        assert weight.data.flags.c_contiguous and weight.data.flags.writeable
        np.testing.assert_array_equal(weight.data, value)
    weight.data = held
    with pytest.raises(ShapeError, match=r"ip.weight: its data are numbers of shape \(2, 3\), got \(3, 2\)"):
        weight.data = np.ones((3, 2))
    for value in ("abc", None, [[1], [2, 3]], np.ones((2, 3), object), np.ma.masked_equal(np.eye(2, 3), 1)):
        with pytest.raises(TensorError, match="ip.weight: its data are numbers"):
            weight.data = value
    assert weight.data is held
