"""Gradients in blocks that overlap: the compiled loops of the CPU against the generic methods."""

import numpy as np
import pytest

from minidrop.autograd import Block
from minidrop.backend import Backend, get_backend
from minidrop.backend.generic.update import Updates
from minidrop.config import parse_solver
from minidrop.kept import Kept
from minidrop.solver.rules import get_rule, known_rules

ROWS, COLS = 23, 14
PLACES = {
    "overlapping": [(Kept(0, 4, 2, ROWS), Kept(0, 4, 3, COLS)), (Kept(1, 4, 2, ROWS), Kept(1, 4, 3, COLS)),
                    (Kept(0, 3, 1, ROWS), Kept.all(COLS))],
    "of all rows": [(None, Kept(0, 2, 1, COLS)), (None, Kept(1, 2, 1, COLS))],
    "one of everything": [(None, None), (Kept.of([3, 7], ROWS), None)],
    "one without entries": [(Kept(0, 2, 1, ROWS), None), (Kept(99, 99, 1, ROWS), None)],
    "more than loops are made for": [(Kept(i % 5, 6, 2, ROWS), Kept(i % 3, 4, 2, COLS)) for i in range(19)],
}
every_place = pytest.mark.parametrize("places", PLACES.values(), ids=PLACES.keys())


def blocks_of(places, seed=0):
    rng = np.random.default_rng(seed)
    sides = [[n if kept is None else kept.count for kept, n in zip(pair, (ROWS, COLS), strict=True)]
             for pair in places]
    return [Block(rng.standard_normal(side), *pair) for side, pair in zip(sides, places, strict=True)]


def dense(blocks):
    return sum(block.dense(get_backend("cpu"), (ROWS, COLS)) for block in blocks)


@every_place
@pytest.mark.parametrize("l1", [False, True])
@pytest.mark.parametrize("rule", known_rules())
def test_an_update_is_that_by_the_sum_of_the_blocks(rule, l1, places):
    made = get_rule(parse_solver(f'type: "{rule}" base_lr: 0.1 delta: 1e-6').message)
    numbers = tuple(map(float, made.numbers(0.1, 0.01, 3)))
    rng = np.random.default_rng(1)
    W, history = rng.standard_normal((ROWS, COLS)), rng.random((made.slots, ROWS, COLS))
    found = []
    for blocks in (blocks_of(places), [Block(dense(blocks_of(places)))]):
        w, arrays = W.copy(), list(history.copy())
        if rule == "SGD":
            get_backend("cpu").sgd_update(w, arrays[0], blocks, 0.1, 0.9, 0.01, l1, 0.5)
        else:
            get_backend("cpu").rule_update(w, arrays, blocks, made, numbers, 0.01, l1, 0.5)
        found.append((w, *arrays))
    for got, expected in zip(*found, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-14)


@every_place
@pytest.mark.parametrize("rule", sorted({*known_rules()} - {"SGD"}))
def test_the_kernels_of_a_gpu_have_the_bits_of_the_formula(emulated, rule, places):
    """Whether blocks share rows or not; of a matrix, of a vector, and of a matrix with four axes."""
    made = get_rule(parse_solver(f'type: "{rule}" base_lr: 0.1 delta: 1e-6').message)
    numbers = tuple(map(float, made.numbers(0.1, 0.01, 3)))
    rng = np.random.default_rng(1)
    W, history = rng.standard_normal((ROWS, COLS)), rng.random((made.slots, ROWS, COLS))
    vector = [Block(numbers_of(rng, kept), kept) for kept in (places[0][0],)]
    for shape, blocks in (((ROWS, COLS), blocks_of(places)), ((ROWS, 7, 2, 1), blocks_of(places)),
                          ((ROWS,), vector)):
        found = []
        for on in (emulated, Backend()):
            start = [x[:, 0].copy() if len(shape) == 1 else x.reshape(shape).copy() for x in (W, *history)]
            on.rule_update(start[0], start[1:], blocks, made, numbers, 0.01, rule == "RMSProp", 0.5)
            found.append(start)
        for got, expected in zip(*found, strict=True):
            np.testing.assert_array_equal(got, expected)
    assert {name.removesuffix("_rows") for name in emulated.kernels.launches} >= {"rule_update"}


def numbers_of(rng, kept):
    return rng.standard_normal(ROWS if kept is None else kept.count)


@every_place
def test_norms_and_sums(places):
    cpu, blocks = get_backend("cpu"), blocks_of(places)
    for parts in (cpu.norm_parts(np.zeros((ROWS, COLS)), blocks),
                  Updates.norm_parts(cpu, np.zeros((ROWS, COLS)), blocks)):
        np.testing.assert_allclose(cpu.sum_of_squares(*parts), (dense(blocks) ** 2).sum(), rtol=1e-12)
    total = np.ones((ROWS, COLS))
    for block in blocks:
        block.add_to(cpu, total, 2)
    np.testing.assert_allclose(total, 1 + 2 * dense(blocks), rtol=1e-12)
