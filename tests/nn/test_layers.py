"""The ready modules, against PyTorch's of the same names."""

import copy
import re

import numpy as np
import pytest
from cases import in_turn

import minidrop as md
from minidrop import nn
from minidrop.config import layer_types
from minidrop.layers import known_layers

F = md.functions


def numbers(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


IMAGES, VECTORS, SEQUENCE = numbers(3, 4, 7, 6), numbers(5, 8), numbers(5, 3, 8)

# name: (the module, PyTorch's as text, what it reads)
CASES = {
    "linear": (lambda: nn.Linear(8, 3), "Linear(8, 3)", VECTORS),
    "linear of a sequence": (lambda: nn.Linear(8, 3, bias=False), "Linear(8, 3, bias=False)", SEQUENCE),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, padding=1), "Conv1d(4, 6, 3, padding=1)", IMAGES[..., 0]),
    "conv2d": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2),
               "Conv2d(4, 6, 3, stride=2, padding=1, groups=2)", IMAGES),
    "conv2d of a window": (lambda: nn.Conv2d(4, 6, (3, 2), dilation=(2, 1), bias=False),
                           "Conv2d(4, 6, (3, 2), dilation=(2, 1), bias=False)", IMAGES),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1),
                   "ConvTranspose2d(4, 6, 3, stride=2, padding=1)", IMAGES),
    "max": (lambda: nn.MaxPool2d(3, 2, 1), "MaxPool2d(3, 2, 1)", IMAGES),
    "max of a window": (lambda: nn.MaxPool2d((3, 2)), "MaxPool2d((3, 2))", IMAGES),
    "max rounded up": (lambda: nn.MaxPool2d(2, ceil_mode=True), "MaxPool2d(2, ceil_mode=True)", IMAGES),
    "mean": (lambda: nn.AvgPool2d(2), "AvgPool2d(2)", IMAGES),
    "whole mean": (lambda: nn.AvgPool2d(None), "AdaptiveAvgPool2d(1)", IMAGES),
    "layer norm": (lambda: nn.LayerNorm(8), "LayerNorm(8)", SEQUENCE),
    "layer norm of two axes": (lambda: nn.LayerNorm((7, 6)), "LayerNorm((7, 6))", IMAGES),
    "rms norm": (lambda: nn.RMSNorm(8), "RMSNorm(8, eps=1e-6)", SEQUENCE),
    "relu": (nn.ReLU, "ReLU()", VECTORS), "leaky": (lambda: nn.ReLU(0.1), "LeakyReLU(0.1)", VECTORS),
    "gelu": (nn.GELU, "GELU()", VECTORS), "tanh gelu": (lambda: nn.GELU("tanh"), "GELU('tanh')", VECTORS),
    "silu": (nn.SiLU, "SiLU()", VECTORS), "sigmoid": (nn.Sigmoid, "Sigmoid()", VECTORS),
    "tanh": (nn.Tanh, "Tanh()", VECTORS), "elu": (lambda: nn.ELU(0.7), "ELU(0.7)", VECTORS),
    "softplus": (nn.Softplus, "Softplus()", VECTORS), "prelu": (lambda: nn.PReLU(8), "PReLU(8)", VECTORS),
    "one slope": (lambda: nn.PReLU(initial=0.1), "PReLU(init=0.1)", VECTORS),
    "softmax": (nn.Softmax, "Softmax(-1)", SEQUENCE), "flatten": (nn.Flatten, "Flatten()", IMAGES),
    "lrn": (lambda: nn.LRN(3, 0.1, 0.6, 2.0), "LocalResponseNorm(3, 0.1, 0.6, 2.0)", IMAGES),
    "batch norm": (lambda: nn.BatchNorm(4), "BatchNorm2d(4)", IMAGES),
    "identity": (nn.Identity, "Identity()", VECTORS),
}


@in_turn("name", list(CASES))
def test_against_torch(name):
    torch = pytest.importorskip("torch", reason="PyTorch (the extra `peers`) is the reference here")
    make, text, x = CASES[name]
    model, [kind, arguments] = nn.Sequential(make()).to("cpu", "float64"), text.split("(", 1)
    other = getattr(torch.nn, kind)(*_arguments(arguments)[0], **_arguments(arguments)[1]).double()
    with torch.no_grad():
        for i, (own, theirs) in enumerate(zip(model.parameters(), other.parameters(), strict=True)):
            own.data[...] = numbers(*own.shape, seed=i + 1)
            theirs.copy_(torch.from_numpy(own.data))
    given, theirs = md.Tensor(x.copy(), requires_grad=True), torch.from_numpy(x.copy()).requires_grad_()
    given.data = x.copy()
    y, expected = model(given), other(theirs)
    np.testing.assert_allclose(y.numpy(), expected.detach().numpy(), rtol=1e-9, atol=1e-12)
    gy = numbers(*y.shape, seed=9)
    y.backward(gy)
    expected.backward(torch.from_numpy(gy))
    np.testing.assert_allclose(given.grad, theirs.grad.numpy(), rtol=1e-8, atol=1e-10)
    for own, theirs in zip(model.parameters(), other.parameters(), strict=True):
        np.testing.assert_allclose(own.grad, theirs.grad.numpy(), rtol=1e-8, atol=1e-10)


def _arguments(text):
    """The arguments of a call as text, which ends with its parenthesis."""
    import ast
    call = ast.parse(f"f({text}", mode="eval").body
    return ([ast.literal_eval(one) for one in call.args],
            {one.arg: ast.literal_eval(one.value) for one in call.keywords})


def test_embedding_and_statistics_against_torch():
    torch = pytest.importorskip("torch", reason="PyTorch (the extra `peers`) is the reference here")
    embed, other = nn.Embedding(7, 4).to("cpu", "float64"), torch.nn.Embedding(7, 4).double()
    with torch.no_grad():
        other.weight.copy_(torch.from_numpy(embed.weight.data))
    indices = np.random.default_rng(0).integers(0, 7, (5, 3))
    np.testing.assert_array_equal(embed(indices).numpy(), other(torch.from_numpy(indices)).detach().numpy())
    norm, other = nn.BatchNorm(4, momentum=0.3).to("cpu", "float64"), torch.nn.BatchNorm2d(4, momentum=None)
    other.double()
    for i in range(3):      # PyTorch's momentum starts from 0 and 1; without one it is the plain mean
        x = numbers(6, 4, 3, 2, seed=i)
        norm(x), other(torch.from_numpy(x))
    weights = 0.7 ** np.arange(3)[::-1]
    means = np.array([numbers(6, 4, 3, 2, seed=i).mean((0, 2, 3)) for i in range(3)])
    stored = norm.norm.mean.data / norm.norm.scale_factor.data
    np.testing.assert_allclose(stored, weights @ means / weights.sum())
    norm.eval()
    mean, variance = (norm.norm.own_parameters()[key].data / norm.norm.scale_factor.data
                      for key in ("mean", "variance"))
    x = numbers(6, 4, 3, 2)
    expected = (x - mean[:, None, None]) / np.sqrt(variance + 1e-5)[:, None, None]
    np.testing.assert_allclose(norm(x).numpy(), expected)


@pytest.mark.parametrize("ours, theirs, x, target", [
    (nn.CrossEntropyLoss(), "CrossEntropyLoss()", numbers(6, 5), np.arange(6) % 5),
    (nn.CrossEntropyLoss(ignore_label=2, label_smoothing=0.1),
     "CrossEntropyLoss(ignore_index=2, label_smoothing=0.1)", numbers(6, 5), np.arange(6) % 5),
    (nn.CrossEntropyLoss(reduction="sum"), "CrossEntropyLoss(reduction='sum')", numbers(6, 5),
     np.arange(6) % 5),
    (nn.BCEWithLogitsLoss(), "BCEWithLogitsLoss()", numbers(6, 5), np.arange(30).reshape(6, 5) % 2.0),
    (nn.MSELoss(), "MSELoss()", numbers(6, 5), numbers(6, 5, seed=1)),
    (nn.MSELoss("sum"), "MSELoss(reduction='sum')", numbers(6, 5), numbers(6, 5, seed=1)),
    (nn.L1Loss(), "L1Loss()", numbers(6, 5), numbers(6, 5, seed=1))])
def test_losses_against_torch(ours, theirs, x, target):
    """Called with a Tensor that another module has computed."""
    torch = pytest.importorskip("torch", reason="PyTorch (the extra `peers`) is the reference here")
    kind, arguments = theirs.split("(", 1)
    other = getattr(torch.nn, kind)(**_arguments(arguments)[1])
    model, ours = nn.Linear(5, 5).to("cpu", "float64"), ours.to("cpu", "float64")
    loss = ours(model(x), target)
    weight = torch.from_numpy(model.weight.data.copy()).requires_grad_()
    expected = other(torch.from_numpy(x) @ weight.T, torch.from_numpy(target))
    assert float(loss) == pytest.approx(float(expected.detach()), rel=1e-9)
    loss.backward()
    expected.backward()
    np.testing.assert_allclose(model.weight.grad, weight.grad.numpy(), rtol=1e-7, atol=1e-10)


def test_accuracy():
    scores, labels = numbers(9, 5), np.arange(9) % 5
    order = np.argsort(-scores, axis=1)
    for k, ignored in ((1, None), (2, None), (3, 4)):
        counts = labels != (-1 if ignored is None else ignored)
        expected = (order[:, :k] == labels[:, None]).any(axis=1)[counts].mean()
        got = nn.Accuracy(k, ignore_label=ignored).to("cpu", "float64")(scores, labels)
        assert float(got) == pytest.approx(expected)


# -- sequences -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_states_of_recurrent_modules(kind):
    """Fresh in every call, or carried on, or given and returned: a sequence in parts is the whole one."""
    whole = kind(4, 6).to("cpu", "float64").set_seed(2)
    x = numbers(6, 3, 4)
    expected = whole(x).numpy()
    np.testing.assert_array_equal(whole(x).numpy(), expected)
    carried = kind(4, 6, stateful=True).to("cpu", "float64").set_seed(2)
    parts = [carried(x[first:last]).numpy() for first, last in ((0, 2), (2, 5), (5, 6))]
    np.testing.assert_allclose(np.concatenate(parts), expected, rtol=1e-12)
    carried.eval()                          # another set of states
    np.testing.assert_allclose(carried(x[:2]).numpy(), expected[:2], rtol=1e-12)
    assert not np.allclose(carried(x[:2]).numpy(), expected[:2])
    carried.reset_states()
    np.testing.assert_allclose(carried(x[:2]).numpy(), expected[:2], rtol=1e-12)
    first, state = whole(x[:2], return_state=True)
    second, last = whole(x[2:], state=state)
    np.testing.assert_allclose(np.concatenate([first.numpy(), second.numpy()]), expected, rtol=1e-12)
    assert len(state) == len(last) == whole.states and state[0].shape == (1, 3, 6)
    second.backward(np.ones(second.shape))  # reaches the first part through the states
    gradient = whole.weight.grad.copy()
    whole.zero_grad()
    whole(x).backward(np.concatenate([np.zeros((2, 3, 6)), np.ones((4, 3, 6))]))
    np.testing.assert_allclose(whole.weight.grad, gradient, rtol=1e-9)


def test_a_stateful_module_without_states_of_its_own_is_refused():
    """It would begin anew in each call without a word: in two directions, where states are handed over, and
    where there are none."""
    for made in (lambda: nn.GRU(4, 6, stateful=True, bidirectional=True),
                 lambda: nn.Layer("LSTM", num_output=6, stateful=True, bidirectional=True)):
        with pytest.raises(md.ConfigError, match="stateful=True, but it carries no states from call to call "
                                              r"\(bidirectional: a call holds whole sequences\)"):
            made()
    for kind in ("ReLU", "Rotary"):
        said = f"^{kind}: stateful=True, but it carries no states from call to call$"
        with pytest.raises(md.ConfigError, match=said):
            nn.Layer(kind, stateful=True)
    assert nn.LSTM(4, 6, bidirectional=False, stateful=True).stateful
    assert nn.Layer("Rotary", continues=True, stateful=True).stateful
    gru, x = nn.GRU(4, 6, stateful=True).to("cpu"), numbers(2, 3, 4)
    for options in ({"return_state": True}, {"state": numbers(1, 3, 6)}):
        said = f"so it takes and returns none: leave out {next(iter(options))}, or stateful"
        with pytest.raises(md.ConfigError, match=said):
            gru(x, **options)


def test_attributes_that_would_change_nothing_are_refused():
    """PyTorch's ways to change a drop or leave a bias out would be attributes that nobody reads."""
    drop, linear = nn.Dropout(0.5), nn.Linear(4, 3)
    for name in ("p", "rate", "dropout_ratio"):
        with pytest.raises(md.ConfigError, match=f"{name} is a setting, said where"):
            setattr(drop, name, 0.1)
    for value in (None, np.zeros(3, "f"), md.tensor(np.zeros(3))):
        with pytest.raises(md.ConfigError, match="bias is a parameter: .* write to bias.data"):
            linear.bias = value
    with pytest.raises(md.ConfigError, match="num_output is a setting"):
        linear.num_output = 5

    class Noted(nn.Layer):
        def __init__(self, rate):
            super().__init__("Dropout", dropout_ratio=rate)
            self.rate, self.note, self.p = rate, "mine", rate
    noted = Noted(0.25)
    noted.note = None
    assert (noted.rate, noted.note, linear.bias.shape) == (0.25, None, (3,))


CHANGES = {
    "momentum": (lambda: nn.BatchNorm(4), 0.01), "eps": (lambda: nn.BatchNorm(4), 1e-3),
    "padding": (lambda: nn.Conv2d(3, 4, 3), 1), "groups": (lambda: nn.Conv2d(4, 4, 3), 2),
    "heads": (lambda: nn.MultiHeadAttention(8, 2), 4), "dropout": (lambda: nn.MultiHeadAttention(8, 2), 0.5),
    "affine": (lambda: nn.LayerNorm(4), False), "reduction": (lambda: nn.CrossEntropyLoss(), "sum"),
    "label_smoothing": (lambda: nn.CrossEntropyLoss(), 0.1), "axis": (lambda: nn.Softmax(1), 2),
    "bias": (lambda: nn.Linear(4, 3), False), "initial": (lambda: nn.PReLU(), 0.5),
    "name": (lambda: nn.Linear(4, 3), "scores"), "channels": (lambda: nn.PReLU(), 3),
}


@in_turn("name", list(CHANGES))
def test_an_argument_of_the_constructor_is_no_attribute(name):
    made, value = CHANGES[name]
    module = made()
    with pytest.raises(md.ConfigError, match=f"{name} is a setting, said where the module is made; make"):
        setattr(module, name, value)
    assert name not in vars(module)


def test_settings_are_read_alone():
    """The nets have read them: `drop.settings["dropout_ratio"] = 0.1` changed nothing without a word."""
    drop = nn.ApproxDropout(0.5)
    for change in (lambda: drop.settings.update(dropout_ratio=0.1), lambda: drop.settings.clear(),
                   lambda: drop.settings.__setitem__("dropout_ratio", 0.1),
                   lambda: setattr(drop, "settings", {"dropout_ratio": 0.1})):
        with pytest.raises(md.ConfigError, match="ApproxDropout: settings are said where the module is made"):
            change()
    assert drop.settings == copy.deepcopy(drop).settings == {"dropout_ratio": 0.5}


def test_a_class_of_ones_own_stores_what_it_likes():
    class Padded(nn.Conv2d):
        def __init__(self, channels, groups=2):
            super().__init__(channels, channels, 3, groups=groups)
            self.padding, self.groups = 1, groups

    class Shifted(nn.Linear):
        def __init__(self, units):
            super().__init__(units, units, bias=False)
            self.bias = nn.Weight(units, filler={"type": "constant", "value": 2})

        def forward(self, x):
            return super().forward(x) + self.bias

    assert (Padded(4).padding, Padded(4).groups) == (1, 2)
    shifted, x = Shifted(3).to("cpu"), numbers(2, 3)
    np.testing.assert_allclose(shifted(x).numpy(), x @ shifted.weight.data.T + 2, rtol=1e-5)
    with pytest.raises(md.ConfigError, match="weight_filler is a setting"):
        shifted.weight_filler = "xavier"


def test_a_layer_that_has_no_parameters_after_all():
    """Of types that have some under other settings, or with other inputs."""
    for made, *bottoms in ((nn.Layer("Position", kind="SINUSOIDAL"), SEQUENCE),
                           (nn.Layer("LayerNorm", weight_term=False), SEQUENCE),
                           (nn.Layer("Scale"), numbers(5, 8), numbers(8))):
        model = nn.Sequential(nn.Linear(8, 8), made) if len(bottoms) == 1 else made
        with pytest.raises(md.ConfigError, match="knows the shapes of its parameters only from"):
            model.parameters()
        model(*bottoms)
        assert len(model.parameters()) == len(model.state_dict()) == 2 * (len(bottoms) == 1)
    scale = nn.Layer("Scale")
    scale(numbers(5, 8), numbers(8))
    scale(numbers(5, 8))
    assert [(name, own.shape) for name, own in scale.named_parameters()] == [("factor", (8,))]


def test_where_sequences_begin():
    lstm, x = nn.LSTM(4, 6).to("cpu", "float64"), numbers(6, 3, 4)
    cont = np.ones((6, 3))
    cont[3] = 0
    np.testing.assert_allclose(lstm(x, cont).numpy()[3:], lstm(x[3:]).numpy(), rtol=1e-12)
    assert lstm.net_for(x).inputs == ["x"] and lstm.net_for(x, cont).inputs == ["x", "cont"]


def test_a_carried_state_of_another_batch_is_refused():
    lstm = nn.Sequential(body=nn.LSTM(4, 6, stateful=True)).to("cpu")
    lstm(numbers(2, 3, 4))
    with pytest.raises(md.ShapeError, match=re.escape("LSTM 'body' carries its state h of shape (3, 6) on, "
                       "but this batch needs (5, 6); call reset_states() first")):
        lstm(numbers(2, 5, 4))
    lstm.reset_states()
    assert lstm(numbers(2, 5, 4)).shape == (2, 5, 6)


def test_attention_step_by_step():
    """A cache and positions that count on are states too, which eval() carries from call to call."""
    class Model(nn.Module):
        def __init__(self, **settings):
            self.position = nn.Position(8, 4, continues=settings.get("continues"))
            self.q = nn.Linear(4, 4)
            self.attention = nn.Attention(2, causal=True, cache=settings.get("cache"))

        def forward(self, x):
            y = self.q(self.position(x))
            return self.attention(y, y, y)
    x = numbers(5, 3, 4)
    whole, steps = (Model(**own).to("cpu", "float64").eval() for own in ({}, {"cache": 8, "continues": True}))
    expected = whole(x).numpy()
    found = np.concatenate([steps(x[i:i + 1]).numpy() for i in range(5)])
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    steps.reset_states()
    np.testing.assert_allclose(steps(x[:1]).numpy(), expected[:1], rtol=1e-10)


def test_multi_head_attention_against_torch():
    torch = pytest.importorskip("torch", reason="PyTorch (the extra `peers`) is the reference here")
    model = nn.MultiHeadAttention(8, 2).to("cpu", "float64")
    other = torch.nn.MultiheadAttention(8, 2).double()
    with torch.no_grad():
        for i, part in enumerate("qkv"):
            own = getattr(model, part)
            other.in_proj_weight[8 * i:8 * i + 8] = torch.from_numpy(own.weight.data)
            other.in_proj_bias[8 * i:8 * i + 8] = torch.from_numpy(own.bias.data)
        other.out_proj.weight.copy_(torch.from_numpy(model.out.weight.data))
    x, memory = numbers(4, 3, 8), numbers(6, 3, 8, seed=1)
    mask = np.ones((6, 3))
    mask[4:, 1] = 0
    expected, _ = other(*map(torch.from_numpy, (x, memory, memory)),
                        key_padding_mask=torch.from_numpy(mask.T == 0))
    np.testing.assert_allclose(model(x, memory, mask).numpy(), expected.detach().numpy(), rtol=1e-9)


# -- any type ------------------------------------------------------------------------------------------------
def test_a_layer_of_any_type():
    model = nn.Sequential(nn.Layer("Tile", tiles=2), nn.Layer("Scale", bias_term=True)).to("cpu")
    assert set(known_layers()) >= {module.type for module in model}
    with pytest.raises(md.ConfigError, match=re.escape("Layer '1' (Scale) knows the shapes of its parameters "
                       "only from the shape of its input: call the model once, or give `inputs`")):
        model.parameters()
    np.testing.assert_array_equal(model(VECTORS).numpy(), np.tile(VECTORS.astype("f"), 2))
    assert [parameter.shape for parameter in model.parameters()] == [(16,), (16,)]
    with pytest.raises(md.ShapeError, match=re.escape("Layer '1': its factor has shape (16,), but inputs of "
                       "shape (5, 14) need (14,)")):
        model(VECTORS[:, :7])


def test_a_layer_of_ones_own():
    with layer_types.forgetting():
        @md.register_layer("Doubled")
        class Doubled(md.Layer):
            def forward(self, x):
                return F.scale(x, 2.0)
        np.testing.assert_array_equal(nn.Layer("Doubled").to("cpu")(VECTORS).numpy(),
                                      2 * VECTORS.astype("f"))


def test_the_dtype_may_stand_where_the_device_does():
    for dtype in ("float64", np.float64, np.dtype("float64")):
        assert nn.Linear(8, 2).to("cpu").to(dtype)(VECTORS).dtype == "float64"


def test_a_parameter_of_a_module_below_may_have_another_name():
    class Penalized(nn.Module):
        traced = False

        def __init__(self):
            super().__init__()
            self.layer, self.other = nn.Linear(8, 2), nn.Layer("InnerProduct", num_output=2)
            self.weight, self.both = self.layer.weight, [self.layer.weight, self.layer.bias]

        def forward(self, x):
            return self.layer(x).sum() + (self.weight ** 2).sum()

    model = Penalized().to("cpu")
    model(VECTORS).backward()
    expected = VECTORS.sum(0) + 2 * model.layer.weight.data
    np.testing.assert_allclose(model.layer.weight.grad, expected, rtol=1e-5)
    copied = copy.deepcopy(model)
    assert copied.weight is copied.layer.weight is not model.weight
    with pytest.raises(md.ConfigError, match="Penalized: w is a Parameter, which parameters"):
        model.w = md.Parameter(numbers(2))
