"""The layers LSTM, GRU and RNN: against PyTorch's, their states, bottoms, settings and hidden_dropout."""

import numpy as np
import pytest
from cases import every_pair, in_turn

import minidrop as md
from minidrop import ConfigError, ShapeError
from minidrop.config import parse_net
from minidrop.testing import run_once

KINDS = {"LSTM": 4, "GRU": 3, "RNN": 1}          # gates
TYPES = {"LSTM": 'type: "LSTM"', "GRU": 'type: "GRU"', "RNN": 'type: "RNN"'}
every_kind = pytest.mark.parametrize("kind", KINDS)
FILLERS = ('weight_filler { type: "uniform" min: -0.4 max: 0.4 } bias_filler { type: "uniform" min: -0.5 '
           'max: 0.5 }')
STEPS, STREAMS, INPUTS, UNITS = 5, 3, 6, 4


def inputs_text(**shapes):
    """An Input layer for every blob."""
    return "\n".join(f'layer {{ name: "in_{name}" type: "Input" top: "{name}" input_param {{ shape {{ '
                     f'{" ".join(f"dim: {length}" for length in shape)} }} }} }}'
                     for name, shape in shapes.items())


def recurrent(kind, name="r", bottoms=("x", "cont"), tops=None, units=UNITS, settings=""):
    blobs = " ".join([*(f'bottom: "{blob}"' for blob in bottoms), *(f'top: "{blob}"' for blob in tops
                                                                    or (name,))])
    if kind == "RNN" and "output_product" not in settings:
        settings += " output_product: false"        # PyTorch's
    return (f'layer {{ name: "{name}" {TYPES[kind]} {blobs} recurrent_param {{ num_output: {units} {FILLERS} '
            f'{settings} }} }}')


def net_of(*layers, x=(STEPS, STREAMS, INPUTS), phase="TRAIN", dtype="float64", seed=0, **shapes):
    return md.Net(parse_net("\n".join([inputs_text(x=x, cont=x[:2], **shapes), *layers]), "net.prototxt"),
                  phase, "cpu", dtype, seed)


def numbers(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def ones(steps=STEPS, streams=STREAMS):
    return np.ones((steps, streams))


def forward(net, **inputs):
    return {name: tensor.numpy() for name, tensor in net.forward(**inputs).items()}


# -- against PyTorch -----------------------------------------------------------------------------------------
@pytest.fixture
def torch():
    """PyTorch on one thread: its products are tiny here, and waiting threads cost more than they do."""
    torch = pytest.importorskip("torch", reason="PyTorch (the extra `peers`) is the reference here")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield torch
    torch.set_num_threads(threads)


def theirs(torch, net, kind, inputs, units, layers, both, dtype):
    """Return PyTorch's module with the parameters of the layers r0, r1, .., of another order of gates and two
    biases."""
    module = getattr(torch.nn, kind)(inputs, units, num_layers=layers,
                                     bidirectional=both).to(getattr(torch, dtype))
    with torch.no_grad():
        for i in range(layers):
            own = {name: parameter.data for name, parameter in net.params[f"r{i}"].items()}
            for prefix, suffix in (("", ""), ("reverse_", "_reverse"))[:1 + both]:
                weight, bias, recurrent_weight = (own[prefix + name]
                                                  for name in ("weight", "bias", "recurrent_weight"))
                other = own.get(f"{prefix}recurrent_bias", np.zeros_like(bias))
                for name, value in (("weight_ih", weight), ("weight_hh", recurrent_weight), ("bias_ih", bias),
                                    ("bias_hh", other)):
                    getattr(module,
                            f"{name}_l{i}{suffix}").copy_(torch.from_numpy(value[gate_order(kind, units)]))
    return module


def gate_order(kind, units):
    """Where PyTorch's gates i f g o stand among i f o g."""
    blocks = (0, 1, 3, 2) if kind == "LSTM" else range(KINDS[kind])
    return np.concatenate([np.arange(units) + k * units for k in blocks])


def assert_equals_torch(torch, kind, sizes, layers, both, dtype, carried):
    """One or two batches, h and all gradients; with `carried`, the second goes on where the first ended."""
    steps, streams, inputs, units = sizes
    stack = [recurrent(kind, f"r{i}", (f"r{i - 1}" if i else "x", "cont"), units=units,
                       settings=f"bidirectional: {str(both).lower()}") for i in range(layers)]
    top = f"r{layers - 1}"
    stack.append(f'layer {{ name: "loss" type: "EuclideanLoss" bottom: "{top}" bottom: "target" top: "loss" '
                 f'}}')
    stack.append(f'layer {{ name: "out" type: "Split" bottom: "{top}" top: "out" }}')
    target = numbers(steps, streams, units * (1 + both), seed=9)
    net = net_of(*stack, x=(steps, streams, inputs), dtype=dtype, seed=3, target=target.shape)
    module, state = theirs(torch, net, kind, inputs, units, layers, both, dtype), None
    tolerance = {"float64": 1e-12, "float32": 2e-6}[dtype]
    for batch in range(1 + carried):
        x = numbers(*sizes[:3], seed=batch)
        given = torch.tensor(x, dtype=getattr(torch, dtype), requires_grad=True)
        expected, state = module(given, state)
        state = tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()
        module.zero_grad()
        (0.5 * ((expected - torch.tensor(target, dtype=given.dtype)) ** 2).sum() / steps).backward()
        inputs_now = {"x": x, "cont": ones(steps, streams), "target": target}
        outputs, gradients = run_once(net, batch, inputs_now)
        net.forward(**inputs_now)           # carries the states on, run_once does not
        if not carried:
            net.reset_states()
        pairs = {"h": (outputs["out"], expected), "input/x": (gradients["input/x"], given.grad)}
        for i in range(layers):
            for prefix, suffix in (("", ""), ("reverse_", "_reverse"))[:1 + both]:
                for ours, name in (("weight", "weight_ih"), ("recurrent_weight", "weight_hh"),
                                   ("bias", "bias_ih"), ("recurrent_bias", "bias_hh")):
                    if f"r{i}/{prefix}{ours}" in gradients:
                        inverse = np.argsort(gate_order(kind, units))
                        pairs[f"r{i}/{prefix}{ours}"] = (gradients[f"r{i}/{prefix}{ours}"],
                                                         getattr(module,
                                                                 f"{name}_l{i}{suffix}").grad[inverse])
        assert set(gradients) - {"input/target", "input/cont"} == set(pairs) - {"h"}
        for name, (got, wanted) in pairs.items():
            wanted = wanted.detach().numpy()
            size = max(1.0, abs(wanted).max())
            np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * size, err_msg=f"{name}, batch "
                                       f"{batch}")


SIZES = [(5, 3, 6, 4), (1, 1, 1, 1), (7, 2, 3, 5), (2, 6, 9, 1), (12, 9, 8, 17)]


@every_pair(("layers", [1, 2]), ("sizes", SIZES), ("kind", list(KINDS)))
class TestAgainstTorch:
    @in_turn("carried", [False, True])
    def test_one_direction(self, torch, kind, sizes, layers, carried, dtype):
        assert_equals_torch(torch, kind, sizes, layers, False, dtype, carried)

    def test_both_directions(self, torch, kind, sizes, layers, dtype):
        assert_equals_torch(torch, kind, sizes, layers, True, dtype, False)


@pytest.mark.parametrize("both", [False, True])
@every_kind
def test_padded_sequences_are_those_that_torch_packs(torch, kind, both):
    """Outputs at every word, and gradients: no direction reads padding, whatever stands there."""
    lengths, width = [5, 2, 4], UNITS * (1 + both)
    inside = np.arange(STEPS)[:, None] < lengths
    cont = inside.astype(float)
    cont[0] = 0
    loss = 'layer { name: "loss" type: "EuclideanLoss" bottom: "words" bottom: "t" top: "loss" }'
    words = ('layer { name: "w" type: "Eltwise" bottom: "r0" bottom: "m" top: "words" '
             'eltwise_param { operation: PROD } }')
    shape = (STEPS, STREAMS, width)
    net = net_of(recurrent(kind, "r0", settings=f"bidirectional: {str(both).lower()}"), words, loss, t=shape,
                 m=shape)
    module = theirs(torch, net, kind, INPUTS, UNITS, 1, both, "float64")
    x, target = numbers(STEPS, STREAMS, INPUTS), numbers(*shape) * inside[:, :, None]
    given = torch.tensor(x, requires_grad=True)
    rnn = torch.nn.utils.rnn
    packed = module(rnn.pack_padded_sequence(given, lengths, enforce_sorted=False))[0]
    expected = rnn.pad_packed_sequence(packed, total_length=STEPS)[0]
    (0.5 * ((expected - torch.tensor(target)) ** 2).sum() / STEPS).backward()
    mask = np.broadcast_to(inside[:, :, None], shape).astype(float)
    outputs, gradients = run_once(net, 0, {"x": x, "cont": cont, "t": target, "m": mask})
    close = {"rtol": 0, "atol": 1e-12}
    np.testing.assert_allclose(net.blobs["words"].numpy(), expected.detach().numpy(), **close)
    np.testing.assert_allclose(gradients["input/x"], given.grad.numpy(), **close)
    inverse = np.argsort(gate_order(kind, UNITS))
    for prefix, suffix in (("", ""), ("reverse_", "_reverse"))[:1 + both]:
        for ours, name in (("weight", "weight_ih"), ("recurrent_weight", "weight_hh"), ("bias", "bias_ih")):
            wanted = getattr(module, f"{name}_l0{suffix}").grad.numpy()[inverse]
            np.testing.assert_allclose(gradients[f"r0/{prefix}{ours}"], wanted, **close)


# -- states --------------------------------------------------------------------------------------------------
@every_kind
def test_carried_batches_equal_one_long_sequence(kind):
    x, cont = numbers(12, STREAMS, INPUTS), np.ones((12, STREAMS))
    cont[3, 1] = cont[7, 0] = cont[8, 2] = 0
    whole = forward(net_of(recurrent(kind), x=x.shape), x=x, cont=cont)["r"]
    net = net_of(recurrent(kind), x=(4, STREAMS, INPUTS))
    parts = [forward(net, x=x[i:i + 4], cont=cont[i:i + 4])["r"] for i in (0, 4, 8)]
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=0, atol=1e-14)
    net.reset_states()
    np.testing.assert_array_equal(forward(net, x=x[:4], cont=cont[:4])["r"], parts[0])


@every_kind
def test_states_are_those_of_the_last_step(kind):
    net = net_of(recurrent(kind))
    names = ("h", "c") if kind == "LSTM" else ("h",)
    assert {key: array.tolist() for key, array in net.states.items()} == {
        ("r", name): np.zeros((STREAMS, UNITS)).tolist() for name in names}
    h = forward(net, x=numbers(STEPS, STREAMS, INPUTS), cont=ones())["r"]
    np.testing.assert_array_equal(net.states["r", "h"], h[-1])
    before = net.states
    kept = {key: array.copy() for key, array in before.items()}
    net.forward(x=numbers(STEPS, STREAMS, INPUTS), cont=ones())
    for key, array in before.items():           # a pass makes new arrays
        np.testing.assert_array_equal(array, kept[key])
        assert (net.states[key] != array).any()


@every_kind
def test_where_cont_is_0_a_stream_begins_anew(kind):
    x, cont = numbers(STEPS, STREAMS, INPUTS), ones()
    cont[0] = [0, 1, 1]
    cont[2, 1] = 0
    net = net_of(recurrent(kind))
    net.forward(x=numbers(STEPS, STREAMS, INPUTS, seed=1), cont=ones())
    carried = net.states
    h = forward(net, x=x, cont=cont)["r"]
    fresh = forward(net_of(recurrent(kind)), x=x, cont=ones())["r"]
    np.testing.assert_allclose(h[:, 0], fresh[:, 0], rtol=0, atol=1e-14)
    later = forward(net_of(recurrent(kind), x=(3, STREAMS, INPUTS)), x=x[2:], cont=ones(3))["r"]
    np.testing.assert_allclose(h[2:, 1], later[:, 1], rtol=0, atol=1e-14)
    other = net_of(recurrent(kind))
    other.set_states(carried)
    np.testing.assert_array_equal(forward(other, x=x, cont=ones())["r"][:, 2], h[:, 2])
    assert (h[0, 1:] != fresh[0, 1:]).all()


@every_kind
def test_no_gradient_goes_back_into_the_batch_before(kind):
    """Truncated: the second batch's gradients are those of a net whose states were set as constants."""
    layers = [recurrent(kind), 'layer { name: "loss" type: "EuclideanLoss" bottom: "r" bottom: "t" top: '
              '"loss" }']
    data = {"cont": ones(), "t": numbers(STEPS, STREAMS, UNITS)}
    net, other = (net_of(*layers, t=data["t"].shape) for _ in range(2))
    net.forward(x=numbers(STEPS, STREAMS, INPUTS, seed=1), **data)
    net.backward()
    other.set_states(net.states)
    second = {"x": numbers(STEPS, STREAMS, INPUTS, seed=2), **data}
    for got, wanted in zip(run_once(net, 0, second), run_once(other, 0, second), strict=True):
        for name in wanted:
            np.testing.assert_array_equal(got[name], wanted[name], err_msg=name)


@every_kind
def test_exposed_states_equal_carrying_by_hand(kind):
    names = ("h", "c") if kind == "LSTM" else ("h",)
    shapes = {f"{name}0": (1, STREAMS, UNITS) for name in names}
    exposed = net_of(recurrent(kind, bottoms=("x", "cont", *shapes),
                               tops=("r", *[f"{name}T" for name in names]), settings="expose_hidden: true"),
                     **shapes)
    carrying = net_of(recurrent(kind))
    assert exposed.states == {}
    states = {name: np.zeros(shape) for name, shape in shapes.items()}
    for batch in range(3):
        given = {"x": numbers(STEPS, STREAMS, INPUTS, seed=batch), "cont": ones()}
        given["cont"][batch, 0] = 0
        outputs = forward(exposed, **given, **states)
        np.testing.assert_array_equal(outputs["r"], forward(carrying, **given)["r"])
        states = {f"{name}0": outputs[f"{name}T"] for name in names}
        for name in names:
            assert outputs[f"{name}T"].shape == (1, STREAMS, UNITS)
            np.testing.assert_array_equal(outputs[f"{name}T"][0], carrying.states["r", name])


@every_kind
def test_the_tops_of_exposed_states_may_be_left_out(kind):
    names = ("h0", "c0")[:1 + (kind == "LSTM")]
    shapes = dict.fromkeys(names, (1, STREAMS, UNITS))
    net = net_of(recurrent(kind, bottoms=("x", "cont", *names), settings="expose_hidden: true"), **shapes)
    given = {name: numbers(*shape, seed=4) for name, shape in shapes.items()}
    h = forward(net, x=numbers(STEPS, STREAMS, INPUTS), cont=ones(), **given)["r"]
    other = net_of(recurrent(kind))
    other.set_states({("r", name[0]): array[0] for name, array in given.items()})
    np.testing.assert_array_equal(h, forward(other, x=numbers(STEPS, STREAMS, INPUTS), cont=ones())["r"])


def test_what_reads_both_ways_carries_nothing():
    net = net_of(recurrent("LSTM", settings="bidirectional: true"))
    assert net.states == {}
    given = {"x": numbers(STEPS, STREAMS, INPUTS), "cont": ones()}
    np.testing.assert_array_equal(forward(net, **given)["r"], forward(net, **given)["r"])


@every_kind
def test_backward_in_time_a_sequence_ends_where_the_next_begins(kind):
    """Two sequences in one stream equal two batches of one, in both directions."""
    x, cont = numbers(6, 1, INPUTS), ones(6, 1)
    cont[[0, 2]] = 0
    whole = forward(net_of(recurrent(kind, settings="bidirectional: true"), x=x.shape), x=x, cont=cont)["r"]
    for part in (slice(0, 2), slice(2, 6)):
        alone = forward(net_of(recurrent(kind, settings="bidirectional: true"), x=x[part].shape), x=x[part],
                        cont=cont[part])
        np.testing.assert_allclose(whole[part], alone["r"], rtol=0, atol=1e-14)


# -- bottoms -------------------------------------------------------------------------------------------------
@in_turn("static", [(STREAMS, 2), (STREAMS,), (STREAMS, 2, 3)])
@in_turn("settings", ["", "bidirectional: true"])
@every_kind
def test_a_static_input_equals_one_concatenated_to_every_step(kind, settings, static):
    s, x = numbers(*static, seed=1), numbers(STEPS, STREAMS, INPUTS)
    loss = 'layer { name: "loss" type: "EuclideanLoss" bottom: "r" bottom: "t" top: "loss" }'
    t = numbers(STEPS, STREAMS, UNITS * (2 if settings else 1), seed=2)
    net = net_of(recurrent(kind, bottoms=("x", "cont", "s"), settings=settings), loss, s=static, t=t.shape)
    flat = s.reshape(STREAMS, -1)
    joined = np.concatenate([x, np.broadcast_to(flat, (STEPS, *flat.shape))], axis=2)
    other = net_of(recurrent(kind, settings=settings), loss, x=joined.shape, t=t.shape)
    for name, parameter in other.params["r"].items():
        parameter.data[...] = (net.params["r"][name].data if not name.endswith("weight")
                               or "recurrent" in name else np.concatenate([net.params["r"][name].data,
                                               net.params["r"][name.replace("weight", "static_weight")].data],
                                                                          axis=1))
    (got, gradients), (wanted, expected) = (run_once(net, 0, {"x": x, "cont": ones(), "s": s, "t": t}),
                                            run_once(other, 0, {"x": joined, "cont": ones(), "t": t}))
    close = {"rtol": 0, "atol": 1e-12}
    np.testing.assert_allclose(got["loss"], wanted["loss"], **close)
    np.testing.assert_allclose(gradients["input/x"], expected["input/x"][:, :, :INPUTS], **close)
    np.testing.assert_allclose(gradients["input/s"].reshape(STREAMS, -1),
                               expected["input/x"][:, :, INPUTS:].sum(axis=0), **close)
    for prefix in ("", "reverse_") if settings else ("",):
        weight = expected[f"r/{prefix}weight"]
        np.testing.assert_allclose(gradients[f"r/{prefix}weight"], weight[:, :INPUTS], **close)
        np.testing.assert_allclose(gradients[f"r/{prefix}static_weight"], weight[:, INPUTS:], **close)
        np.testing.assert_allclose(gradients[f"r/{prefix}recurrent_weight"],
                                   expected[f"r/{prefix}recurrent_weight"], **close)


@every_kind
def test_images_at_every_step_are_flattened(kind):
    x = numbers(STEPS, STREAMS, 2, 3, 4)
    net, flat = net_of(recurrent(kind), x=x.shape), net_of(recurrent(kind), x=(STEPS, STREAMS, 24))
    np.testing.assert_array_equal(forward(net, x=x, cont=ones())["r"],
                                  forward(flat, x=x.reshape(STEPS, STREAMS, 24), cont=ones())["r"])
    for one, spread in ((net, 12), (flat, 1)):
        assert next(node.products[0].in_spread for node in one.graph.nodes if node.name == "r") == spread


@every_kind
def test_what_a_drop_above_leaves_out_is_not_read(kind):
    drop = ('layer { name: "d" type: "ApproxDropout" bottom: "x" top: "d" approx_dropout_param { pattern: '
            '"UNIT" } }')
    net = net_of(drop, recurrent(kind, bottoms=("d", "cont")))
    assert list(net.plan.lines())[-1] == "r reads only the units kept by d"
    images = net_of(drop, recurrent(kind, bottoms=("d", "cont")), x=(STEPS, STREAMS, 2, 3, 4))
    assert list(images.plan.lines())[1] == f"the units dropped by d are put back as zeros before r ({kind})"
    net.forward(x=numbers(STEPS, STREAMS, INPUTS), cont=ones())
    assert net.blobs["d"].kept.count == 3 and net.blobs["r"].kept is None


# -- Caffe's RNN ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("more", ["static", "expose_hidden", "bidirectional"])
def test_the_rnn_of_a_caffe_file_has_an_output_product(torch, more):
    """rnn_layer.cpp, step by step: top, state, gradients, and the order of the parameters."""
    both, bottoms, shapes, tops = more == "bidirectional", ("x", "cont"), {}, ("r",)
    if more == "static":
        bottoms, shapes = (*bottoms, "s"), {"s": (STREAMS, 2)}
    elif more == "expose_hidden":
        bottoms, shapes, tops = (*bottoms, "h0"), {"h0": (1, STREAMS, UNITS)}, ("r", "hT")
    given = {name: numbers(*shape, seed=5) for name, shape in shapes.items()}
    given |= {"x": numbers(STEPS, STREAMS, INPUTS), "cont": ones(),
              "t": numbers(STEPS, STREAMS, UNITS * (1 + both))}
    given["cont"][2, 1] = given["cont"][0, 0] = 0
    settings = f"output_product: true {more}: true" if more != "static" else "output_product: true"
    loss = 'layer { name: "loss" type: "EuclideanLoss" bottom: "o" bottom: "t" top: "loss" }'
    split = 'layer { name: "split" type: "Split" bottom: "r" top: "o" top: "out" }'
    net = net_of(recurrent("RNN", bottoms=bottoms, tops=tops, settings=settings), split, loss,
                 t=given["t"].shape, **shapes)
    outputs, gradients = run_once(net, 0, given)
    static = ["static_weight"] * (more == "static")
    names = ["weight", "bias", *static, "recurrent_weight", "output_weight", "output_bias"]
    assert list(net.params["r"]) == names + [f"reverse_{name}" for name in names] * both
    values = {name: torch.tensor(p.data, requires_grad=True) for name, p in net.params["r"].items()}
    x, cont = torch.tensor(given["x"], requires_grad=True), torch.tensor(given["cont"])

    def direction(prefix, order):
        own = {name: values[prefix + name] for name in names}
        h = torch.tensor(given["h0"][0]) if "h0" in given else torch.zeros(STREAMS, UNITS).double()
        tops = [None] * STEPS
        for t in order:
            joined = cont[t] if not prefix else cont[t + 1] if t + 1 < STEPS else torch.zeros(STREAMS)
            h = x[t] @ own["weight"].T + own["bias"] + (joined[:, None] * h) @ own["recurrent_weight"].T
            if static:
                h = h + torch.tensor(given["s"]) @ own["static_weight"].T
            h = torch.tanh(h)
            tops[t] = torch.tanh(h @ own["output_weight"].T + own["output_bias"])
        return torch.stack(tops), h

    expected, last = direction("", range(STEPS))
    if both:
        expected = torch.cat([expected, direction("reverse_", range(STEPS)[::-1])[0]], 2)
    (0.5 * ((expected - torch.tensor(given["t"])) ** 2).sum() / STEPS).backward()
    close = {"rtol": 0, "atol": 1e-12}
    np.testing.assert_allclose(outputs["out"], expected.detach().numpy(), **close)
    if more == "expose_hidden":
        np.testing.assert_allclose(outputs["hT"][0], last.detach().numpy(), **close)
    for name, value in values.items():
        np.testing.assert_allclose(gradients[f"r/{name}"], value.grad.numpy(), err_msg=name, **close)
    np.testing.assert_allclose(gradients["input/x"], x.grad.numpy(), **close)


def test_a_file_that_says_nothing_of_the_output_product_means_caffes():
    plain = recurrent("RNN", settings="output_product: true").replace("output_product: true", "")
    assert "output_weight" in net_of(plain).params["r"]
    assert "output_weight" not in net_of(recurrent("RNN")).params["r"]
    assert "output_product is a setting of RNN; GRU has none" in error_of(
        recurrent("GRU", settings="output_product: false"), x=X3, cont=CONT2)


# -- settings ------------------------------------------------------------------------------------------------
X3, CONT2 = (STEPS, STREAMS, INPUTS), (STEPS, STREAMS)


def error_of(text, **shapes):
    with pytest.raises((ConfigError, ShapeError)) as caught:
        md.Net(parse_net("\n".join([inputs_text(**shapes), text]), "net.prototxt"), device="cpu")
    return str(caught.value)


@in_turn("settings, shapes, tops, message", [
    ("", {"x": (5, 3), "cont": (5, 3)}, 1,
     "expected x (steps, streams, inputs) and cont (steps, streams), got (5, 3) and (5, 3)"),
    ("", {"x": X3, "cont": (5, 2)}, 1,
     "expected x (steps, streams, inputs) and cont (steps, streams), got (5, 3, 6) and (5, 2)"),
    ("", {"x": X3, "cont": (5, 3, 1)}, 1,
     "expected x (steps, streams, inputs) and cont (steps, streams), got (5, 3, 6) and (5, 3, 1)"),
    ("expose_hidden: true bidirectional: true", {"x": X3, "cont": CONT2}, 1,
     "expose_hidden and bidirectional are both true; a state that goes on in time has one direction"),
    ("", {"x": X3, "cont": CONT2, "s": (3, 2), "more": (3, 2)}, 1,
     "expected the bottoms x, cont, at most one static input, got 4"),
    ("expose_hidden: true", {"x": X3, "cont": CONT2}, 1, "expected the bottoms x, cont, then 2 states "
     "(expose_hidden), got 2"),
    ("expose_hidden: true", {"x": X3, "cont": CONT2, "h": (1, 3, 4)}, 1,
     "expected the bottoms x, cont, then 2 states (expose_hidden), got 3"),
    ("expose_hidden: true", {"x": X3, "cont": CONT2, "h": (1, 3, 4), "c": (3, 4)}, 1,
     "expected the state c as (1, 3, 4), got (3, 4)"),
    ("expose_hidden: true", {"x": X3, "cont": CONT2, "h": (1, 3, 5), "c": (1, 3, 4)}, 1,
     "expected the state h as (1, 3, 4), got (1, 3, 5)"),
    ("", {"x": X3, "cont": CONT2, "s": (5, 2)}, 1, "expected a static input for 3 streams, got shape (5, 2)"),
    ("", {"x": X3, "cont": CONT2}, 2, "expected 1 top, got 2"),
    ("expose_hidden: true", {"x": X3, "cont": CONT2, "h": (1, 3, 4), "c": (1, 3, 4)}, 2, "expected 1 top or "
     "3, got 2"),
    ("hidden_dropout { dropout_ratio: 0.5 reshuffle_interval: 3 }", {"x": X3, "cont": CONT2}, 1,
     "hidden_dropout: the units of a recurrent layer cannot be permuted; remove reshuffle_interval"),
    ("hidden_dropout { axis: 1 }", {"x": X3, "cont": CONT2}, 1, "hidden_dropout drops units of the state, "
     "which are axis 2 of (steps, streams, units), got axis: 1; remove axis"),
    ('hidden_dropout { pattern: "TILE" }', {"x": X3, "cont": CONT2}, 1,
     "hidden_dropout needs a pattern of units, got TILE, which drops weights; set pattern to PERIODIC"),
    ('hidden_dropout { pattern: "BLOCK" }', {"x": X3, "cont": CONT2}, 1,
     "hidden_dropout needs a pattern of units, got BLOCK, which drops blocks; set pattern to PERIODIC"),
    ('hidden_dropout { time: STEP scale: PATTERN }', {"x": X3, "cont": CONT2}, 1,
     "time STEP has one scale for all steps, RATE; remove scale"),
    ("hidden_dropout { dropout_ratio: 1 } hidden_dropout_type: CONVENTIONAL", {"x": X3, "cont": CONT2}, 1,
     "hidden_dropout: dropout_ratio must lie in [0, 1), got 1"),
    ("hidden_dropout { dropout_ratio: -0.5 } hidden_dropout_type: CONVENTIONAL", {"x": X3, "cont": CONT2}, 1,
     "hidden_dropout: dropout_ratio must lie in [0, 1), got -0.5"),
])
def test_what_is_refused(settings, shapes, tops, message):
    told = error_of(recurrent("LSTM", bottoms=tuple(shapes), tops=("a", "b", "c")[:tops], settings=settings),
                    **shapes)
    assert (told.startswith("net.prototxt:") and "layer 'r' (LSTM): " in told and message in told
            and "\n" not in told)


def test_num_output_is_needed():
    told = error_of('layer { name: "r" type: "GRU" bottom: "x" bottom: "cont" top: "r" }', x=X3, cont=CONT2)
    assert "layer 'r' (GRU): recurrent_param needs num_output, at least 1" in told


@pytest.mark.parametrize("settings, message", [
    ('pattern: "TILE" time: STEP', "time STEP needs a pattern of units, got TILE, which drops weights; "
     "remove time"),
    ('pattern: "BLOCK" time: STEP', "time STEP needs a pattern of units, got BLOCK, which drops blocks; "
     "remove time"),
    ("time: STEP scale: PATTERN", "time STEP has one scale for all steps, RATE; remove scale"),
])
def test_drops_by_steps_that_are_refused(settings, message):
    drop = (f'layer {{ name: "d" type: "ApproxDropout" bottom: "x" top: "d" approx_dropout_param {{ '
            f'{settings} }} }}')
    assert message in error_of(drop, x=X3)


def test_a_drop_by_steps_is_for_sequences():
    drop = ('layer { name: "d" type: "ApproxDropout" bottom: "x" top: "d" approx_dropout_param { time: STEP '
            '} }')
    assert "time STEP is for sequences (steps, streams, units), but the bottom has 2 axes" in error_of(drop,
                                                                                                       x=(5,
                                                                                                          6))


# -- hidden_dropout_type CONVENTIONAL ------------------------------------------------------------------------
def conventional(kind="LSTM", time="SEQUENCE", rate=0.3, units=UNITS, **options):
    settings = f"hidden_dropout {{ dropout_ratio: {rate} time: {time} }} hidden_dropout_type: CONVENTIONAL"
    return net_of(recurrent(kind, units=units, settings=settings), **options)


def hidden_mask(net, iteration):
    """What the layer multiplies its state by in this iteration, as it is."""
    from minidrop.autograd import Tensor
    net.draw_patterns(iteration)
    layer = net.layers["r"]
    return layer.hidden.of(Tensor(numbers(*X3)), layer.drawn, layer.plan.skips).mask


@every_kind
def test_sequence_masks_units_of_streams_for_all_steps(kind):
    """The dropped units of a stream are zero in every step of the top, the others are scaled; each batch
    draws anew."""
    net, seen = conventional(kind, rate=0.5, units=50), []
    for iteration in range(4):
        net.draw_patterns(iteration)
        h = forward(net, x=numbers(STEPS, STREAMS, INPUTS), cont=ones())["r"]
        zero = h == 0
        assert (zero == zero[0]).all() and (zero[0, 0] != zero[0, 1]).any()
        seen.append(zero[0])
        mask = hidden_mask(net, iteration)
        assert mask.shape == (1, STREAMS,
                              50) and ((mask == 0) == zero[:1]).all() and set(np.unique(mask)) == {0.0, 2.0}
    assert all((a != b).any() for a, b in zip(seen, seen[1:], strict=False))


@every_kind
def test_step_masks_only_what_the_gates_read(kind):
    net = conventional(kind, "STEP", 0.5, units=50)
    mask = hidden_mask(net, 3)
    assert mask.shape == (STEPS, STREAMS, 50) and set(np.unique(mask)) == {0.0, 2.0}
    assert all((mask[t] != mask[t + 1]).any() for t in range(STEPS - 1))
    x = numbers(STEPS, STREAMS, INPUTS)
    h = forward(net, x=x, cont=ones())["r"]
    assert (h != 0).all()
    plain = forward(net_of(recurrent(kind, units=50)), x=x, cont=ones())["r"]
    # the state before the first step is 0
    np.testing.assert_allclose(h[0], plain[0], rtol=0, atol=1e-14)
    assert (h[1:] != plain[1:]).any()


@pytest.mark.parametrize("time", ["SEQUENCE", "STEP"])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.75])
def test_conventional_masks_drop_at_the_rate(time, rate):
    net = conventional("RNN", time, rate, units=800)
    masks = np.stack([hidden_mask(net, iteration) for iteration in range(40)])
    dropped, count = (masks == 0).mean(), masks.size
    assert abs(dropped - rate) < 5 * np.sqrt(rate * (1 - rate) / count)
    assert np.unique(masks).tolist() == pytest.approx([0, 1 / (1 - rate)])
    for axis in range(masks.ndim):              # neighbours on every axis are independent
        if masks.shape[axis] > 1:
            a, b = (np.take(masks == 0, range(i, masks.shape[axis] - 1 + i), axis) for i in (0, 1))
            both = (a & b).mean()
            assert abs(both - rate**2) < 5 * rate * (1 - rate) / np.sqrt(a.size) + 5 * 2 * rate * np.sqrt(
                rate * (1 - rate) / count)


@pytest.mark.parametrize("time", ["SEQUENCE", "STEP"])
def test_conventional_masks_follow_from_seed_layer_and_iteration(time):
    a, b, other = conventional(time=time), conventional(time=time), conventional(time=time, seed=1)
    for iteration in (5, 0, 7):
        np.testing.assert_array_equal(hidden_mask(a, iteration), hidden_mask(b, iteration))
    assert any((hidden_mask(a, i) != hidden_mask(other, i)).any() for i in range(4))
    assert any((hidden_mask(a, i) != hidden_mask(a, i + 1)).any() for i in range(4))


@in_turn("type_", ["APPROX", "CONVENTIONAL"])
@in_turn("time", ["SEQUENCE", "STEP"])
@every_kind
def test_nothing_is_dropped_in_a_test(kind, time, type_):
    settings = f"hidden_dropout {{ dropout_ratio: 0.5 time: {time} }} hidden_dropout_type: {type_}"
    data = {"x": numbers(STEPS, STREAMS, INPUTS), "cont": ones()}
    plain = forward(net_of(recurrent(kind)), **data)["r"]
    net = net_of(recurrent(kind, settings=settings), phase="TEST")
    np.testing.assert_array_equal(forward(net, **data)["r"], plain)
    net.set_dropping(True)
    net.reset_states()
    assert (forward(net, **data)["r"] != plain).any()
    resting = net_of(recurrent(kind, settings=settings))
    resting.set_dropping(False)
    np.testing.assert_array_equal(forward(resting, **data)["r"], plain)


@pytest.mark.parametrize("settings, shares", [("", False), ("bidirectional: true", True)])
def test_conventional_gradients(settings, shares):
    """Central differences of the loss in some weights, the masks held fixed by the iteration."""
    drop = "hidden_dropout { dropout_ratio: 0.4 time: STEP } hidden_dropout_type: CONVENTIONAL"
    t = numbers(STEPS, STREAMS, UNITS * (1 + shares), seed=2)
    net = net_of(recurrent("LSTM", settings=f"{drop} {settings}"),
                 'layer { name: "loss" type: "EuclideanLoss" bottom: "r" bottom: "t" top: "loss" }',
                 t=t.shape)
    data = {"x": numbers(STEPS, STREAMS, INPUTS), "cont": ones(), "t": t}
    _, gradients = run_once(net, 3, data)
    for name, parameter in net.params["r"].items():
        place = tuple(n // 2 for n in parameter.shape)
        values = []
        for step in (1e-5, -1e-5):
            parameter.data[place] += step
            values.append(run_once(net, 3, data)[0]["loss"])
            parameter.data[place] -= step
        assert (values[0] - values[1]) / 2e-5 == pytest.approx(gradients[f"r/{name}"][place], rel=1e-5,
                                                               abs=1e-8), name


@pytest.mark.parametrize("type_", ["APPROX", "CONVENTIONAL"])
def test_both_directions_drop_alike(type_):
    settings = f"hidden_dropout {{ dropout_ratio: 0.5 }} hidden_dropout_type: {type_} bidirectional: true"
    net = net_of(recurrent("GRU", units=30, settings=settings))
    net.draw_patterns(2)
    zero = forward(net, x=numbers(STEPS, STREAMS, INPUTS), cont=ones())["r"] == 0
    assert (zero[:, :, :30] == zero[:, :, 30:]).all() and zero.any() and not zero.all()


@pytest.mark.parametrize("wrong", [0.5, 37, -1, np.nan])
def test_a_cont_that_is_neither_0_nor_1_is_refused(wrong):
    net = net_of(recurrent("RNN"), x=(5, 3, 6))
    cont = np.ones((5, 3))
    cont[1, 2] = wrong
    with pytest.raises(md.DataError,
                       match=r"layer 'r' \(RNN\): cont is .* at place 5 of the batch; expected 0"):
        net.forward(x=np.zeros((5, 3, 6)), cont=cont)


def test_fill_follows_the_shape_of_its_bottom():
    """cont of as many steps and streams as x has: a sequence begins at the first step."""
    def fill(settings):
        return f'layer {{ name: "fill" type: "Fill" bottom: "x" top: "y" fill_param {{ {settings} }} }}'

    net = net_of(fill("shape { dim: 0 dim: 0 dim: 2 } value: 1 first: -3"))
    for steps in (STEPS, 2):
        y = net.forward(x=np.ones((steps, STREAMS, INPUTS)), cont=np.ones((steps, STREAMS)))["y"]
        assert y.shape == (steps, STREAMS, 2) and y.dtype == np.float64 and not y.requires_grad
        assert (y.numpy()[0] == -3).all() and (y.numpy()[1:] == 1).all()
    for settings, message in (("shape { dim: -1 }", "must not be negative, got -1"),
                              ("shape { dim: 0 dim: 0 dim: 0 dim: 0 }", "copies axis 3, but the bottom"),
                              ("first: 1", "first needs a shape with an axis")):
        with pytest.raises(ConfigError, match=message):
            net_of(fill(settings))


@every_kind
def test_a_batch_with_another_number_of_streams_begins_anew(kind):
    """As the last one of an epoch; what follows it goes on from zeros, and states of others go on nowhere."""
    turned = [f'layer {{ name: "{blob}" type: "Permute" bottom: "in_{blob}" top: "{blob}" permute_param {{ '
              f'order: {order} }} }}' for blob, order in (("x", [1, 0, 2]), ("cont", [1, 0]))]
    text = [inputs_text(in_x=(STREAMS, STEPS, INPUTS), in_cont=(STREAMS, STEPS)), *turned, recurrent(kind)]
    net = md.Net(parse_net("\n".join(text)), device="cpu", dtype="float64")
    x, begins = numbers(STREAMS, STEPS, INPUTS), ones(STREAMS, STEPS)
    forward(net, in_x=x, in_cont=begins)
    begins[:, 0] = 0
    first = forward(net, in_x=x, in_cont=begins)["r"]
    with pytest.raises(ShapeError, match="layer 'r' .*: the states of 3 streams cannot go on in a batch of "
                       "2; make all batches alike .* begin at step 0 .cont 0."):
        net.forward(in_x=x[:2], in_cont=ones(2, STEPS))
    np.testing.assert_allclose(forward(net, in_x=x[:2], in_cont=begins[:2])["r"], first[:, :2], atol=1e-15)
    np.testing.assert_array_equal(forward(net, in_x=x, in_cont=ones(STREAMS, STEPS))["r"], first)
