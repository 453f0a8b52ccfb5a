"""Weight gradients that the update computes itself: their entries, their bits, who else reads them."""

import numpy as np
import pytest
from cases import in_turn
from nets import IMAGES, LOSS, drop, images, ip, layer, net_of

from minidrop import NonFiniteError, Solver
from minidrop.autograd import Block, Parameter
from minidrop.backend import get_backend
from minidrop.backend.numpy import late
from minidrop.backend.numpy.late import LateProduct
from minidrop.config import parse_solver
from minidrop.kept import Kept
from minidrop.kernels import threads, vectors
from minidrop.solver.rule_update import gradient_norm
from minidrop.testing import assert_matches_masked_dense

pytestmark = pytest.mark.skipif(not vectors.BITS, reason="needs AVX2 with FMA, or AVX-512")
BACKEND = get_backend("cpu")
ROWS, COLS = 67, 101
PLACES = {
    "all": [(None, None)],
    "rows": [(Kept(-3, 7, 5, ROWS), None)],
    "tiles of two groups": [(Kept(0, 4, 2, ROWS), Kept(1, 4, 2, COLS)),
                            (Kept(2, 4, 2, ROWS), Kept(-1, 4, 2, COLS))],
    "overlapping": [(Kept(i, 8, 5, ROWS), Kept(i, 40, 19, COLS)) for i in range(3)],
    "lists": [(Kept.of([0, 5, 66], ROWS), Kept.of([0, 1, 2, 50, 99, 100], COLS)), (None, Kept.of([], COLS))],
}


def factors(places, samples=5, dtype=np.float64):
    rng = np.random.default_rng(samples)
    counts = [[n if kept is None else kept.count for kept, n in zip(pair, (ROWS, COLS), strict=True)]
              for pair in places]
    return [[rng.standard_normal((samples, count)).astype(dtype) for count in pair] for pair in counts]


def product(a, b):
    return LateProduct(BACKEND, a, b, late.form_of(a.dtype))


@pytest.fixture
def always(monkeypatch):
    """Make late products of the smallest weights, and count them."""
    made, begin = [], LateProduct.__init__
    monkeypatch.setattr(late, "LEAST_ENTRIES", 1)
    monkeypatch.setattr(late, "MOST_COPIED", np.inf)
    monkeypatch.setattr(late, "LEAST_RUN", 0)
    monkeypatch.setattr(late, "MOST_INNER", np.inf)
    monkeypatch.setattr(LateProduct, "__init__",
                        lambda self, *given: made.append(self) or begin(self, *given))
    return made


@pytest.fixture
def computed(monkeypatch):
    """The late products that are computed as a whole."""
    found, array = [], LateProduct.array
    monkeypatch.setattr(LateProduct, "array", lambda self: found.append(self) or array(self))
    return found


@in_turn("dtype", ["f", "d"])
@in_turn("samples, rows, columns", [(1, 1, 1), (3, 11, 33), (64, 12, 32), (129, 61, 97)])
def test_every_remainder(dtype, samples, rows, columns):
    rng = np.random.default_rng([samples, rows])
    a, b = (rng.standard_normal((samples, n)).astype(dtype) for n in (rows, columns))
    one = product(a, b)
    expected = a.astype(float).T @ b
    a[...] = b[...] = np.nan            # it has copies
    assert one.shape == expected.shape and one.dtype == a.dtype and one.is_surely_finite
    np.testing.assert_allclose(one.array(), expected, atol=1e-12 if dtype == "d" else 1e-4)


@pytest.mark.parametrize("places", PLACES.values(), ids=PLACES.keys())
@in_turn("dtype, l1", [("d", False), ("d", True)])
def test_an_update_has_the_bits_of_that_by_arrays_on_any_number_of_threads(places, dtype, l1, monkeypatch):
    for least in ("_LEAST_ELEMENTS", "_LEAST_SHARED"):
        monkeypatch.setattr(threads, least, 0)
    rng = np.random.default_rng(1)
    W, history = rng.standard_normal((2, ROWS, COLS)).astype(dtype)
    found = []
    for count, is_late in ((1, False), (1, True), (3, True)):
        monkeypatch.setattr(threads, "COUNT", count)
        products = [product(*pair) for pair in factors(places, dtype=dtype)]
        blocks = [Block(one if is_late else one.array(), *pair)
                  for one, pair in zip(products, places, strict=True)]
        found.append((W.copy(), history.copy()))
        BACKEND.sgd_update(*found[-1], blocks, 0.1, 0.9, 0.01, l1, 0.5)
        assert all((block.late is not None) == is_late for block in blocks)
    for others in found[1:]:
        for got, expected in zip(others, found[0], strict=True):
            np.testing.assert_array_equal(got, expected)


def test_what_may_be_infinite_is_computed_and_looked_at():
    a, b = np.full((2, 3), 1e30, np.float32), np.full((2, 4), 1e30, np.float32)
    huge, fine = (Parameter(np.zeros((3, 4), np.float32), BACKEND) for _ in range(2))
    huge.accumulate(Block(product(a, b)))
    fine.accumulate(Block(product(a * np.float32(1e-15), b * np.float32(1e-15))))
    with np.errstate(over="ignore"):
        assert np.isinf(gradient_norm(BACKEND, [fine, huge], exact=False)) and huge.blocks[0].late is None
        assert gradient_norm(BACKEND, [fine], exact=False) == 0 and fine.blocks[0].late is not None
    fine.clear_grad()
    fine.accumulate(Block(product(a, np.full((2, 4), 1e-20, np.float32))))     # a square overflows, no entry
    assert np.isfinite(gradient_norm(BACKEND, [fine], exact=False))


def net_text(groups):
    return text_of(f"PERIODIC groups: {groups} step: 8", f"PERIODIC groups: {groups} step: 4")


def text_of(first, second):
    return (IMAGES + ip("ip1", "data", 61) + layer("ReLU", "relu1", "ip1")
            + drop("drop1", "ip1", first, "d1") + ip("ip2", "d1", 37)
            + drop("drop2", "ip2", second, "d2") + ip("ip3", "d2", 7) + LOSS % "ip3")


def solver_of(groups, more=""):
    text = (f"base_lr: 0.1 lr_policy: \"fixed\" momentum: 0.9 max_iter: 9 random_seed: 1 {more} "
            f"net_param {{ {net_text(groups)} }}")
    return Solver(parse_solver(text, "solver.prototxt"), dtype="float64", device="cpu")


@pytest.mark.parametrize("groups", [1, 2, 3, 4])
def test_the_contract(groups, always):
    net = net_of(net_text(groups))
    for iteration in range(2):
        assert_matches_masked_dense(net, iteration, images())
    assert len(always) >= 2 * (1 + 2 * groups)


@pytest.mark.parametrize("family", ["TILE", "BLOCK"])
def test_the_contract_of_pieces(family, always):
    net = net_of(text_of(family, family))
    for iteration in range(4):
        assert_matches_masked_dense(net, iteration, images())
    assert len(always) >= 4


@pytest.mark.parametrize("groups", [1, 2])
def test_a_step_computes_them_in_the_update_alone_unless_somebody_reads_them(groups, always, computed):
    """A hook reads them: the same weights, to the last bit. Clipping asks for their norm alone."""
    def trained(more="", hook=None):
        solver = solver_of(groups, more)
        solver.after_backward += [hook] * (hook is not None)
        for _ in range(3):
            solver.net.set_inputs(**images())
            solver.step()
        return [parameter.data for parameter in solver.net.parameters().values()]

    plain = trained()
    assert len(always) >= 3 * (1 + 2 * groups) and not computed
    for more, hook, count in (("clip_gradients: 1e6", None, 0),
                              ("", lambda own: [p.grad for p in own.values()], 3 * (1 + 2 * groups))):
        for got, expected in zip(trained(more, hook), plain, strict=True):
            np.testing.assert_array_equal(got, expected)
        assert len(computed) >= count and bool(computed) == bool(count)
        computed.clear()


@pytest.mark.parametrize("groups", [1, 2, 3, 4])
def test_clipping_by_a_norm_without_entries(groups, always, computed, monkeypatch):
    """The same as by the norm of the entries."""
    def trained():
        solver = solver_of(groups, "clip_gradients: 0.01 log_gradient_norm: true")
        for _ in range(3):
            solver.net.set_inputs(**images())
            solver.step()
        return [solver.updater.norm(), *(parameter.data for parameter in solver.net.parameters().values())]

    found = trained()
    assert not computed
    monkeypatch.setattr(type(BACKEND), "late_norm", lambda *_: None)
    for got, expected in zip(found, trained(), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-12)
    assert computed


@pytest.mark.parametrize("places", PLACES.values(), ids=PLACES.keys())
def test_a_norm_without_entries(places, computed, monkeypatch):
    """Of blocks that may overlap; where they certainly do not, of each alone."""
    monkeypatch.setattr(late, "MOST_INNER", np.inf)
    own = [Block(product(a, b), *pair)
           for (a, b), pair in zip(factors(places), places, strict=True) if b.size]
    norm = BACKEND.late_norm(np.zeros((ROWS, COLS)), own, False)
    each = [BACKEND.late_norm(np.zeros((ROWS, COLS)), [one], True) for one in own]
    if len(own) < 3:
        assert BACKEND.late_norm(np.zeros((ROWS, COLS)), own, True) == pytest.approx(np.linalg.norm(each))
    assert not computed
    whole = [one.dense(BACKEND, (ROWS, COLS)) for one in own]
    assert norm == pytest.approx(np.linalg.norm(sum(whole)), rel=1e-12)
    assert each == pytest.approx([np.linalg.norm(one) for one in whole], rel=1e-12)


def test_a_norm_that_would_not_be_exact_is_that_of_the_entries(monkeypatch):
    """Where samples cancel, or something is not finite, or would not be; where one is an array, or samples
    are so many that it would take longer."""
    monkeypatch.setattr(late, "MOST_INNER", np.inf)
    W, rng = np.zeros((ROWS, COLS), "f"), np.random.default_rng(3)
    a, b = rng.standard_normal((4, ROWS)).astype("f"), rng.standard_normal((4, COLS)).astype("f")

    def norm(*blocks, separate=True):
        return BACKEND.late_norm(W, list(blocks), separate)

    def block(a, b):
        return Block(product(a, b))

    opposite = np.concatenate([b[:2], -b[:2]])
    opposite[3] *= np.float32(1.001)
    same = np.concatenate([a[:2], a[:2]])
    for one in (block(same, opposite), block(a * np.float32(np.inf), b), block(a * np.float32(np.nan), b),
                block(a * np.float32(1e19), b * np.float32(1e19)), block(a[:0], b[:0])):
        assert norm(one) is None
    assert norm(block(a, b)) is not None and norm(block(a, b), Block(a.T @ b)) is None
    parameter = Parameter(W, backend=BACKEND)
    parameter.accumulate(block(same, opposite))
    expected = np.linalg.norm(same.astype(float).T @ opposite)
    assert gradient_norm(BACKEND, [parameter]) == pytest.approx(expected, rel=1e-3)
    for most, separate, overlapping in ((32, True, True), (16, True, False), (15.9, False, False)):
        monkeypatch.setattr(late, "MOST_INNER", most * (ROWS + COLS) / (ROWS * COLS))
        assert [norm(block(a, b), block(a, b), separate=one) is not None for one in (True, False)] == [
            separate, overlapping]


def test_a_gradient_that_is_not_finite_is_named_and_updates_nothing(always):
    solver = solver_of(2)
    solver.net.set_inputs(**images())
    before = {name: parameter.data.copy() for name, parameter in solver.net.parameters().items()}

    def break_one(own):
        own["ip2/weight"].accumulate(Block(product(np.full((1, 37), np.inf), np.zeros((1, 61)))))

    solver.after_backward.append(break_one)
    with np.errstate(invalid="ignore"), pytest.raises(NonFiniteError, match="gradient of ip2/weight is not"):
        solver.step()
    for name, parameter in solver.net.parameters().items():
        np.testing.assert_array_equal(parameter.data, before[name])


def test_where_a_product_is_late():
    """Not where copies of the factors are as large as the gradient, nor where columns are single ones."""
    def is_late(rows, columns, samples=64, cols=None):
        a, b = np.zeros((samples, rows), "f"), np.zeros((samples, columns), "f")
        return BACKEND.late_product(a, b, cols) is not None

    assert is_late(1024, 784) and is_late(1024, 1024, 128) and is_late(512, 512, cols=Kept(0, 30, 15, 1024))
    assert not any(is_late(*shape) for shape in ((10, 25088), (1, 65536), (200, 200), (1024, 1024, 129)))
    assert not is_late(512, 512, cols=Kept(0, 2, 1, 1024))


def test_the_data_of_a_block_can_be_set():
    block = Block(product(np.ones((4, 3)), np.ones((4, 2))))
    block.data *= 2
    np.testing.assert_array_equal(block.data, np.full((3, 2), 8.0))
    block.data = np.zeros((3, 2))
    assert block.late is None and not block.data.any()
