"""What bench_gpu.py checks before it measures: that the device computes what the CPU does."""

import numpy as np

# of rounding an operand
UNIT = {"float32": 2.0**-24, "tf32": 2.0**-11, "float16": 2.0**-11, "bfloat16": 2.0**-8}
NET = """
layer {{ name: "in" type: "Input" top: "data" top: "label"
  input_param {{ shape {{ dim: 6 dim: 40 }} shape {{ dim: 6 }} }} }}
layer {{ name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1"
        inner_product_param {{ num_output: 131 weight_filler {{ type: "msra" }} }} }}
layer {{ name: "relu1" type: "ReLU" bottom: "ip1" top: "ip1" }}
layer {{ name: "drop1" type: "ApproxDropout" bottom: "ip1" top: "ip1" approx_dropout_param {{ {settings} }} }}
layer {{ name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
        inner_product_param {{ num_output: 97 transpose: true weight_filler {{ type: "msra" }} }} }}
layer {{ name: "drop2" type: "ApproxDropout" bottom: "ip2" top: "ip2" approx_dropout_param {{ {settings} }} }}
layer {{ name: "ip3" type: "InnerProduct" bottom: "ip2" top: "ip3"
        inner_product_param {{ num_output: 7 weight_filler {{ type: "msra" }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip3" bottom: "label" top: "loss" }}
"""


def check_all(backend, precisions):
    """Run all checks, print a line for each, and return what failed, as text."""
    failures = []
    checks = [(f"products in {precision}", lambda precision=precision: check_products(backend, precision))
              for precision in precisions]
    checks += [(f"products of blocks in {precision}",
                lambda precision=precision: check_block_products(backend, precision))
               for precision in precisions]
    checks += [("compacted nets equal masked dense ones", lambda: check_nets(backend)),
               ("captured steps equal those given piece by piece", lambda: check_captured(backend)),
               ("both devices train alike", lambda: check_training(backend))]
    for name, check in checks:
        try:
            check()
            print(f"  ok      {name}", flush=True)
        except Exception as error:
            failures.append(f"{name}: {type(error).__name__}: {error}")
            print(f"  FAILED  {failures[-1]}", flush=True)
    return failures


def check_products(backend, precision):
    """Products of whole and of kept matrices, every way that `backend.cublas` reads them, against float64."""
    from minidrop.backend import get_backend
    from minidrop.kept import Kept
    low, rng = get_backend(backend.name, precision), np.random.default_rng(0)
    for outputs, inputs, samples in ((230, 150, 7), (512, 384, 128), (33, 65, 1)):
        W = rng.standard_normal((outputs, inputs)).astype(np.float32)

        def sets(total):
            return (None, Kept(1, 3, 1, total), Kept(total // 5, total, total // 2, total),
                    Kept(-3, 10, 5, total), Kept(-total // 8, total // 2, total // 3, total),
                    Kept.of(np.arange(0, total, 7), total))

        for rows in sets(outputs):
            for cols in sets(inputs):
                live = W[np.ix_(*(np.arange(n) if kept is None else kept.indices
                                  for kept, n in ((rows, outputs), (cols, inputs))))].astype(float)
                with low.active():
                    block = low.submatrix(low.asarray(W), rows, cols)
                    for trans in (True, False):
                        right = live.T if trans else live
                        x = rng.standard_normal((samples, len(right))).astype(np.float32)
                        got = low.to_host(low.gemm(low.operand(low.asarray(x)), block, trans_b=trans))
                        rounding = 2.1 * UNIT[precision] + 4 * len(right) * 2.0**-24
                        bound = rounding * (np.abs(x) @ np.abs(right)) + 1e-30
                        if not (np.abs(got - x.astype(float) @ right) <= bound).all():
                            raise AssertionError(f"W ({outputs}, {inputs})[{rows}, {cols}], trans_b={trans}: "
                                                 f"{np.abs(got - x.astype(float) @ right).max():g} off")


# samples, units, columns and blocks: of every tile of the kernel, of none, odd ones
BLOCK_SIZES = ((1024, 1024, 1024, (128, 128)), (2048, 256, 2048, (128, 128)), (512, 384, 640, (64, 64)),
               (331, 203, 257, (64, 32)), (128, 1000, 333, (128, 125)), (100, 90, 75, (7, 9)))


def check_block_products(backend, precision, sizes=BLOCK_SIZES):
    """Products that skip dropped blocks, of which nothing may be read, against float64."""
    from minidrop.backend import get_backend
    from minidrop.patterns.grid import BlockGrid
    low, rng = get_backend(backend.name, precision), np.random.default_rng(3)

    def grid(samples, units, size):
        lives = rng.random((-(-samples // size[0]), -(-units // size[1]))) < 0.5
        return BlockGrid(lives.astype(np.uint8), *size)

    for samples, units, columns, size in sizes:
        for trans_a, trans_b in ((False, True), (False, False), (True, False)):
            depth = samples if trans_a else units
            a = rng.standard_normal((samples, units)).astype(np.float32)
            b = rng.standard_normal((columns, depth) if trans_b else (depth, columns)).astype(np.float32)
            for sides in ((None, None), (True, None), (None, True), (True, True)):
                a_grid, n_grid = (side and grid(samples, n, size)
                                  for side, n in zip(sides, (units, columns), strict=True))
                a_mask, n_mask = (one.mask(samples, n) if one else True
                                  for one, n in ((a_grid, units), (n_grid, columns)))
                given = np.where(a_mask, a, np.nan), np.where(n_mask, b, np.nan) if trans_a else b
                left, right = np.where(a_mask, a, 0).astype(float), b.T if trans_b else b
                if trans_a:
                    left, right = left.T, np.where(n_mask, b, 0)
                with low.active():
                    got = low.to_host(low.block_product(*map(low.asarray, given), trans_a, trans_b, a_grid,
                                                        n_grid, 1.5))
                exact, size_of_it = 1.5 * (left @ right), 1.5 * (np.abs(left) @ np.abs(right))
                if not trans_a:
                    exact, size_of_it = exact * n_mask, size_of_it * n_mask
                error = np.abs(got - exact)
                if not (error <= (2.1 * UNIT[precision] + 4 * depth * 2.0**-24) * size_of_it + 1e-30).all():
                    raise AssertionError(f"({samples}, {units}) to {columns}, blocks {size}, trans {trans_a} "
                                         f"{trans_b}, masks {sides}: {error.max():g} off")


def check_nets(backend, iterations=4):
    """The project's contract in float64, for every family."""
    from minidrop import Net
    from minidrop.config import parse_net
    from minidrop.patterns import known_families
    from minidrop.testing import assert_matches_masked_dense
    rng = np.random.default_rng(1)
    batch = {"data": rng.standard_normal((6, 40)), "label": rng.integers(0, 7, 6)}
    for family in known_families():
        for rate in (0, 0.5, 0.7):
            more = {"TILE": "tile_size: 4", "BLOCK": "block_samples: 4"}.get(family, "")
            net = Net(parse_net(NET.format(settings=f'dropout_ratio: {rate} pattern: "{family}" {more}')),
                      device=backend.name, dtype="float64")
            for iteration in range(iterations):
                assert_matches_masked_dense(net, iteration, batch)


def check_captured(backend):
    """Launches of graphs leave the same bits in all weights, in float32, where steps are captured."""
    for family in ("PERIODIC", "ROW", "TILE"):
        weights, solver = trained(backend.name, family, "float32", iterations=40)
        expected, plain = trained(backend.name, family, "float32", launches=False, iterations=40)
        if solver.captured is not None and not (solver.captured.replayed and not plain.captured.replayed):
            raise AssertionError(f"{family}: no step was captured: "
                                 f"{solver.captured.problem or 'no form was drawn twice'}")
        for name, array in expected.items():
            np.testing.assert_array_equal(weights[name], array, err_msg=f"{family}: {name}")


def check_training(backend):
    """The same training on both devices: the same patterns, the same weights to rounding, in float64."""
    found, expected = (trained(device, "ROW", "float64")[0] for device in (backend.name, "cpu"))
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-7, atol=1e-9, err_msg=name)


def trained(device, family, dtype, launches=True, iterations=20):
    """Return ({name: weights}, the solver) of a trained net; without `launches` no step is a graph's."""
    from minidrop import Solver
    from minidrop.config import parse_solver
    rng = np.random.default_rng(2)
    batches = [{"data": rng.standard_normal((6, 40)), "label": rng.integers(0, 7, 6)} for _ in range(4)]
    more = "tile_size: 4" if family == "TILE" else ""
    net = NET.format(settings=f'dropout_ratio: 0.5 pattern: "{family}" {more}')
    solver = Solver(parse_solver(f"base_lr: 0.01 lr_policy: 'fixed' momentum: 0.9 weight_decay: 0.001 "
                                 f"max_iter: 99 random_seed: 1 net_param {{ {net} }}"), device=device,
                    dtype=dtype)
    if solver.captured is not None:
        solver.captured.launches = launches
    for i in range(iterations):
        solver.net.set_inputs(**batches[i % 4])
        solver.step()
    solver.settle()     # raises what was wrong: a device that never updates leaves the same bits every time
    weights = {name: solver.net.backend.to_host(p.data).copy() for name, p in solver.net.parameters().items()}
    return weights, solver
