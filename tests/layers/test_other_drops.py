"""The drops that make no product smaller: Dropout with one mask along some axes, DropConnect,
GaussianDropout."""

import numpy as np
import pytest
from cases import in_turn

from minidrop import Net, Solver, Tensor
from minidrop.autograd import backward
from minidrop.backend import Backend
from minidrop.config import parse_net, parse_solver
from minidrop.rng import stream_key
from minidrop.testing import assert_matches_masked_dense, run_once

RATE = 0.3


def text(kind, shape, settings=""):
    """An Input and a layer `l` of a kind with dropout_ratio 0.3; `settings` go into dropout_param."""
    product = ('inner_product_param { num_output: 40 weight_filler { type: "gaussian" } bias_filler { type: '
               '"uniform" } }' if kind == "DropConnect" else "")
    return f'''
        layer {{ name: "in" type: "Input" top: "x"
          input_param {{ shape {{ {" ".join(f"dim: {n}" for n in shape)} }} }} }}
        layer {{ name: "l" type: "{kind}" bottom: "x" top: "y" {product}
                 dropout_param {{ dropout_ratio: {RATE} {settings} }} }}'''


def run(net, x, iteration=0):
    """Return y and the gradients of x and of every parameter of `l`, with random numbers as gradient of y."""
    net.draw_patterns(iteration)
    net.clear_grads()
    host = net.backend.to_host
    x = Tensor(net.backend.asarray(x, net.dtype), requires_grad=True, backend=net.backend)
    y = net.forward(x=x)["y"]
    backward([(y, net.backend.asarray(gradient_of(y.shape), net.dtype))])
    return y.numpy(), host(x.grad), {name: host(p.grad) for name, p in net.layers["l"].params.items()}


def gradient_of(shape):
    return np.random.default_rng(1).uniform(0.5, 1.5, shape)


def factor_of(net, iteration=0):
    """What x is multiplied by: mask or noise, scale included."""
    net.draw_patterns(iteration)
    return net.forward(x=np.ones(net.graph.shapes["x", 0]))["y"].numpy()


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="PyTorch (the extra `peers`) is the reference here")


# shape, settings, axes along which the mask is the same
SHARED = [
    ((50, 200, 3, 4), "axes: 2 axes: 3", (2, 3)),             # whole channels of images
    ((50, 200, 3, 4), "axes: -1 axes: -2", (2, 3)),
    ((7, 50, 200), "axes: 0", (0,)),                          # one mask for all steps of a sequence
    ((60, 20000), "shared: true", (0,)),                      # one mask for the batch
    ((5, 10000, 6), "shared: true axes: 2", (0, 2)),
    ((10000, 7), "axes: 1", (1,)),                            # whole records
]


@pytest.mark.parametrize("shape, settings, axes", SHARED)
class TestOneMaskAlongAxes:
    def test_same_along_the_axes_and_bernoulli_across_the_others(self, make_net, dtype, shape, settings,
                                                                 axes):
        factor = factor_of(make_net(text("Dropout", shape, settings)))
        assert set(np.unique(factor)) == {0, np.dtype(dtype).type(1 / (1 - RATE))}
        own = factor[tuple(slice(1) if i in axes else slice(None) for i in range(len(shape)))]
        np.testing.assert_array_equal(factor, np.broadcast_to(own, shape))
        assert abs((own == 0).mean() - RATE) < 5 * np.sqrt(RATE * (1 - RATE) / own.size)
        for axis in (axis for axis in range(len(shape)) if own.shape[axis] > 1):
            means = (own == 0).mean(axis=tuple(a for a in range(len(shape)) if a != axis))
            spread = means.std() * np.sqrt(own.size / len(means) / (RATE * (1 - RATE)))
            limit = 5 / np.sqrt(2 * len(means))
            assert abs(spread - 1) < limit, "the mask is also shared along an axis that is not named"

    def test_the_mask_is_that_of_the_shape_with_ones(self, make_net, dtype, shape, settings, axes):
        factor = factor_of(make_net(text("Dropout", shape, settings), seed=9), 4)
        ones = np.ones([1 if i in axes else n for i, n in enumerate(shape)], dtype)
        y, _ = Backend().dropout(ones, RATE, 1 / (1 - RATE), stream_key(9, "dropout", "l", 4))
        np.testing.assert_array_equal(factor, np.broadcast_to(y, shape))

    def test_against_torch(self, make_net, torch, close, shape, settings, axes):
        """The operation with the mask taken out."""
        net, x = make_net(text("Dropout", shape, settings)), np.random.default_rng(0).standard_normal(shape)
        y, gx, _ = run(net, x)
        tx = torch.tensor(x.astype(net.dtype).astype(float), requires_grad=True)
        expected = tx * torch.tensor(factor_of(net).astype(float))
        expected.backward(torch.tensor(gradient_of(shape)))
        close(y, expected.detach().numpy())
        close(gx, tx.grad.numpy())


def test_another_batch_size_than_the_file_s(make_net):
    """The mask of a shared axis does not depend on its length."""
    net = make_net(text("Dropout", (4, 30), "shared: true"))
    net.draw_patterns(1)
    few, many = (net.forward(x=np.ones((rows, 30)))["y"].numpy() for rows in (1, 9))
    np.testing.assert_array_equal(many, np.broadcast_to(few, (9, 30)))


def test_without_axes_the_mask_is_drawn_for_every_element(make_net, dtype):
    net = make_net(text("Dropout", (13, 17)), seed=3)
    expected, _ = Backend().dropout(np.ones((13, 17), dtype), RATE, 1 / (1 - RATE),
                                    stream_key(3, "dropout", "l", 2))
    np.testing.assert_array_equal(factor_of(net, 2), expected)


class TestGaussianDropout:
    def test_statistics(self, make_net):
        noise = factor_of(make_net(text("GaussianDropout", (300, 500)))).astype(float)
        variance, n = RATE / (1 - RATE), noise.size
        assert abs(noise.mean() - 1) < 5 * np.sqrt(variance / n)
        assert abs(noise.var() / variance - 1) < 5 * np.sqrt(2 / n)
        e = (noise - 1) / np.sqrt(variance)
        for a, b in ((e[:, 1:], e[:, :-1]), (e[1:], e[:-1]), (e[:, ::2], e[:, 1::2]), (e[:, 4:], e[:, :-4])):
            assert abs((a * b).mean()) < 5 / np.sqrt(a.size)
            assert abs(((a**2 - 1) * (b**2 - 1)).mean()) < 5 * 2 / np.sqrt(a.size)
        for axis in (0, 1):         # neither units nor records have noise in common
            assert abs(e.mean(axis=axis).std() * np.sqrt(e.shape[axis])
                       - 1) < 5 / np.sqrt(2 * e.shape[1 - axis])

    def test_against_torch(self, make_net, torch, close):
        net, x = make_net(text("GaussianDropout", (5, 6))), np.random.default_rng(0).standard_normal((5, 6))
        y, gx, _ = run(net, x, 2)
        tx = torch.tensor(x.astype(net.dtype).astype(float), requires_grad=True)
        expected = tx * torch.tensor(factor_of(net, 2).astype(float))
        expected.backward(torch.tensor(gradient_of((5, 6))))
        close(y, expected.detach().numpy())
        close(gx, tx.grad.numpy())

    def test_dtypes_see_one_noise(self, make_net):
        single, double = (factor_of(make_net(text("GaussianDropout", (50, 41)), dtype=dtype), 3)
                          for dtype in ("float32", "float64"))
        assert (single.dtype, double.dtype) == (np.float32, np.float64)
        np.testing.assert_allclose(single, double, rtol=0, atol=3e-6)


class TestDropConnect:
    def test_statistics_of_the_mask(self, make_net):
        """Weights of 1 and a batch of unit vectors show the mask."""
        net = make_net(text("DropConnect", (200, 200)).replace('"gaussian"', '"constant" value: 1')
                       .replace('"uniform"', '"constant"'))
        net.draw_patterns(0)
        y = net.forward(x=np.eye(200))["y"].numpy().T
        mask = y > 0
        assert set(np.unique(y)) == {0, np.dtype(net.dtype).type(1 / (1 - RATE))} and mask.shape == (40, 200)
        assert abs(1 - mask.mean() - RATE) < 5 * np.sqrt(RATE * (1 - RATE) / mask.size)
        for axis in (0, 1):         # neither inputs nor outputs are preferred
            spread = mask.mean(axis=axis).std() * np.sqrt(mask.shape[axis] / (RATE * (1 - RATE)))
            assert abs(spread - 1) < 5 / np.sqrt(2 * mask.shape[1 - axis])

    @in_turn("settings, shape, axis",
             [("", (3, 4), 1), ("", (3, 2, 4), 1), ("axis: 2", (3, 2, 4), 2),
                                       ("axis: -1", (2, 3, 4, 5), 3)])
    @in_turn("transpose", [False, True])
    @in_turn("bias", [False, True])
    def test_against_torch(self, make_net, torch, close, settings, shape, axis, transpose, bias):
        """Top and gradients; the gradient of a dropped weight is 0."""
        words = f'bias_term: {str(bias).lower()} transpose: {str(transpose).lower()} {settings}'
        net = make_net(text("DropConnect", shape).replace("num_output: 40", f"num_output: 6 {words}"), seed=5)
        x, inputs = np.random.default_rng(0).standard_normal(shape), int(np.prod(shape[axis:]))
        params = {name: net.backend.to_host(p.data).astype(float) for name, p in net.params["l"].items()}
        assert list(params) == (["weight", "bias"] if bias else ["weight"])
        assert params["weight"].shape == ((inputs, 6) if transpose else (6, inputs))
        y, gx, gradients = run(net, x, 7)

        ones = np.ones(params["weight"].shape, net.dtype)
        _, mask = Backend().dropout(ones, RATE, 1.0, stream_key(5, "drop connect", "l", 7))
        assert 0 < mask.sum() < mask.size
        tx = torch.tensor(x.astype(net.dtype).astype(float), requires_grad=True)
        tW = torch.tensor(params["weight"], requires_grad=True)
        tb = torch.tensor(params["bias"], requires_grad=True) if bias else None
        dropped = tW * torch.tensor(mask / (1 - RATE))
        expected = torch.nn.functional.linear(tx.reshape(*shape[:axis], -1), dropped.T if transpose
                                              else dropped, tb)
        expected.backward(torch.tensor(gradient_of(y.shape)))
        close(y, expected.detach().numpy())
        close(gx, tx.grad.numpy())
        close(gradients["weight"], tW.grad.numpy())
        assert not gradients["weight"][~mask].any() and gradients["weight"][mask].all()
        if bias:
            close(gradients["bias"], tb.grad.numpy())
        product, = net.layers["l"].flow([shape])[:1]
        assert (product.rows, product.inputs, product.outputs) == (np.prod(shape[:axis]), inputs, 6)

    def test_in_a_test_it_is_a_product(self, make_net, close):
        net, x = make_net(text("DropConnect", (3, 4)),
                          phase="TEST"), np.random.default_rng(0).standard_normal((3, 4))
        W, b = (net.backend.to_host(net.params["l"][name].data).astype(float) for name in ("weight", "bias"))
        close(net.forward(x=x)["y"].numpy(), x @ W.T + b)

    def test_the_mean_over_masks_is_the_product(self, make_net):
        """1 / (1 - p) makes up for the dropped weights."""
        net, x = make_net(text("DropConnect", (1, 4)), seed=1), np.array([[1.0, -2.0, 0.5, 3.0]])
        W, b = (net.backend.to_host(net.params["l"][name].data).astype(float) for name in ("weight", "bias"))
        rows = []
        for iteration in range(800):
            net.draw_patterns(iteration)
            rows.append(net.forward(x=x)["y"].numpy()[0])
        deviation = np.sqrt(RATE / (1 - RATE) * ((W * x) ** 2).sum(axis=1))
        assert (abs(np.mean(rows, axis=0) - (x @ W.T + b)[0]) < 5 * deviation / np.sqrt(800)).all()


KINDS = {"Dropout": "axes: 0", "DropConnect": "", "GaussianDropout": ""}


@pytest.mark.parametrize("kind", KINDS)
class TestEveryKind:
    def test_the_iteration_says_everything(self, make_net, kind):
        layers, x = text(kind, (8, 60), KINDS[kind]), np.ones((8, 60))

        net = make_net(layers, seed=4)
        first, second = run(net, x, 0)[0], run(net, x, 1)[0]
        assert (first != second).any()
        assert (run(net, x, 0)[0] == first).all() and (run(make_net(layers, seed=4), x, 1)[0] == second).all()
        assert (run(make_net(layers, seed=5), x, 0)[0] != first).any()

    def test_two_layers_draw_apart(self, make_net, kind):
        """Two layers of one kind on the same data, with the same weights, differ."""
        first = text(kind, (8, 60), KINDS[kind]).strip()
        if kind == "DropConnect":
            first = first.replace('top: "y"', 'top: "y" param { name: "w" } param { name: "b" }')
        second = first[first.index('layer { name: "l"'):].replace('"l"', '"m"').replace('"y"', '"z"')
        out = make_net(first + second).forward(x=np.ones((8, 60)))
        assert (out["y"].numpy() != out["z"].numpy()).any()

    def test_phase_and_set_dropping(self, make_net, kind):
        layers, x = text(kind, (8, 60), KINDS[kind]), np.random.default_rng(0).standard_normal((8, 60))
        train, test = make_net(layers, seed=2), make_net(layers, seed=2, phase="TEST")
        dropped, whole = run(train, x, 3), run(test, x, 3)
        assert (dropped[0] != whole[0]).any()
        if kind != "DropConnect":
            np.testing.assert_array_equal(whole[0], x.astype(test.dtype))
            np.testing.assert_array_equal(whole[1], gradient_of((8, 60)).astype(test.dtype))
        of_layer = make_net(layers.replace('bottom: "x"', 'bottom: "x" phase: TEST'), seed=2)
        np.testing.assert_array_equal(run(of_layer, x, 3)[0], whole[0])
        for net, on, expected in ((train, False, whole), (test, True, dropped)):
            net.set_dropping(on)
            for got, want in zip(run(net, x, 3)[:2], expected[:2], strict=True):
                np.testing.assert_array_equal(got, want)

    def test_nothing_dropped(self, make_net, kind):
        layers, x = text(kind, (8, 60),
                         KINDS[kind]).replace("0.3", "0"), np.random.default_rng(0).standard_normal((8, 60))
        train, test = make_net(layers), make_net(layers, phase="TEST")
        np.testing.assert_array_equal(run(train, x)[0], run(test, x)[0])


INPUTS = '''layer { name: "in" type: "Input" top: "data" top: "label"
                    input_param { shape { dim: 6 dim: 13 } shape { dim: 6 } } }'''
FILLERS = 'weight_filler { type: "msra" } bias_filler { type: "uniform" min: -1 max: 1 }'
BESIDE = {
    "Dropout": 'type: "Dropout" dropout_param { dropout_ratio: 0.4 shared: true }',
    "DropConnect": f'type: "DropConnect" inner_product_param {{ num_output: 31 {FILLERS} }}',
    "GaussianDropout": 'type: "GaussianDropout" dropout_param { dropout_ratio: 0.4 }',
}


def beside(kind, where):
    """A net with an ApproxDropout above or below the layer `l` of a kind, or on both sides of it."""
    drop = '''layer { name: "%s" type: "ApproxDropout" bottom: "%s" top: "%s"
                      approx_dropout_param { dropout_ratio: 0.4 } }'''
    product = ('layer { name: "%s" type: "InnerProduct" bottom: "%s" top: "%s" '
               'inner_product_param { num_output: %d ' + FILLERS + " } }")
    lines, blob = [INPUTS, product % ("ip1", "data", "ip1", 29)], "ip1"
    if where != "below":
        lines.append(drop % ("above", blob, "above"))
        blob = "above"
    lines.append(f'layer {{ name: "l" bottom: "{blob}" top: "l" {BESIDE[kind]} }}')
    blob = "l"
    if where != "above":
        lines.append(drop % ("below", blob, "below"))
        blob = "below"
    lines += [product % ("ip2", blob, "ip2", 7),
              'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }']
    return Net(parse_net("\n".join(lines)), device="cpu", dtype="float64")


@pytest.mark.parametrize("where", ["above", "below", "both"])
@pytest.mark.parametrize("kind", BESIDE)
def test_beside_an_approx_dropout(kind, where):
    """They compute everything: what comes compact is expanded before them, what a drop below them wants is
    gathered."""
    net, rng = beside(kind, where), np.random.default_rng(0)
    plan = {drop.node.name: drop for drop in net.plan.drops}
    if "above" in plan:
        assert [node.name for node in plan["above"].expanders] == ["l"]
    if "below" in plan:
        assert plan["below"].producer is None and [node.name for node in plan["below"].consumers] == ["ip2"]
    batch = {"data": rng.standard_normal((6, 13)), "label": rng.integers(0, 7, 6)}
    for iteration in range(8):
        assert_matches_masked_dense(net, iteration, batch)
    losses = [float(run_once(net, iteration, batch)[0]["loss"]) for iteration in (0, 1, 0)]
    assert losses[0] == losses[2] != losses[1]


def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path):
    """Snapshots hold DropConnect's parameters; what is drawn follows from seed and iteration."""
    layers = f'''
        layer {{ name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param {{
          shape {{ dim: 8 dim: 6 }} shape {{ dim: 8 }} data_filler {{ type: "gaussian" }} data_filler {{
            value: 2 }} }} }}
        layer {{ name: "dc" type: "DropConnect" bottom: "data" top: "dc"
          inner_product_param {{ num_output: 20 {FILLERS} }} }}
        layer {{ name: "noise" type: "GaussianDropout" bottom: "dc" top: "dc" }}
        layer {{ name: "drop" type: "Dropout" bottom: "dc" top: "dc" dropout_param {{ shared: true }} }}
        layer {{ name: "ip" type: "InnerProduct" bottom: "dc" top: "ip"
          inner_product_param {{ num_output: 5 {FILLERS} }} }}
        layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }}'''
    settings = ("base_lr: 0.05 lr_policy: 'fixed' momentum: 0.9 max_iter: 10 random_seed: 3 snapshot: 4 "
                "solver_mode: CPU " f"net_param {{ {layers} }}")

    def make(folder):
        return Solver(parse_solver(settings), snapshot_prefix=f"{tmp_path / folder}/net")
    whole, resumed = make("first"), make("second")
    start = whole.net.params["dc"]["weight"].data.copy()
    whole.solve()
    resumed.restore(tmp_path / "first" / "net_iter_4.h5")
    assert resumed.iteration == 4
    resumed.solve()
    assert list(whole.net.parameters()) == ["dc/weight", "dc/bias", "ip/weight", "ip/bias"]
    for name, parameter in whole.net.parameters().items():
        np.testing.assert_array_equal(parameter.data, resumed.net.parameters()[name].data, err_msg=name)
    assert (whole.net.params["dc"]["weight"].data != start).any()
