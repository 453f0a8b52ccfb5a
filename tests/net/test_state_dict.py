"""PyTorch's state_dict both ways: same outputs as the module, round trips, and what errors name."""

import re

import numpy as np
import pytest
from cases import in_turn
from nets import inputs, ip, layer, net_of, numbers

import minidrop as md
from minidrop import ConfigError, SnapshotError
from minidrop.layers import known_layers, layer_class
from minidrop.layers.base import Layer
from minidrop.net.torch_modules import known_forms

FILLERS = " ".join(f'{name}_filler {{ type: "uniform" min: -.5 max: .5 }}' for name in ("weight", "bias"))
SEQUENCE, IMAGES = numbers(5, 3, 7), numbers(3, 4, 6, 5)
CONT = np.arange(5)[:, None] * np.ones((5, 3)) > 0
WITHOUT = {"Scale", "Bias", "CRF", "AttentionDecoder", "Python"}      # of types with parameters


def recurrent(more=""):
    return f"recurrent_param {{ num_output: 4 {FILLERS} {more} }}"


def filled(net):
    """The net with numbers in all parameters, those that begin as 0 or 1 too."""
    for name, parameter in net.parameters().items():
        low = 0.5 if name.endswith(("variance", "scale_factor")) else -1
        values = numbers(*parameter.shape, seed=len(name), low=low, high=1.5)
        parameter.data[...] = net.backend.asarray(values)
    return net


def net_for(kind, settings, bottoms, more=()):
    names = "ab"[:len(bottoms)]
    own = layer(kind, "l", " ".join(names), "y", settings)
    return filled(net_of(inputs(*map(np.shape, bottoms)), own, *more, phase="TEST"))


def run_module(module, arrays):
    """What a module gives in use, in NumPy; of a recurrent one the first result."""
    torch = pytest.importorskip("torch")
    module.double().eval()
    with torch.no_grad():
        found = module(*(torch.from_numpy(array) for array in arrays))
    return (found[0] if isinstance(found, tuple) else found).numpy()


def product(more=""):
    return f"inner_product_param {{ num_output: 4 axis: 2 {more} {FILLERS} }}"


def convolution(more=""):
    return f"convolution_param {{ num_output: 6 kernel_size: 3 stride: 2 {more} {FILLERS} }}"


BOTH = (7, 4, 1, True, False, 0.0, True)        # of a recurrent module of two directions
# module: its arguments, and the layer that computes the same of the bottoms.
CASES = {
    "Linear": ((7, 4), "InnerProduct", product(), (SEQUENCE,)),
    "Linear transposed": ((7, 4), "InnerProduct", product("transpose: true"), (SEQUENCE,)),
    "Conv2d": ((4, 6, 3, 2, 1, 1, 2), "Convolution", convolution("pad: 1 group: 2"), (IMAGES,)),
    "ConvTranspose2d": ((4, 6, 3, 2), "Deconvolution", convolution(), (IMAGES,)),
    "Embedding": ((9, 4), "Embed", f"embed_param {{ num_output: 4 input_dim: 9 {FILLERS} }}",
                  (np.arange(8).reshape(4, 2),)),
    "LSTM": ((7, 4), "LSTM", recurrent(), (SEQUENCE, CONT)),
    "LSTM both": (BOTH, "LSTM", recurrent("bidirectional: true"), (SEQUENCE, CONT)),
    "GRU": ((7, 4), "GRU", recurrent(), (SEQUENCE, CONT)),
    "GRU both": (BOTH, "GRU", recurrent("bidirectional: true"), (SEQUENCE, CONT)),
    "RNN": ((7, 4), "RNN", recurrent("output_product: false"), (SEQUENCE, CONT)),
    "LayerNorm": ((7,), "LayerNorm", "", (SEQUENCE,)),
    "RMSNorm": ((7, 1e-6), "RMSNorm", "rms_norm_param { eps: 1e-6 }", (SEQUENCE,)),
    "PReLU": ((4,), "PReLU", "", (IMAGES,)),
    "PReLU of one": ((1,), "PReLU", "prelu_param { channel_shared: true }", (IMAGES,)),
    "BatchNorm2d": ((4, 1e-3), "BatchNorm", "batch_norm_param { eps: 1e-3 }", (IMAGES,)),
    "BatchNorm2d affine": ((4, 1e-3), "BatchNorm", "batch_norm_param { eps: 1e-3 }", (IMAGES,)),
}
SCALE = layer("Scale", "scale", "y", "z", "scale_param { bias_term: true }")


@in_turn("name", CASES)
def test_a_module_computes_the_same(name):
    torch = pytest.importorskip("torch")
    arguments, kind, settings, bottoms = CASES[name]
    more, top = ([SCALE], "z") if "affine" in name else ([], "y")
    net = net_for(kind, settings, bottoms, more)
    options = {"affine": bool(more)} if kind == "BatchNorm" else {}
    module = getattr(torch.nn, name.split()[0])(*arguments, **options)
    own = {f"l.{key}" for key in module.state_dict()}
    state = md.to_torch_state_dict(net)
    assert set(state) == own
    module.double().load_state_dict({key.removeprefix("l."): torch.from_numpy(array)
                                     for key, array in state.items()})
    given = {bottom: np.asarray(array, float) for bottom, array in zip("ab", bottoms, strict=False)}
    net.forward(**given)
    expected = net.blobs[top].numpy()
    np.testing.assert_allclose(run_module(module, bottoms[:1]), expected, rtol=1e-9, atol=1e-9)
    with torch.no_grad():               # and from a module with other numbers, its tensors as they are
        for number, parameter in enumerate(module.state_dict().values()):
            if parameter.is_floating_point():
                parameter.copy_(torch.from_numpy(numbers(*parameter.shape, seed=number, low=0.2, high=1)))
    md.from_torch_state_dict(net, module.state_dict(), {"l": ""})
    net.reset_states()
    net.forward(**given)
    np.testing.assert_allclose(run_module(module, bottoms[:1]), net.blobs[top].numpy(), rtol=1e-9, atol=1e-9)


def test_every_case_comes_back_as_it_was():
    for name, (_, kind, settings, bottoms) in CASES.items():
        net, other = (net_for(kind, settings, bottoms, [SCALE] * ("affine" in name)) for _ in range(2))
        state = md.to_torch_state_dict(net)
        for parameter in other.parameters().values():
            parameter.data[...] = 7
        md.from_torch_state_dict(other, state)
        again = md.to_torch_state_dict(other)
        assert again.keys() == state.keys()
        for key, array in state.items():
            if "bias_" not in key:          # whose sum counts
                np.testing.assert_allclose(again[key], array, rtol=1e-6, atol=1e-12, err_msg=f"{name} {key}")
        given = {bottom: np.asarray(array, float) for bottom, array in zip("ab", bottoms, strict=False)}
        outputs = []
        for one in (net, other):
            one.reset_states()
            outputs.append({key: tensor.numpy() for key, tensor in one.forward(**given).items()})
        for key, array in outputs[0].items():
            np.testing.assert_allclose(outputs[1][key], array, rtol=1e-6, atol=1e-9)


def test_every_type_with_parameters_has_a_module_or_none():
    with_parameters = {kind for kind in known_layers()
                       if layer_class(kind).parameter_specs is not Layer.parameter_specs}
    assert with_parameters == {*known_forms(), *WITHOUT}


def test_a_mapping_names_modules_and_layers_of_a_stack():
    torch = pytest.importorskip("torch")
    net = filled(net_of(inputs((5, 3, 7), (5, 3)), layer("LSTM", "lstm1", "a b", more=recurrent()),
                        layer("LSTM", "lstm2", "lstm1 b", more=recurrent()),
                        ip("scores", "lstm2", 2, "axis: 2"), phase="TEST"))

    class Tagger(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.head = torch.nn.LSTM(7, 4, 2), torch.nn.Sequential(torch.nn.Linear(4, 2))

        def forward(self, x):
            return self.head(self.rnn(x)[0])

    module = Tagger().double()
    mapping = {"lstm1": "rnn", "lstm2": ("rnn", 1), "scores": "head.0"}
    md.from_torch_state_dict(net, module.state_dict(), mapping)
    net.forward(a=SEQUENCE, b=CONT.astype(float))
    expected = net.blobs["scores"].numpy()
    np.testing.assert_allclose(run_module(module, [SEQUENCE]), expected, rtol=1e-9, atol=1e-9)
    assert md.to_torch_state_dict(net, mapping).keys() == module.state_dict().keys()


def test_errors_name_the_key():
    net = filled(net_of(inputs((4, 3)), ip("ip1", "a", 5), ip("ip2", "ip1", 2), phase="TEST"))
    good = md.to_torch_state_dict(net)
    before = {name: parameter.data.copy() for name, parameter in net.parameters().items()}

    def refused(expected, mapping=None, without=(), **changed):
        changed = {key.replace("__", "."): value for key, value in changed.items()}
        state = {key: array for key, array in {**good, **changed}.items() if key not in without}
        with pytest.raises((SnapshotError, ConfigError), match=expected):
            md.from_torch_state_dict(net, state, mapping)
        for name, parameter in net.parameters().items():
            np.testing.assert_array_equal(parameter.data, before[name])

    refused(r"expected the key 'ip2.weight', of shape \(2, 5\), got none", without=["ip2.weight"])
    refused("no layer reads the key 'ip3.weight'; did you mean 'ip2.weight' or 'ip1.weight'",
            ip3__weight=np.ones(3))
    refused(r"'ip1.weight' has shape \(3, 5\), this net expects \(5, 3\)", ip1__weight=np.ones((3, 5)))
    refused("'ip1.bias' has a NaN", ip1__bias=np.full(5, np.nan))
    refused("'ip1.bias': expected an array of numbers, got one of <U1", ip1__bias=np.array(list("abcde")))
    refused("mapping: the net has no layer 'ip9' with parameters; did you mean", {"ip9": "fc"})
    refused("expected the key 'fc.weight'", {"ip1": "fc"})
    md.from_torch_state_dict(net, {key: array for key, array in good.items() if key < "ip2"}, {"ip2": None})


def test_layers_without_a_module_are_listed():
    net = net_of(inputs((5, 3, 7), (5, 3), (3, 2)), layer("RNN", "rnn", "a b", more=recurrent()),
                 layer("GRU", "gru", "a b c", more=recurrent()),
                 layer("Scale", "scale", "gru", more="scale_param { axis: 2 }"), phase="TEST")
    with pytest.raises(ConfigError) as caught:
        md.to_torch_state_dict(net)
    lines = str(caught.value).split("\n")
    assert [line.split(": ")[1] for line in lines] == ["layer 'rnn' (RNN)", "layer 'gru' (GRU)",
                                                       "layer 'scale' (Scale)"]
    assert "set output_product: false" in lines[0] and "a static input" in lines[1]
    assert "mapping={'scale': None}" in lines[2]
    assert md.to_torch_state_dict(net, {"rnn": None, "gru": None, "scale": None}) == {}


def test_shared_weights_and_a_scale_without_bias():
    share = 'param { name: "w" }'
    net = net_of(inputs((4, 3)), ip("one", "a", 3, "bias_term: false", share),
                 ip("two", "one", 3, "bias_term: false", share), phase="TEST")
    state = md.to_torch_state_dict(net)
    np.testing.assert_array_equal(state["one.weight"], state["two.weight"])
    md.from_torch_state_dict(net, state)
    with pytest.raises(SnapshotError, match="one/weight and two/weight are one array in this net"):
        md.from_torch_state_dict(net, {**state, "two.weight": state["two.weight"] + 1})

    net = net_for("BatchNorm", "", (IMAGES,), [layer("Scale", "scale", "y", "z")])
    state = md.to_torch_state_dict(net)
    assert not state["l.bias"].any()
    md.from_torch_state_dict(net, state)
    with pytest.raises(SnapshotError, match="l.bias: the Scale behind the BatchNorm has no bias, but"):
        md.from_torch_state_dict(net, {**state, "l.bias": np.ones(4)})


@pytest.mark.gpu
def test_a_net_on_a_gpu(backend_of_name, tmp_path):
    """Arrays come to the host, and from there; so it is for files of weights and for ONNX."""
    texts = [inputs((4, 3)), ip("ip1", "a", 5), layer("BatchNorm", "norm", "ip1"),
             layer("Scale", "scale", "norm")]
    net, other = (filled(net_of(*texts, phase="TEST", device=device))
                  for device in ("cpu", backend_of_name("cuda:0")))
    state = md.to_torch_state_dict(net)
    md.from_torch_state_dict(other, {key: 2 * array for key, array in state.items()})
    for key, array in md.to_torch_state_dict(other).items():
        assert type(array) is np.ndarray
        np.testing.assert_allclose(array, 2 * state[key])
    pytest.importorskip("safetensors", reason="of the extra `safetensors`")
    other.save(tmp_path / "w.safetensors")
    net.load_weights(tmp_path / "w.safetensors")
    np.testing.assert_allclose(md.to_torch_state_dict(net)["ip1.weight"], 2 * state["ip1.weight"])
    pytest.importorskip("onnx", reason="of the extra `onnx`")
    assert md.export_onnx(other, tmp_path / "net.onnx").outputs == {"scale": ("N", 5)}


def test_modules_of_the_same_names_need_no_mapping():
    torch = pytest.importorskip("torch")
    nn = md.nn
    ours = nn.Sequential(block=nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm(4), nn.ReLU()),
                         flat=nn.Flatten(), out=nn.Linear(4 * 16, 2)).set_seed(0)
    block = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU())
    theirs = torch.nn.Sequential()
    for name, module in (("block", block), ("flat", torch.nn.Flatten()), ("out", torch.nn.Linear(64, 2))):
        theirs.add_module(name, module)
    x = numbers(5, 3, 6, 6).astype("f4")
    for _ in range(3):
        ours(x)                                 # statistics of their own
    expected = ours.eval()(x).numpy()
    state = md.to_torch_state_dict(ours.net_for(x))
    assert state.keys() == theirs.state_dict().keys()
    theirs.load_state_dict({key: torch.from_numpy(array) for key, array in state.items()})
    np.testing.assert_allclose(theirs.eval()(torch.from_numpy(x)).detach().numpy(), expected, atol=1e-5)
    theirs.get_parameter("block.1.weight").data.mul_(2)
    md.from_torch_state_dict(ours.net_for(x), theirs.state_dict())
    np.testing.assert_allclose(ours(x).numpy(), theirs(torch.from_numpy(x)).detach().numpy(), atol=1e-5)


class Twins(md.nn.Module):
    """One module that is called twice, as in siamese nets."""

    def __init__(self):
        self.body = md.nn.Sequential(md.nn.Linear(3, 5), md.nn.BatchNorm(5), md.nn.ReLU(), md.nn.Linear(5, 2))

    def forward(self, a, b):
        return self.body(a) - self.body(b)


def test_a_module_that_is_called_twice_has_its_keys_once():
    torch = pytest.importorskip("torch")
    ours, x, y = Twins().set_seed(0), numbers(4, 3).astype("f4"), numbers(4, 3, seed=1).astype("f4")
    ours(x, y)                                  # statistics
    body = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.BatchNorm1d(5), torch.nn.ReLU(),
                               torch.nn.Linear(5, 2)).eval()
    theirs = torch.nn.ModuleDict({"body": body})
    net = ours.eval().net_for(x, y)
    theirs.load_state_dict({key: torch.from_numpy(array) for key, array in
                            md.to_torch_state_dict(net).items()})
    expected = (body(torch.from_numpy(x)) - body(torch.from_numpy(y))).detach().numpy()
    np.testing.assert_allclose(ours(x, y).numpy(), expected, atol=1e-5)
    body[0].weight.data.mul_(2)
    md.from_torch_state_dict(net, theirs.state_dict())
    np.testing.assert_array_equal(ours.body[0].weight.numpy(), body[0].weight.detach().numpy())
    # Who names the second one gets it.
    assert "again.weight" in md.to_torch_state_dict(net, {"body.0_2": "again"})
    # It may have keys of its own, as where PyTorch's module has two names.
    state = md.to_torch_state_dict(net)
    further = {f"body.0_2.{end}": state[f"body.0.{end}"] for end in ("weight", "bias")}
    md.from_torch_state_dict(net, state | further)
    with pytest.raises(md.SnapshotError, match="are one array in this net, but the values for them differ"):
        md.from_torch_state_dict(net, state | further | {"body.0_2.bias": state["body.0.bias"] + 1})


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("memory", [None, 6])
def test_attention_whose_products_are_one_array(bias, memory):
    torch = pytest.importorskip("torch")
    ours = md.nn.Sequential(attn=md.nn.MultiHeadAttention(8, 2, bias=bias, memory_width=memory)).eval()
    attention = torch.nn.MultiheadAttention(8, 2, bias=bias, kdim=memory, vdim=memory)
    theirs = torch.nn.ModuleDict({"attn": attention})
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter)
    x, y = numbers(5, 3, 8).astype("f4"), numbers(4, 3, memory or 8).astype("f4")
    attention = ours.attn
    net = attention.net_for(x, y)
    md.from_torch_state_dict(net, theirs.state_dict())
    expected = theirs["attn"](*map(torch.from_numpy, (x, y, y)))[0].detach().numpy()
    np.testing.assert_allclose(attention(x, y).numpy(), expected, rtol=1e-4, atol=1e-5)
    names = {f"attn.{own}": own for own in ("q", "k", "v", "out")}
    md.from_torch_state_dict(net, theirs["attn"].state_dict(), names)
    np.testing.assert_allclose(attention(x, y).numpy(), expected, rtol=1e-4, atol=1e-5)


def test_attention_in_one_array_that_does_not_fit():
    net = md.nn.MultiHeadAttention(4, 2).net_for(numbers(2, 1, 4))
    state = md.to_torch_state_dict(net)
    before = {key: array.copy() for key, array in state.items()}
    joined = {"out_proj.weight": state["out.weight"], "out_proj.bias": state["out.bias"],
              "in_proj_weight": np.ones((11, 4)), "in_proj_bias": np.ones(12)}
    for change, words in (
            ({}, "'in_proj_weight' has shape (11, 4), this net expects the rows of q.weight, k.weight, "
                 "v.weight, 4 + 4 + 4"),
            ({"in_proj_weight": np.ones((12, 5))}, "'q.weight' has shape (4, 5), this net expects (4, 4)"),
            ({"in_proj_weight": np.full((12, 4), np.nan)}, "'q.weight' has a NaN"),
            ({"in_proj_weight": np.ones((12, 4)), "bias_k": np.ones((1, 1, 4))},
             "no layer reads the key 'bias_k'")):
        with pytest.raises(md.SnapshotError, match=re.escape(words)):
            md.from_torch_state_dict(net, joined | change)
    after = md.to_torch_state_dict(net)
    assert all(np.array_equal(after[key], before[key]) for key in before)
