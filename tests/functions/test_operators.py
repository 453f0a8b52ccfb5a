"""Operators, methods and functions of tensors: gradients, PyTorch, dtypes, errors."""

import gc
import operator
import weakref

import numpy as np
import pytest
from cases import in_turn
from compact_tensors import EVEN, compact_and_dense
from operator_cases import PAIRS, SHARED, X, numbers

import minidrop as md
from minidrop import Kept, Parameter, Tensor, check_gradients, functions
from minidrop.backend import Backend
from minidrop.errors import BackendError, DataError, PlaceError, ShapeError, TensorError

# A step of the numerical gradient would change which entry is the largest, or what has no gradient.
NOT_NUMERICALLY = {"x.max ties", "x.detach", "2 // x, 2 % x", "x // y, x % y", "x // 0.7, x % 0.7"}


@in_turn("name", [name for name in SHARED if name not in NOT_NUMERICALLY])
def test_gradient(name):
    check_gradients(*SHARED[name])


@in_turn("name", [name for name in PAIRS if "weighted" not in name and name != "maximum of equals"])
def test_gradient_of_a_function(name):
    function, *arrays = PAIRS[name]
    wanted = [np.asarray(a).dtype.kind == "f" and (i == 0 or "einsum" in name) for i, a in enumerate(arrays)]
    check_gradients(lambda *xs: function(functions, functions, *xs), *arrays, wanted=wanted)


@pytest.mark.filterwarnings("ignore:reduction. 'mean'")         # of kl_div
class TestAgainstTorch:
    @pytest.fixture(autouse=True)
    def reference(self):
        self.torch = pytest.importorskip("torch", reason="PyTorch (the extra `peers`) is the reference here")

    @in_turn("name", SHARED)
    def test_operators(self, agrees_with_torch, dtype, name):
        function, *arrays = SHARED[name]
        agrees_with_torch(function, function, *map(_rounded, arrays))

    @in_turn("name", PAIRS)
    def test_functions(self, agrees_with_torch, name):
        function, *arrays = PAIRS[name]
        agrees_with_torch(lambda *xs: function(functions, functions, *xs),
                          lambda *xs: function(self.torch.nn.functional, self.torch, *xs),
                          *map(_rounded, arrays))


def _rounded(array):
    """Floating-point numbers that both dtypes represent, so that no comparison depends on the dtype."""
    return array.astype(np.float32).astype(np.float64) if np.asarray(array).dtype.kind == "f" else array


# -- dtypes --------------------------------------------------------------------------------------------------
SINGLE, WHOLE = np.float32([1, 2, 3]), np.array([1, 2, 3])


@in_turn("y, dtype", [
    (Tensor(SINGLE) * 2.5, "float32"), (2 ** Tensor(SINGLE), "float32"), (1 / Tensor(SINGLE), "float32"),
    (Tensor(SINGLE) + np.float64(2), "float32"), (np.float64(2) - Tensor(SINGLE), "float32"),
    (Tensor(SINGLE) * WHOLE, "float32"), (WHOLE / Tensor(SINGLE), "float32"),
    (Tensor(SINGLE) * Tensor(WHOLE), "float32"), (Tensor(SINGLE) + SINGLE.astype("f8"), "float64"),
    (Tensor(SINGLE) + [1.0, 2.0, 3.0], "float32"), (Tensor(SINGLE) * True, "float32"),
    (Tensor(SINGLE.astype("f8")) * np.float32(0.5), "float64"), (Tensor(SINGLE).sum() * 2.0, "float32"),
    (Tensor(WHOLE) + 1, "int64"), (Tensor(WHOLE) * 0.5, "float32"), (Tensor(WHOLE) / 2, "float32"),
    (Tensor(WHOLE).mean(), "float32"), (Tensor(WHOLE).sqrt(), "float32"), (-Tensor(WHOLE), "int64"),
    ((Tensor(SINGLE) > 1) + 1, "int64"), ((Tensor(SINGLE) > 1) * 2.0, "float32"),
    ((Tensor(SINGLE) > 1).sum(), "int64"), ((Tensor(SINGLE) > 1).mean(), "float32"),
    ((Tensor(SINGLE) == WHOLE), "bool"), (~(Tensor(SINGLE) == 2) & (Tensor(SINGLE) > 1), "bool"),
    (Tensor(SINGLE).argmax(), "int64"), (Tensor(SINGLE) @ WHOLE, "float32"), (Tensor(WHOLE) @ WHOLE, "int64"),
    (functions.where(WHOLE > 1, Tensor(SINGLE), 0), "float32"), (functions.where(WHOLE > 1, 1, 0), "int64"),
    (functions.where(WHOLE > 1, 1.0, 0), "float32"), (functions.cat([Tensor(SINGLE), WHOLE]), "float32"),
    (Tensor(SINGLE).float(), "float32"), (Tensor(SINGLE).double(), "float64"),
    (Tensor(SINGLE).long(), "int64"), (Tensor(SINGLE).bool(), "bool"),
    (Tensor(SINGLE).to("float64"), "float64"), (Tensor(SINGLE).to("cpu", "float64"), "float64"),
    (Tensor(SINGLE).to(device="cpu", dtype=np.float64), "float64"),
    (Tensor(SINGLE).to(device="cpu"), "float32"), (Tensor(WHOLE).norm(), "float32"),
    (Tensor(SINGLE).astype(float), "float32"), (Tensor(SINGLE).to(np.int8), "int8"),
    (md.tensor([1.5, 2]), "float32"), (md.tensor([1, 2]), "int64"), (md.tensor([True]), "bool"),
    (md.tensor([]), "float32"), (md.tensor(SINGLE.astype("f8")), "float64"), (md.tensor(2.0), "float32"),
    (md.tensor([1, 2], "float64"), "float64"), (md.tensor(Tensor(SINGLE)), "float32"),
], ids=lambda case: f"{case[1]}: {case[0]}")
def test_dtype(y, dtype):
    assert isinstance(y, Tensor) and y.dtype == dtype


def test_gradients_have_the_dtype_and_shape_of_their_operand():
    x, y = Tensor(SINGLE, True), Tensor(np.ones((2, 3)), True)
    for function in (operator.add, operator.sub, operator.mul, operator.truediv, operator.pow,
                     functions.maximum, lambda a, b: functions.where(b > 0, a, b), lambda a, b: a @ b.T,
                     lambda a, b: functions.cat([a[None], b])):
        x.clear_grad()
        y.clear_grad()
        function(x, y).sum().backward()
        assert (x.grad.dtype, x.grad.shape, y.grad.dtype, y.grad.shape) == ("f4", (3,), "f8", (2, 3))


# -- what is no differentiable operation ---------------------------------------------------------------------
def test_comparisons():
    x = Tensor(np.array([1.0, 2.0, 3.0]), True)
    for symbol in (operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne):
        for other in (2, 2.0, np.array([3.0, 2.0, 1.0]), Tensor([3.0, 2.0, 1.0]), [3, 2, 1], np.array(2)):
            plain = other.numpy() if isinstance(other, Tensor) else np.asarray(other)
            y = symbol(x, other)
            assert isinstance(y, Tensor) and not y.requires_grad and y.dtype == bool
            assert y.tolist() == symbol(x.data, plain).tolist()
            if not isinstance(other, list):
                assert symbol(other, x).tolist() == symbol(plain, x.data).tolist()
    assert (x == None) is False and (x != "a") is True and x != object()        # noqa: E711
    with pytest.raises(TypeError):
        x < None        # noqa: B015
    with pytest.raises(ShapeError, match=r"^==: shapes \(3,\) and \(2,\) do not broadcast"):
        x == np.zeros(2)        # noqa: B015


def test_tensors_are_dictionary_keys_by_identity():
    x, y = Tensor([1.0]), Tensor([1.0])
    places = {x: 1, y: 2}
    assert places[x] == 1 and places[y] == 2 and len({x, y, x}) == 2


def test_truth_length_and_iteration():
    assert bool(Tensor([[2.0]])) and not Tensor(0.0) and (Tensor([1.0, 1.0]) == 1).all()
    with pytest.raises(TensorError, match=r"a tensor of shape \(2,\) is neither true nor false; use x.any"):
        bool(Tensor([1.0, 1.0]))
    with pytest.raises(TensorError):
        bool(Tensor([]))
    assert len(Tensor(X)) == 4 and len(compact_and_dense(EVEN, 0)[0]) == 7
    for call in (len, iter):
        with pytest.raises(TypeError, match="single number and has no length"):
            call(Tensor(1.0))
    assert [row.shape for row in Tensor(X)] == [(7,)] * 4 and list(Tensor(np.zeros((0, 3)))) == []
    assert 2.0 in Tensor([1.0, 2.0]) and 3 not in Tensor([1.0, 2.0])
    assert [10, 20, 30][Tensor(1)] == 20 and int(Tensor([3.7])) == 3
    with pytest.raises(TypeError, match="whole number"):
        [1, 2][Tensor(1.0)]


@in_turn("symbol, change", [("+", operator.iadd), ("-", operator.isub), ("*", operator.imul),
                            ("/", operator.itruediv), ("**", operator.ipow), ("//", operator.ifloordiv),
                            ("%", operator.imod), ("@", operator.imatmul)])
def test_nothing_is_changed_in_place(symbol, change):
    other = X.T.copy() if symbol == "@" else 2.0
    for leaf in (Parameter(X.copy()), Tensor(X.copy(), True)):
        with pytest.raises(TensorError) as caught:
            change(leaf, other)
        assert f"x {symbol}= y would make another tensor" in str(caught.value)
        with md.no_grad(), pytest.raises(TensorError):
            change(leaf, other)
        assert (leaf.data == X).all()
    x = before = Tensor(X.copy())
    x = change(x, other)
    assert x is not before and (before.data == X).all()


def test_entries_are_not_assigned_to():
    x = Tensor(X.copy())
    with pytest.raises(TensorError, match=r"use where\(mask, value, x\), or x.data"):
        x[0] = 1.0
    assert (x.data == X).all()


def test_a_deep_graph_of_operators():
    x = y = Tensor(np.array([1.0, 2.0]), True)
    for _ in range(5000):
        y = y * 1.0001 + 1e-6 - 1e-6
    y.sum().backward()
    np.testing.assert_allclose(x.grad, 1.0001 ** 5000, rtol=1e-9)


@in_turn("call", [lambda x, n: x * n, lambda x, n: n - x, lambda x, n: x ** n, lambda x, n: x / n,
                  lambda x, n: functions.where(x > 0, x, n), lambda x, n: functions.where(x > 0, n, x),
                  lambda x, n: functions.maximum(x, n), lambda x, n: (x < n) * x])
@in_turn("dtype", ["float32", "float64", "int64"])
def test_an_array_without_axes_changes_no_width(dtype, call):
    """As a number, whatever holds it: NumPy's own rule would make float32 float64."""
    x = Tensor(X.astype("float32"), True)
    found, expected = call(x, np.array(2, dtype)), call(x, np.dtype(dtype).type(2))
    assert found.dtype == expected.dtype == np.float32
    np.testing.assert_array_equal(found.numpy(), expected.numpy())


@in_turn("number", [np.complex64(2 + 1j), np.array(2 + 1j)])
@in_turn("call", [lambda x, n: x * n, lambda x, n: n - x, lambda x, n: x < n,
                  lambda x, n: functions.where(x > 0, x, n)])
def test_a_complex_number_is_refused(number, call):
    """Its imaginary part was left out."""
    with pytest.raises(md.TensorError, match="expected an array of real numbers, got one of dtype complex"):
        call(Tensor(SINGLE), number)


def test_the_same_numbers_again():
    def gradients():
        x, index = Tensor(X.astype("f4"), True), np.random.default_rng(0).integers(0, 4, (50, 3))
        y = (x[index].exp() @ x.T[:, :2]).softmax(1).std() + (x[index[:, 0], index[:, 1]] ** 2).mean()
        y.backward()
        return y.numpy().tobytes() + x.grad.tobytes()
    assert gradients() == gradients()


def test_what_a_graph_holds_is_freed():
    x = Tensor(X, True)
    hidden = (x * 2).exp()
    function, held = hidden.creator, weakref.ref(hidden.data)
    loss = (hidden * hidden).sum()
    del hidden
    gc.disable()        # without cycles, no collection is needed
    try:
        loss.backward()
        assert held() is None and function.inputs is None and not hasattr(function, "y")
    finally:
        gc.enable()
    with pytest.raises(RuntimeError, match="^Sum: backward has already run"):
        loss.backward()


def test_no_grad_as_a_context_and_as_a_decorator():
    x = Tensor(X, True)

    @md.no_grad()
    def predict():
        return (x @ x.T).softmax(1)[0]

    with md.no_grad():
        assert not (x + 1).requires_grad
    assert not predict().requires_grad and (x + 1).requires_grad


# -- indexing ------------------------------------------------------------------------------------------------
@in_turn("index", [
    ([[1, 1], [-1, 0]],), (np.array([[True, False, True, False]]).reshape(4), [0, 1]),
    (np.int64(2), slice(1, 3)), (slice(None), np.array([[1], [1]])), (None, [3, 3, 3], ...),
    ([], slice(None)), (True,), ([True, False] * 2,),
    (np.array([[2, 2], [2, 2]]), np.array([[1, 1], [1, 2]])), (Tensor([1, 1, 3]),), (..., Tensor([0, 0])),
    ([0, 1], [0, 1], None), ([[0], [1]], [[0, 1]])])
def test_index(index):
    plain = tuple(np.array(one, None if one else int) if isinstance(one, list) else
                  one.numpy() if isinstance(one, Tensor) else one for one in index)
    np.testing.assert_array_equal(Tensor(X)[index].numpy(), X[plain])
    check_gradients(lambda x: x[index], X)


@in_turn("index, message", [
    ((4,), "index 4 is out of range: axis 0 of shape (4, 7) has 4 entries"),
    ((0, -8), "index -8 is out of range: axis 1 of shape (4, 7) has 7 entries"),
    ((..., 7), "index 7 is out of range: axis 1 of shape (4, 7) has 7 entries"),
    (([0, 4],), "index 4 is out of range: axis 0 of shape (4, 7) has 4 entries"),
    ((slice(None), np.array([[0, -9]])), "index -9 is out of range: axis 1 of shape (4, 7) has 7 entries"),
    ((0, 0, 0), "an index of 3 axes does not fit a tensor of shape (4, 7)"),
    ((..., ...), "an index has at most one ellipsis (...)"),
    ((np.array([True, False]),), "a mask of shape (2,) does not fit axes 0 to 0 of a tensor of shape "
     "(4, 7)"),
    (([0, 1], [0, 1, 2]), "index arrays of shapes (2,), (3,) do not broadcast"),
    (([0, 1], np.arange(7) < 3), "index arrays of shapes (2,), (7,) do not broadcast; a mask counts as one "
     "entry for each truth")])
def test_a_wrong_index(index, message):
    with pytest.raises(PlaceError) as caught:
        Tensor(X)[index]
    assert str(caught.value) == message and isinstance(caught.value, IndexError)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_of_no_entries(name):
    for shape in ((3, 0), (0, 3), (2, 0, 3)):
        for axis in range(-len(shape), len(shape)):
            x = Tensor(np.zeros(shape), requires_grad=True)
            y = getattr(functions, name)(x, axis)
            y.sum().backward()
            assert y.shape == x.grad.shape == shape and y.dtype == x.dtype


def test_an_index_of_another_kind():
    for index, message in ((1.5, "not with float"), ("a", "not with str"), ([0.5], "got dtype float64"),
                           (Tensor([1.0]), "got dtype float32"), (slice(0, 2, 0), "cannot be 0")):
        with pytest.raises(TensorError, match=message):
            Tensor(X)[index]


def test_the_index_of_a_caller_may_change_afterwards():
    x, index, mask = Tensor(X, True), np.array([0, -1]), np.array([True, False, False, False])
    y = x[index].sum() + x[mask].sum()
    assert index.tolist() == [0, -1]
    index[:], mask[:] = 2, True
    y.backward()
    assert x.grad[:, 0].tolist() == [2, 0, 0, 1]


def test_rows_of_a_parameter_have_a_gradient_of_these_rows_alone():
    for shape in ((6, 3), (6,), (6, 2, 2)):
        W, like = Parameter(numbers(*shape)), Tensor(numbers(*shape), True)
        for x in (W, like):
            (x[[[4, 1], [4, -2]]] * numbers(2, 2, *shape[1:])).sum().backward()
        assert [block.rows for block in W.blocks] == [Kept.of([1, 4], 6)]
        np.testing.assert_allclose(W.grad, like.grad)


# -- errors --------------------------------------------------------------------------------------------------
@in_turn("call, error, message", [
    (lambda x: x + np.zeros(3), ShapeError, "+: shapes (4, 7) and (3,) do not broadcast: read from the last "
     "axis on, lengths must be equal, or one of them 1"),
    (lambda x: functions.where(x > 0, x, np.zeros(3)), ShapeError,
     "where: shapes (4, 7) and (3,) do not broadcast"),
    (lambda x: x + "a", TensorError, "expected a tensor, an array or a number, got str"),
    (lambda x: None * x, TensorError, "expected a tensor, an array or a number, got NoneType"),
    (lambda x: x * 1j, TensorError, "expected a tensor, an array or a number, got complex"),
    (lambda x: x * np.array(["a"]), TensorError, "expected an array of real numbers, got one of dtype <U1"),
    (lambda x: x @ x, ShapeError, "@: shapes (4, 7) and (4, 7) do not fit: the last axis of the first has 7 "
     "entries, axis 0 of the second 4"),
    (lambda x: x @ 2, ShapeError, "@ multiplies matrices and vectors, got shapes (4, 7) and (); * is"),
    (lambda x: functions.einsum("ij,jk->ik", x), ShapeError, "einsum: 'ij,jk->ik' is for 2 operands, got 1"),
    (lambda x: functions.einsum("ijk->i", x), ShapeError,
     "einsum: 'ijk' in 'ijk->i' does not fit an operand of"),
    (lambda x: functions.einsum("ii->i", x), ShapeError,
     "einsum: 'ii' in 'ii->i': expected different letters"),
    (lambda x: functions.einsum("...i->i", x), ShapeError,
     "einsum: '...i' in '...i->i': expected different "),
    (lambda x: functions.einsum("ij,jk->ik", x, x), ShapeError, "einsum: index 'j' of 'ij,jk->ik' has the "
     "lengths 7 and 4"),
    (lambda x: functions.einsum("ij->k", x), ShapeError,
     "einsum: the result of 'ij->k' has an index that no"),
    (lambda x: x.sum(2), ShapeError, "axis 2 does not exist: the tensor has 2 axes"),
    (lambda x: x.sum((0, -2)), ShapeError, "axes (0, -2) name one axis twice"),
    (lambda x: x.sum(0.5), TensorError, "an axis is a whole number, got 0.5"),
    (lambda x: x.sum(axis=1, dim=1), TensorError, "sum: dim and axis are one argument; keep one of them"),
    (lambda x: x.softmax(0, dim=1), TensorError, "softmax: dim and axis are one argument; keep one of them"),
    (lambda x: x.sum(keepdims=True, keepdim=True), TensorError,
     "sum: keepdim and keepdims are one argument; keep one of them"),
    (lambda x: x.cumsum(), TensorError, "cumsum: axis is missing; say along which"),
    (lambda x: x.max(1), TensorError, "max(x, axis=...) takes axis and keepdims, by name, and returns the "
     "entries alone; their places are argmax(x, axis=...), and the maximum of two tensors is maximum(a, b)"),
    (lambda x: x.min(dim=1), TensorError, "min(x, axis=...) takes axis and keepdims"),
    (lambda x: x[:0].max(), ShapeError, "shape (0, 7) has no entries along axes (0, 1) to take a maximum of"),
    (lambda x: x[:0].mean(0), ShapeError, "shape (0, 7) has no entries along axes (0,) to take a mean of"),
    (lambda x: x[:0].argmax(0), ShapeError, "argmax: shape (0, 7) has no entries along axis 0"),
    (lambda x: x[:1].var(0), ShapeError, "a variance of 1 entry with correction 1 divides by 0; pass "),
    (lambda x: x.reshape(5, 6), ShapeError, "shape (4, 7) of 28 entries cannot become (5, 6)"),
    (lambda x: x.reshape(-1, -1), ShapeError, "shape (4, 7) of 28 entries cannot become (-1, -1)"),
    (lambda x: x.reshape(0, -1), ShapeError, "shape (4, 7) of 28 entries cannot become (0, -1)"),
    (lambda x: x.reshape("a"), TensorError, "expected whole numbers, got 'a'"),
    (lambda x: x.permute(0, 0), ShapeError, "permute needs each of the 2 axes of x once, got (0, 0)"),
    (lambda x: x.transpose(0), ShapeError, "transpose exchanges two axes, got (0,); permute takes"),
    (lambda x: x.squeeze(0), ShapeError, "squeeze: axis 0 of shape (4, 7) has not the length 1"),
    (lambda x: x.broadcast_to(3, 7), ShapeError, "shape (4, 7) does not broadcast to (3, 7)"),
    (lambda x: x.flatten(1, 0), ShapeError, "flatten: axis 1 comes after axis 0 in shape (4, 7)"),
    (lambda x: x.split([1, 2], 1), ShapeError,
     "split: sizes [1, 2] do not add up to the 7 entries of axis 1"),
    (lambda x: x.split(0), ShapeError, "split: parts of 0 entries; expected 1 or more"),
    (lambda x: functions.cat([]), TensorError, "cat takes a list of one or more tensors, got an empty one"),
    (lambda x: functions.stack(x), TensorError, "stack takes a list of one or more tensors, got one tensor"),
    (lambda x: functions.cat([x, x.T]), ShapeError,
     "cat along axis 0: lengths of all other axes must be equal"),
    (lambda x: functions.stack([x, x.T]), ShapeError,
     "stack: tensors of one shape expected, got (4, 7), (7, 4)"),
    (lambda x: x.astype("floot"), TensorError,
     "unknown dtype 'floot'; expected one of NumPy's, e.g. 'float32'"),
    (lambda x: x.astype(complex), TensorError, "a tensor holds real numbers, integers or truth values, not "),
    (lambda x: x.to("cuba"), TensorError, "unknown dtype 'cuba'"),
    (lambda x: x.item(), ShapeError, "tensor of shape (4, 7) is no single number"),
    (lambda x: x & x, TensorError, "& joins bool or integer tensors, got float64 and float64; compare first"),
    (lambda x: ~x, TensorError, "~ inverts bool or integer tensors, got float64"),
    (lambda x: functions.mse_loss(x, x[0]), ShapeError,
     "mse_loss: input and target need one shape, got (4, 7) "
     "and (7,)"),
    (lambda x: functions.mse_loss(x, x, "meen"), TensorError,
     "unknown reduction 'meen'; did you mean 'mean'?"),
    (lambda x: functions.huber_loss(x, x, delta=0), ShapeError, "huber_loss: delta must be above 0, got 0"),
    (lambda x: functions.smooth_l1_loss(x, x, beta=-1), ShapeError,
     "smooth_l1_loss: beta must not be below 0"),
    (lambda x: functions.cross_entropy(x, [0, 1, 2, 7]), DataError,
     "label 7 at place 3 of the batch is out of"),
    (lambda x: functions.nll_loss(x, [0, 1, 2, 7]), DataError,
     "label 7 at place 3 of the batch is out of range"),
    (lambda x: functions.cross_entropy(x, [0, 1, 2, 3], weight=[1.0]), ShapeError, "weight of shape (1,): "
     "expected one number for each of the 7 classes"),
    (lambda x: functions.cross_entropy(x, [0, 1]), ShapeError, "expected 4 labels, one for every row"),
    (lambda x: functions.binary_cross_entropy(x, x), DataError, "binary_cross_entropy: a probability lies "
     "outside 0..1; scores go to binary_cross_entropy_with_logits"),
    (lambda x: (x * 2).requires_grad_(), TensorError, "this tensor was computed by a function"),
    (lambda x: Tensor([1, 2]).requires_grad_(), TensorError,
     "only real numbers have a gradient, got dtype int64"),
    (lambda x: md.tensor([1, 2], requires_grad=True), TensorError,
     "only real numbers have a gradient, got dtype "),
    (lambda x: md.tensor([[1.0], [1.0, 2.0]]), TensorError, "nested lists of unequal lengths are no array"),
    (lambda x: md.tensor(["a"]), TensorError, "expected an array of real numbers, got one of dtype <U1"),
], ids=lambda case: case[2])
def test_errors(call, error, message):
    with pytest.raises(error) as caught:
        call(Tensor(X, True))
    assert str(caught.value).startswith(message)


def test_a_loss_that_counts_no_place():
    x = Tensor(X, True)
    for function in (functions.cross_entropy, functions.nll_loss):
        assert float(function(x, [-100] * 4)) == 0
    with np.errstate(divide="ignore"):
        rows = Tensor(np.log(np.eye(4, 7)), True)
    y = functions.nll_loss(rows, [-100, 1, 2, 3])       # an ignored place whose class 0 is impossible
    y.backward()
    assert float(y) == 0 and np.isfinite(rows.grad).all()


# -- devices -------------------------------------------------------------------------------------------------
class Elsewhere(Backend):
    """Another device, on the host."""

    name = "elsewhere"


def test_moving_to_another_device_passes_the_gradient():
    there = Elsewhere()
    x = Tensor(X, True)
    assert x.cpu() is x and x.to("cpu") is x and x.to(x) is x
    y = x.to(there)
    assert y.device == "elsewhere" and y.requires_grad
    (y * 3).sum().backward()
    assert (x.grad == 3).all()
    compact = functions.take(x, EVEN).to(there)
    assert compact.kept == EVEN and compact.to(x).device == "cpu"
    with pytest.raises(BackendError, match=r"operands are on two devices, cpu and elsewhere; move one with "
                                           r".to\('cpu'\)"):
        x + y


def test_a_leaf_made_by_tensor_is_a_copy():
    array = X.copy()
    x = md.tensor(array, requires_grad=True)
    array[:] = 0
    assert (x.data == X).all() and x.is_leaf and x.requires_grad and not (x * 2).is_leaf
    assert md.tensor(X, "float32", "cpu").requires_grad is False
    assert md.tensor(compact_and_dense(EVEN)[0]).kept is None


def test_functions_stay_valid_on_arrays():
    assert (functions.add([[1.0, 2.0]], [[3.0, 4.0]])).tolist() == [[4, 6]]
    assert functions.sqrt(np.array([4.0])).tolist() == [2] and functions.sum([1, 2]).item() == 3
    assert functions.maximum([Tensor([1.0]), Tensor([2.0])]).tolist() == [2]


# -- what must not be silent ---------------------------------------------------------------------------------
@pytest.mark.parametrize("compute, message", [
    (lambda: Tensor(np.arange(3, dtype=np.uint8)) + 300, "^[+]: uint8 cannot hold 300; convert the"),
    (lambda: -1 * Tensor(np.arange(3, dtype=np.uint8)), "^[*]: uint8 cannot hold -1; convert the"),
    (lambda: Tensor(np.arange(3)) ** -1, r"^int64 \*\* int64: .*; convert an operand first, as in x.astype"),
    (lambda: Tensor([True]) - Tensor([True]), "^bool - bool: .*; convert an operand first"),
    (lambda: Tensor([1.0]) * [Tensor([1.0], True)], "^a list of tensors would lose their gradients; join"),
    (lambda: functions.where([True], [[Tensor(1.0, True)]], 0.0), "^a list of tensors would lose their"),
    (lambda: Tensor(SINGLE).norm(1), "takes axis and keepdims by name; that of order 1 is x.abs"),
    (lambda: Tensor(SINGLE).norm(p=1), "takes axis and keepdims by name"),
    (lambda: Tensor(SINGLE).std(False), "an axis is a whole number, got False"),
    (lambda: functions.relu(SINGLE, True), "relu: negative_slope: expected a number, got True"),
    (lambda: Tensor(WHOLE) // 0, "whole numbers are divided by 0; convert an operand first"),
    (lambda: f"{Tensor(SINGLE):.2f}", r"of shape \(3,\) has no format '.2f'"),
])
def test_what_would_lose_numbers_or_gradients_is_refused(compute, message):
    with pytest.raises(TensorError, match=message):
        compute()


def test_numbers_have_a_format_and_whole_ones_a_remainder():
    assert f"{md.tensor(1.5):.3f} {md.tensor([[2.0]]):5.1f} {md.tensor(7):d}" == "1.500   2.0 7"
    assert f"{md.tensor(1.5)}" == str(md.tensor(1.5))
    place = md.tensor([5, -7])
    assert ((place // 3).tolist(), (place % 3).tolist(), (17 % md.tensor(5)).item()) == ([1, -3], [2, 2], 2)
    md.check_gradients(lambda a, b: a % b, np.array([1.3, -2.2, 5.1]), np.array([0.4, 0.9, -1.1]))


def test_the_deviation_of_equal_entries_has_the_derivative_0():
    x = Tensor(np.array([[3.0, 3.0], [1.0, 2.0]]), True)
    x.std(1).sum().backward()
    np.testing.assert_allclose(x.grad, [[0, 0], [-np.sqrt(0.5), np.sqrt(0.5)]], rtol=1e-12)
