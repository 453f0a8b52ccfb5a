"""The layers LSTM, GRU and RNN compute what PyTorch's modules do."""

import numpy as np
import pytest
from cases import every_pair, in_turn
from recurrent_layers import (
    INPUTS,
    KINDS,
    STEPS,
    STREAMS,
    UNITS,
    every_kind,
    net_of,
    numbers,
    ones,
    recurrent,
)

from minidrop.testing import run_once


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
