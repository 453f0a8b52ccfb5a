"""What ranks agree on, what they tell each other, and what travels."""

from functools import partial

import numpy as np
import pytest
from nets import drop, ip, layer, net_of
from parallel_nets import assert_same_training, memory, mlp, mlp_with, solver_of, trained, weights

from minidrop.autograd import Block, Parameter
from minidrop.backend import get_backend
from minidrop.errors import ConfigError, DataError, NonFiniteError, ParallelError
from minidrop.kept import Kept
from minidrop.patterns.part import Part
from minidrop.solver.engines import HostEngine
from minidrop.solver.parallel import GradientSum
from minidrop.solver.places import WHOLE, Place, common_places
from minidrop.solver.ranks import Ranks, bytes_to_add
from minidrop.testing import run_ranks


def on_ranks(size, work):
    return run_ranks(size, lambda communicator: work(Ranks(communicator)))


@pytest.mark.parametrize("size", [2, 3, 5])
def test_a_sum_is_the_same_on_all_ranks_and_costs_what_the_formula_says(size):
    """In float32, in the order of the ranks, whatever the buckets."""
    parts = np.random.default_rng(size).standard_normal((size, 1001)).astype("f4")
    expected = parts[0].copy()
    for part in parts[1:]:
        expected += part

    def add(ranks, chunk):
        flat = parts[ranks.rank].copy()
        ranks.add(flat, chunk)
        return flat, ranks.sent
    for chunk in (1 << 20, 100, 7):
        for rank, (flat, sent) in enumerate(on_ranks(size, lambda ranks, chunk=chunk: add(ranks, chunk))):
            assert flat.dtype == np.float32 and (flat == expected).all()
            assert sent == bytes_to_add(1001, 4, size, chunk, rank)
    assert bytes_to_add(1200, 4, 3) == 2 * 2 * 400 * 4 and bytes_to_add(1200, 4, 1) == 0


def test_texts_and_flags():
    assert on_ranks(3, lambda ranks: ranks.texts("é" * ranks.rank)) == [["", "é", "éé"]] * 3
    assert on_ranks(2, lambda ranks: ranks.texts("a\udcff.h5")) == [["a\udcff.h5"] * 2] * 2
    assert on_ranks(3, lambda ranks: ranks.of_root(f"from {ranks.rank}")) == ["from 0"] * 3
    assert on_ranks(3, lambda ranks: ranks.any(ranks.rank == 2)) == [True] * 3
    assert on_ranks(2, lambda ranks: ranks.agreed(lambda: ranks.rank == 1)) == [False, False]


@pytest.mark.parametrize(("error", "kind", "text"), [
    (DataError("no record"), DataError, "^rank 1: no record$"),
    (ZeroDivisionError("a bug"), ParallelError, "^rank 1: ZeroDivisionError: a bug$")])
def test_all_ranks_raise_the_error_of_one(error, kind, text):
    def work(ranks):
        def fail():
            if ranks.rank:
                raise error
        with pytest.raises(kind, match=text):
            ranks.together(fail)
        return "went on"
    assert on_ranks(3, work) == ["went on"] * 3


def test_ranks_that_do_different_things_are_an_error():
    with pytest.raises(ParallelError, match="do not do the same"):
        on_ranks(2, lambda ranks: ranks.gather(np.zeros(ranks.rank + 1)))
    with pytest.raises(ParallelError, match="ended while others wait"):
        on_ranks(2, lambda ranks: ranks.rank or ranks.any(False))


# -- what travels --------------------------------------------------------------------------------------------
def kept(*indices, total=6):
    return Kept.of(np.array(indices), total)


def test_places_that_cover_those_of_all_ranks():
    one, two = Place(kept(0, 1), kept(0, 2)), Place(kept(1, 3), kept(0, 2))
    other = Place(kept(0), kept(5))
    assert common_places([], (6, 6)) == []
    assert common_places([one, one], (6, 6)) == [one]
    assert common_places([one, two], (6, 6)) == [Place(kept(0, 1, 3), kept(0, 2))]
    assert common_places([one, other, one], (6, 6)) == [one, other]
    assert common_places([one, WHOLE], (6, 6)) == [WHOLE]
    assert common_places([Place(kept(0, 1, 2), None), Place(kept(3, 4, 5), None)], (6, 6)) == [WHOLE]
    assert common_places([Place(kept(0), None), Place(kept(2), None)], (6,)) == [Place(kept(0, 2), None)]


@pytest.mark.parametrize("shape", [(6,), (6, 6), (6, 2, 3)])
def test_gradients_of_ranks_with_different_blocks(shape):
    """Embed's rows, groups of samples, a rank without a gradient, and one with the whole of it."""
    rng, backend = np.random.default_rng(0), get_backend("cpu")
    matrix = (6,) if len(shape) == 1 else (6, 6)
    sides = [kept(0, 1), kept(1, 4), kept(2), None]
    cases = [[[(sides[r], None)] for r in range(3)], [[(sides[0], None)], [], []], [[], [], []],
             [[(None, None)], [(sides[1], None)], [(sides[2], None)]]]
    if len(shape) > 1:
        cases += [[[(sides[r], sides[2 - r]), (sides[2], sides[r])] for r in range(3)],
                  [[(None, sides[r])] for r in range(3)]]

    def gradients(case, rank):
        parameter = Parameter(np.zeros(shape), backend)
        for rows, cols in case[rank]:
            parameter.accumulate(Block(np.array(rng_of[rank, rows, cols]), rows, cols))
        return parameter
    for case in cases:
        rng_of = {(rank, *place): rng.standard_normal(Place(*place).shape(matrix))
                  for rank in range(3) for place in case[rank]}
        expected = 0.5 * sum(gradients(case, rank).dense_grad() for rank in range(3))

        def add(ranks, case=case):
            parameter = gradients(case, ranks.rank)
            total = GradientSum(ranks, backend, engine=HostEngine(ranks, backend, chunk=5))
            total.add({"a": parameter}, 0.5)
            assert total.sent >= bytes_to_add(total.entries, 8, 3, 5, ranks.rank)
            return parameter.dense_grad(), total.entries
        for found, entries in on_ranks(3, add):
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)
            assert entries <= np.prod(shape) and (entries > 0) == any(case)


SHAPES = {"ip1": (2048, 784), "ip2": (2048, 2048), "out": (10, 2048)}


def perceptron(rate, groups):
    """Two layers of 2048 units, and a drop behind each."""
    hidden = [ip(name, bottom, 2048, fillers="") + layer("ReLU", f"relu_{name}", name, name)
              + layer("ApproxDropout", f"drop_{name}", name, name,
                      f"approx_dropout_param {{ dropout_ratio: {rate} groups: {groups} }}")
              for name, bottom in (("ip1", "data"), ("ip2", "ip1"))]
    return net_of(memory(784, batch=64), *hidden, ip("out", "ip2", 10, fillers=""),
                  layer("SoftmaxWithLoss", "loss", "out label"), fills=False)


def sets_of(net, name):
    """The sets of units that the groups of samples keep of a layer."""
    kept_units = net.layers[name].drawn.outputs.kept
    return getattr(kept_units, "sets", [kept_units] * 4)


def share_that_travels(net, iteration):
    """Of the bytes of dense gradients, with the sets of kept units that the planner gives the products."""
    net.draw_patterns(iteration)
    sets = partial(sets_of, net)
    entries = 0
    for shape, rows, cols in zip(SHAPES.values(), [*map(sets, ("ip1", "ip2")), [None] * 4],
                                 [[None] * 4, *map(sets, ("ip1", "ip2"))], strict=True):
        biases = [Place(one, None) for one in rows]
        for places, matrix in ((map(Place, rows, cols), shape), (biases, shape[:1])):
            entries += sum(int(np.prod(place.shape(matrix))) for place in common_places(places, matrix))
    whole = sum(outputs * inputs + outputs for outputs, inputs in SHAPES.values())
    return bytes_to_add(entries, 4, 8) / bytes_to_add(whole, 4, 8)


@pytest.mark.parametrize(("rate", "groups", "most"), [
    (0.5, 1, 0.36), (0.7, 1, 0.17), (0.5, 2, 0.65), (0.7, 2, 0.31), (0.7, 4, 0.55)])
def test_traffic_falls_with_what_is_dropped(rate, groups, most):
    """With the square of what is kept between two drops; less where groups of samples drop other units."""
    net = perceptron(rate, groups)
    mean = np.mean([share_that_travels(net, iteration) for iteration in range(200)])
    assert 0.7 * most < mean <= most


@pytest.mark.parametrize(("rate", "least", "most"), [(0.5, 0.74, 0.76), (0.7, 0.25, 0.4)])
def test_the_blocks_of_four_groups_cover_much_of_a_matrix(rate, least, most):
    """The entries of ip2 that any group has: what could travel at least, in place of the blocks."""
    net = perceptron(rate, 4)
    shares = []
    for iteration in range(30):
        net.draw_patterns(iteration)
        rows, cols = (np.array([np.ones(2048) if one is None else one.mask() for one in sets_of(net, name)],
                               np.float32) for name in ("ip2", "ip1"))
        shares.append((rows.T @ cols > 0).mean())
    assert least < np.mean(shares) < most


def test_the_bytes_of_an_iteration_are_those_of_the_kept_blocks():
    def work(communicator):
        solver = solver_of(mlp_with("PERIODIC groups: 1"), "", communicator)
        found = []
        for _ in range(8):
            solver.step()
            kept_units = solver.net.layers["ip1"].drawn.outputs.kept
            units = 24 if kept_units is None else kept_units.count
            found.append((solver.gradient_sum.sent, solver.gradient_sum.entries, units))
        return found
    for sent, entries, units in run_ranks(3, work)[1]:
        assert entries == units * (13 + 1) + 7 * units + 7
        assert sent == bytes_to_add(entries, 8, 3, rank=1) + 16 * 2      # and a hash to each of two


# -- a solver on several ranks -------------------------------------------------------------------------------
def test_a_loss_that_is_not_finite_stops_all_and_names_rank_and_layer():
    def work(communicator):
        solver = solver_of(mlp(), "", communicator)
        solver.step(2)
        before = weights(solver)
        rng = np.random.default_rng(0)
        data = rng.standard_normal((12, 13, 1, 1))
        data[7] = np.nan
        solver.net.set_input_arrays(data, np.zeros(12))
        text = "^rank 1: iteration 2: the loss is nan, .*record 7 .*layer 'data'"
        with pytest.raises(NonFiniteError, match=text):
            solver.step()
        assert all((before[name] == values).all() for name, values in weights(solver).items())
        return True
    assert run_ranks(3, work) == [True] * 3


def test_ranks_with_other_weights_do_not_begin():
    def work(communicator):
        solver = solver_of(mlp(), "", communicator)
        solver.net.params["ip2"]["bias"].data[3] += communicator.rank == 2
        with pytest.raises(ParallelError, match="rank 2 has other weights than rank 0, of ip2/bias"):
            solver.solve()
        return True
    assert run_ranks(3, work) == [True] * 3


@pytest.mark.parametrize(("layers", "text"), [
    (mlp(data=memory(batch=10)), "expected a batch of a multiple of 4 records.*got 10; change batch_size"),
    (['layer { name: "data" type: "Input" top: "data" top: "label" input_param { shape { dim: 4 dim: 13 } '
      'shape { dim: 4 } } }', *mlp()[1:]], "'data' .Input.: Input is fed by the caller"),
    ([*mlp(data=memory(batch=12)), layer("Scale", "each", "ip1", more="scale_param { axis: 0 }")],
     r"'each' .Scale.: 'factor' has shape \(12,\) for the whole batch and \(3,\) for the part of a rank"),
    ([memory(batch=12), layer("Reshape", "flat", "data", more="reshape_param { shape { dim: 12 dim: -1 } }"),
      *mlp(first="flat")[1:]], "'flat' .* no multiple of 12 .*; it fits the whole batch, but not the "
     "part that each of 4 ranks has: write -1 or 0 where a Reshape names the batch size")])
def test_nets_that_cannot_be_split(layers, text):
    with pytest.raises(ConfigError, match=text):
        run_ranks(4, lambda communicator: solver_of(layers, "", communicator))


def test_the_first_record_of_a_batch_is_on_one_rank_alone():
    """A Fill whose axis 0 holds steps has a first step on every rank."""
    def net(dims):
        fill = layer("Fill", "cont", "label", more=f"fill_param {{ first: 1 shape {{ {dims} }} }}")
        return [*mlp(), fill, 'layer { name: "silent" type: "Silence" bottom: "cont" }']
    with pytest.raises(ConfigError, match=r":\d+:\d+: layer 'cont' .Fill.: first is one place of a whole"):
        run_ranks(2, lambda one: solver_of(net("dim: 0"), "", one))
    run_ranks(2, lambda one: solver_of(net("dim: 3 dim: 2"), "", one))


@pytest.mark.parametrize("drops", [[layer("Dropout", "drop", "relu", "relu")], [
    drop("drop", "relu", "UNIT groups: 4", "relu")]], ids=["Dropout", "groups"])
def test_records_behind_steps_are_no_run_of_neighbours(drops):
    """(steps, records, entries) as (steps * records, entries): a rank has some rows of each step."""
    net = [memory(5, 3), layer("Permute", "steps", "data", more="permute_param { order: [1, 0, 2, 3] }"),
           layer("Reshape", "rows", "steps", more="reshape_param { shape { dim: -1 dim: 9 } }"),
           ip("ip1", "rows", 24), layer("ReLU", "relu", "ip1"), *drops, ip("ip2", "relu", 3),
           layer("Reduction", "loss", "ip2",
                 more="loss_weight: 1 reduction_param { operation: SUMSQ coeff: 0.01 }"),
           'layer { name: "unread" type: "Silence" bottom: "label" }']
    assert_same_training(net, "", (2, 3, 4), iterations=4)


def test_an_output_of_steps_and_records_is_put_together_in_their_order():
    part = [Part(rank, 2, 4) for rank in range(2)]
    whole = np.arange(12)
    found = run_ranks(2, lambda one: Ranks(one).whole(part[one.rank].take(whole), part[one.rank]))
    assert [array.tolist() for array in found] == [whole.tolist()] * 2


def test_what_depends_on_the_number_of_ranks_is_said(caplog):
    norm = layer("BatchNorm", "norm", "ip1")

    def work(communicator):
        net = mlp()
        solver = solver_of([*net[:2], norm, layer("ReLU", "relu1", "norm"), *net[3:]], "", communicator)
        solver.step(3)
        return solver
    solvers = run_ranks(2, work)
    assert "'norm' (BatchNorm): takes its statistics of the samples of each rank" in caplog.text
    means = [solver.net.params["norm"]["mean"].data for solver in solvers]
    assert not np.allclose(*means)


@pytest.mark.parametrize("kind, more", [
    ("Slice", "slice_param { axis: 0 }"), ("Concat", "concat_param { axis: 0 }"),
    ("Tile", "tile_param { axis: 0 tiles: 1 }"), ("Softmax", "softmax_param { axis: 0 }"),
    ("ArgMax", "argmax_param { axis: 0 }")])
def test_what_works_along_the_samples_is_said(kind, more, caplog):
    for axis in "01":
        one = layer(kind, "one", "ip1", more=more.replace("axis: 0", f"axis: {axis}"))
        run_ranks(2, lambda ranks, one=one: solver_of([*mlp(), one], "", ranks))
        assert (f"'one' ({kind}): works along axis 0, that of the samples" in caplog.text) == (axis == "0")
        caplog.clear()


def test_steps_are_no_samples(caplog):
    """A recurrent layer works along axis 0, which holds samples only where a Reshape puts them there; so does
    a drop whose patterns hold for some steps."""
    for dims, said in (("dim: 1 dim: -1", False), ("dim: -1 dim: 1", True)):
        steps = layer("Reshape", "x", "ip1", more=f"reshape_param {{ shape {{ {dims} dim: 24 }} }}")
        cont = layer("Fill", "cont", "x", more="fill_param { value: 1 shape { dim: 0 dim: 0 } }")
        gru = layer("GRU", "gru", "x cont", more="recurrent_param { num_output: 3 }")
        held = [drop(f"drop{n}", "x", settings=f"steps_per_pattern: {n}") for n in (0, 1, 2)]
        run_ranks(2, lambda ranks, own=(steps, cont, gru, *held): solver_of([*mlp(), *own], "", ranks))
        assert ("'gru' (GRU): works along axis 0" in caplog.text) == said
        assert [f"'drop{n}' (ApproxDropout): works along axis 0" in caplog.text for n in (0, 1, 2)] == [
            False, said, said]
        caplog.clear()


def test_a_drop_behind_a_filter(caplog):
    """Its records weigh what they do in the whole batch, but their places there are not known."""
    front = [memory(), 'layer { name: "cut" type: "Slice" bottom: "data" top: "first" top: "rest" '
             "slice_param { axis: 1 slice_point: 1 } }",
             layer("Reshape", "flat", "first", more="reshape_param { shape { dim: 0 dim: 1 } }"),
             layer("Threshold", "chosen", "flat"),
             'layer { name: "filter" type: "Filter" bottom: "rest" bottom: "label" bottom: "chosen" '
             'top: "some" top: "labels" }']
    _, first, relu, last, _ = mlp(first="some")
    loss = layer("SoftmaxWithLoss", "loss", "ip2 labels")
    assert_same_training([*front, first, relu, last, loss], "", (2, 3), iterations=4)
    assert "behind a Filter" not in caplog.text
    for kind in ("PERIODIC", "Dropout", "GaussianDropout", "BLOCK"):    # with one to three records, or none
        caplog.clear()
        net = [*front, first, relu, drop("drop1", "relu1", kind, top="relu1"), last, loss]
        losses = [run_ranks(4, lambda one, net=net: trained(net, "", one))[0][1] for _ in range(2)]
        assert losses[0] == losses[1] and np.isfinite(losses).all()
        assert "layer 'drop1' (" in caplog.text and "drops behind a Filter" in caplog.text
    for operation in ("MEAN", "SUM"):       # a sum is added up, however many records each rank has of it
        caplog.clear()
        total = layer("Reduction", "loss", "ip2",
                      more=f"reduction_param {{ operation: {operation} }} loss_weight: 0.1")
        run_ranks(2, lambda ranks, total=total: solver_of([*front, first, relu, last, total], "", ranks))
        said = "'loss' (Reduction): is a mean over what passes a Filter" in caplog.text
        assert said == (operation == "MEAN")
    assert_same_training([*front, first, relu, last, total], "", (2, 3), iterations=4)
