"""The ready modules: against PyTorch's of the same names, and what they say of mistakes."""

import copy
import pickle
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


DEEP: list = []
for _ in range(5000):
    DEEP = [DEEP]
MISTAKES = {
    "unknown layer type 'Relu'; did you mean 'ReLU'": lambda: nn.Layer("Relu"),
    "layer 'layer' (LRN): has no setting 'size'": lambda: nn.Layer("LRN", size=3),
    "HDF5Data feeds a net of its own; a module is called with its data": lambda: nn.Layer("HDF5Data"),
    "bottom is no setting of a module (ReLU): it reads what it is called with":
        lambda: nn.Layer("ReLU", bottom="x"),
    "Linear 'fc': expected 8 features on the last axis; put nn.Flatten() before it if they lie on several; "
    "got (3, 4, 7, 6)": lambda: nn.Sequential(fc=nn.Linear(8, 2)).to("cpu")(IMAGES),
    "Conv2d: expected 3 channels on axis 1; got (3, 4, 7, 6)": lambda: nn.Conv2d(3, 2, 3).to("cpu")(IMAGES),
    "Conv1d: expected 3 axes, (N, C) and 1 of places, got (3, 4, 7, 6)":
        lambda: nn.Conv1d(4, 2, 3).to("cpu")(IMAGES),
    "LSTM: expected x (steps, streams, 4), got (5, 8)": lambda: nn.LSTM(4, 2).to("cpu")(VECTORS),
    "LSTM: expected 2 states to begin with, got 1":
        lambda: nn.LSTM(8, 2).to("cpu")(SEQUENCE, state=(numbers(1, 3, 2),)),
    "Sequential: layer '0' (Convolution): a window of 9 x 9 does not fit into the bottom of shape (3, 4, 7, "
    "6)": lambda: nn.Sequential(nn.Conv2d(4, 2, 9)).to("cpu")(IMAGES),
    "2: reshuffle_interval permutes weights and the history of their updates, which a Solver does and a loop":
        lambda: nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.ApproxDropout(reshuffle_interval=5),
                              nn.Linear(8, 2)).to("cpu")(np.zeros((4, 12), np.float32)),
    "ApproxDropout: layer 'approxdropout' (ApproxDropout): reshuffle_interval cannot permute the units above":
        lambda: nn.ApproxDropout(approx_dropout_param={"reshuffle_interval": 5}).to("cpu")(np.zeros((4, 8))),
    "LSTM: layer 'lstm' (LSTM): hidden_dropout: the units of a recurrent layer cannot be permuted":
        lambda: nn.LSTM(8, 2, hidden_dropout={"reshuffle_interval": 5}).to("cpu")(SEQUENCE),
    "unknown filler 'mrsa'; did you mean 'msra'":
        lambda: nn.Linear(8, 2, weight_filler="mrsa").to("cpu").parameters(),
    "reduction should be one of mean, batch, sum, got 'none'": lambda: nn.CrossEntropyLoss(reduction="none"),
    "MSELoss: expected predictions and targets of one shape, got (5, 8) and (5,)":
        lambda: nn.MSELoss().to("cpu")(VECTORS, VECTORS[:, 0]),
    "Silence: tops: expected a whole number from 1 to 10000, got 0": lambda: nn.Layer("Silence", tops=0),
    "ReLU: tops: expected a whole number from 1 to 10000, got 'x'": lambda: nn.Layer("ReLU", tops="x"),
    "Split: tops: expected a whole number from 1 to 10000, got 2147483648":
        lambda: nn.Layer("Split", tops=2**31),
    "'num_output' takes an integer from 0 to 4294967295, got an array of shape (3, 3)":
        lambda: nn.Linear(4, np.ones((3, 3))),
    "reduction should be 'mean' or 'sum', got an array of shape (2,)": lambda: nn.MSELoss(np.ones(2)),
    "lists and dicts are nested too deeply": lambda: nn.ReLU()(DEEP),
    "train: expected True or False, got an array of shape (2,)": lambda: nn.ReLU().train(np.ones(2)),
    ": expected auto, cpu or cuda:N": lambda: nn.ReLU().to(DEEP),
    "Layer: inputs: expected a list or None, got 3": lambda: nn.Layer("ReLU", inputs=3),
    "GELU: name: expected a text or None, got ndarray": lambda: nn.GELU(name=np.ones(3)),
    "MultiHeadAttention: heads: expected a whole number, got NoneType":
        lambda: nn.MultiHeadAttention(4, None),
    "ModuleDict: modules: expected Mapping or None, got 3": lambda: nn.ModuleDict(3),
    "concat: xs: expected a list, got 3": lambda: nn.concat(3),
    "Linear: cannot take in_features = 3, out_features = 4, settings = {'axis': 1} (TypeError: ":
        lambda: nn.Linear(3, 4, axis=1),
    "AvgPool2d: ceil_mode: expected True or False, got an array":
        lambda: nn.AvgPool2d(2, ceil_mode=np.ones(2)),
    "layer 'b' is to share its weight with another by `param { name }`; call the module's method `tie`":
        lambda: nn.Sequential(a=nn.Linear(8, 8, bias=False, param={"name": "w"}), b=nn.Linear(
            8, 8, bias=False, param={"name": "w"})).to("cpu")(VECTORS),
    "Module: 'train' is a method or property of every Module; give the attribute another name":
        lambda: setattr(nn.Module(), "train", nn.ReLU()),
    "Sequential: 'seed' is a method or property of every Module": lambda: nn.Sequential(seed=nn.ReLU()),
    "Module: blocks is a list of modules, whose parameters would not be found; use nn.ModuleList":
        lambda: setattr(nn.Module(), "blocks", [nn.ReLU()]),
    "Sequential: expected modules, got function; use nn.Lambda for a function":
        lambda: nn.Sequential(nn.ReLU(), lambda x: x),
    "Sequential: expected modules, got the class ReLU; write ReLU(...)": lambda: nn.Sequential(nn.ReLU),
    "Linear: expected {name: array}, got str; np.load reads a .npz file":
        lambda: nn.Linear(8, 2).load_state_dict("w.npz"),
    "a module's name is not empty and has no '.' or '/', got 'a.b'":
        lambda: nn.ModuleDict({"a.b": nn.ReLU()}),
    "two modules are called 'fc'; their initial values and patterns would be the same":
        lambda: nn.Sequential(nn.Linear(8, 8, name="fc"), nn.Linear(8, 8, name="fc")).to("cpu")(VECTORS),
    "two modules are called '1'": lambda: nn.Sequential(nn.Linear(8, 8, name="1"), nn.Linear(8, 8)).to(
        "cpu")(VECTORS),
    "Linear: its parameters have values already, of seed 0; call set_seed before they are used":
        lambda: _filled(nn.Linear(8, 2)).set_seed(1),
    "Linear: to share a parameter with another layer, call tie('weight', that layer)":
        lambda: setattr(nn.Linear(8, 2), "weight", _filled(nn.Linear(8, 2)).weight),
    "Linear: its weight of shape (2, 8) is tied to weight of Embedding, of shape (2, 7)":
        lambda: _tied(nn.Linear(8, 2), nn.Embedding(2, 7)).parameters(),
    "Linear has no parameter 'weigth' to tie; did you mean 'weight'":
        lambda: _tied(nn.Linear(8, 2), nn.Embedding(2, 8), "weigth").parameters(),
    "unknown dtype 'float16': expected float32 or float64": lambda: nn.ReLU().to(dtype="float16"),
    "unknown dtype 'bfloat16': expected float32 or float64; precision='bfloat16' is what products on a GPU":
        lambda: nn.ReLU().to("bfloat16"),
    "unknown dtype the class float16: expected float32 or float64; precision='float16'":
        lambda: nn.ReLU().to(np.float16),
    "fc: weight is in float64 on cpu, but Sequential computes in float32 on":
        lambda: nn.Sequential(fc=_filled(nn.Linear(8, 2).to("cpu", "float64")))(VECTORS),
    "the arguments of ReLU: expected arrays or Tensors, numbers, text, None, or tuples, lists and dicts of "
    "them, got object": lambda: nn.ReLU().to("cpu")(object()),
    "the arguments of ReLU: an array is no array of numbers (its dtype is complex128; convert it)":
        lambda: nn.ReLU().to("cpu")(VECTORS + 1j),
    "the arguments of ReLU: a Tensor with a gradient is on cpu in float32 (products in float32), but the "
    "module computes on cpu in float64": lambda: nn.ReLU().to("cpu", "float64")(
        md.Tensor(VECTORS.astype("f"), requires_grad=True)),
    "Sequential: the state does not fit: no array '0.weight'; did you mean '0.weigth'?; no array '0.bias'; "
    "an array '0.weigth' that the module has not": lambda: nn.Sequential(nn.Linear(8, 2)).to(
        "cpu").load_state_dict({"0.weigth": numbers(2, 8)}),
    "'weight': shape (2, 7), expected (2, 8)": lambda: nn.Linear(8, 2, bias=False).to("cpu").load_state_dict(
        {"weight": numbers(2, 7)}),
    "'weight': a NaN, an infinity or a number too large for float32": lambda: nn.Linear(
        1, 1, bias=False).to("cpu").load_state_dict({"weight": np.array([[1e60]])}),
    "ModuleList is a list: call its modules, or use nn.Sequential":
        lambda: nn.ModuleList([nn.ReLU()]).to("cpu")(VECTORS),
    "an array 'running_var' that the module has not; md.from_torch_state_dict(module.net_for(x), state)":
        lambda: nn.BatchNorm(2).to("cpu").load_state_dict(
            dict.fromkeys(("weight", "bias", "running_mean", "running_var"), np.ones(2))),
    "a Module cannot be pickled": lambda: pickle.dumps(nn.ReLU()),
    "a device cannot be pickled, nor what computes on it: save the state_dict() of a module, an optimizer":
        lambda: pickle.dumps(md.optim.Adam(nn.Linear(8, 2).to("cpu").parameters())),
    "copy.copy of ReLU would share what it holds; copy.deepcopy": lambda: copy.copy(nn.ReLU()),
    "LSTM: behind x stands `cont`, which says where sequences begin; states are given by name, state=(h, c)":
        lambda: nn.LSTM(3, 4).to("cpu")(numbers(5, 2, 3), (numbers(1, 2, 4), numbers(1, 2, 4))),
    "GRU: behind x stands `cont`, which says where sequences begin; states are given by name, state=(h,)":
        lambda: nn.GRU(3, 4).to("cpu")(numbers(5, 2, 3), numbers(1, 2, 4)),
    "Module: w is a Parameter, which parameters() would not find; hold self.w = nn.Weight(*shape), whose "
    "array is self.w.weight.data": lambda: setattr(nn.Module(), "w", md.Parameter(numbers(2))),
    "Module: ws holds a Parameter, which": lambda: setattr(nn.Module(), "ws", [md.Parameter(numbers(2))]),
}


def _filled(module):
    module.parameters()
    return module


def _tied(module, other, name="weight"):
    module.tie(name, other.to("cpu"))
    return module.to("cpu")


def test_arguments_that_are_missing_or_too_many():
    with pytest.raises(TypeError, match="^Linear: missing a required argument: 'x'; its forward takes x$"):
        nn.Linear(8, 2).to("cpu")()
    with pytest.raises(TypeError, match="^Linear: too many positional arguments; its forward takes x$"):
        nn.Linear(8, 2).to("cpu")(VECTORS, VECTORS)


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


@in_turn("words", list(MISTAKES))
def test_mistakes(words):
    with pytest.raises(md.MinidropError, match=re.escape(words)):
        MISTAKES[words]()


def test_a_missing_attribute_names_the_nearest():
    with pytest.raises(AttributeError, match="Sequential has no attribute 'fc'; did you mean 'fc1'?"):
        nn.Sequential(fc1=nn.ReLU()).fc     # noqa: B018
    with pytest.raises(TypeError, match="missing a required argument: 'x'"):
        nn.Sequential(nn.ReLU()).to("cpu")()
    with pytest.raises(NotImplementedError, match="Module needs a method forward"):
        nn.Module().to("cpu")()
