"""Forward, backward and update of whole nets are captured: nothing is read by the host, and no host array is
sent.

What the recorded device refuses while it captures, see recording.py. Captured steps give the bits of
uncaptured ones.
"""

import numpy as np
import pytest

from minidrop.autograd import Tensor
from minidrop.config import parse_net, parse_solver
from minidrop.errors import CaptureError, DataError
from minidrop.net import Net
from minidrop.solver import Solver
from minidrop.solver.updater import Updater

FILLER = 'weight_filler { type: "uniform" min: -.5 max: .5 } bias_filler { type: "uniform" min: -.5 max: .5 }'
STEPS, STREAMS, WORDS = 5, 4, 11


def layer(kind, name, bottom, extra="", more=""):
    bottoms = " ".join(f'bottom: "{one}"' for one in (bottom, *more.split()))
    return f'layer {{ name: "{name}" type: "{kind}" {bottoms} top: "{name}" {extra} }}'


def ip(name, bottom, outputs, axis=1):
    multipliers = "param { lr_mult: 1 decay_mult: 1 } param { lr_mult: 2 decay_mult: 0 }"
    return layer("InnerProduct", name, bottom,
                 f"{multipliers} inner_product_param {{ num_output: {outputs} axis: {axis} {FILLER} }}")


def mlp(drop="step: 10 groups: 1", accuracy=True):
    dropped = (lambda name, bottom: layer("Dropout", name, bottom)) if drop == "Dropout" else (
        lambda name, bottom: layer("ApproxDropout", name, bottom, f'approx_dropout_param {{ {drop} }}'))
    inputs = ('layer { name: "in" type: "Input" top: "data" top: "label" '
              'input_param { shape { dim: 6 dim: 13 } shape { dim: 6 } } }')
    return [inputs, ip("ip1", "data", 40), layer("ReLU", "relu1", "ip1"), dropped("drop1", "relu1"),
            ip("ip2", "drop1", 30), layer("TanH", "tanh2", "ip2"), dropped("drop2", "tanh2"),
            ip("ip3", "drop2", 7), layer("Concat", "both", "ip3", "", "ip3"), ip("ip4", "both", 7),
            layer("SoftmaxWithLoss", "loss", "ip4", "", "label"),
            layer("Accuracy", "accuracy", "ip4", 'top: "classes" include { phase: TRAIN }' * accuracy,
                  "label")]


def text(kind="LSTM", settings="", normalization="VALID", ignore="ignore_label: 3"):
    tops = "".join(f'top: "{name}" ' for name in ("data", "label", "cont"))
    shapes = f"shape {{ dim: {STEPS} dim: {STREAMS} }} " * 3
    loss = f"softmax_param {{ axis: 2 }} loss_param {{ {ignore} normalization: {normalization} }}"
    recurrent = f"recurrent_param {{ num_output: 20 {FILLER} {settings} }}"
    return [f'layer {{ name: "in" type: "Input" {tops} input_param {{ {shapes} }} }}',
            layer("Embed", "embed", "data", f"embed_param {{ input_dim: {WORDS} num_output: 10 {FILLER} }}"),
            layer("Dropout", "drop1", "embed"), layer(kind, "rec1", "drop1", recurrent, "cont"),
            layer("Dropout", "drop2", "rec1", "dropout_param { axes: 0 }"),
            layer(kind, "rec2", "drop2", recurrent, "cont"), ip("ip", "rec2", WORDS, 2),
            layer("SoftmaxWithLoss", "loss", "ip", loss, "label"),
            layer("Perplexity", "perplexity", "ip", loss, "label")]


def batches(layers, count=3):
    rng = np.random.default_rng(1)
    for i in range(count):
        if "Embed" not in "".join(layers):
            yield {"data": rng.standard_normal((6, 13)), "label": rng.integers(0, 7, 6)}
            continue
        words = rng.integers(0, WORDS, (2, STEPS, STREAMS))
        words[1][words[1] == 3] += i < 2      # none to ignore, in the first batches
        yield {"data": words[0], "label": words[1],
               "cont": (rng.random((STEPS, STREAMS)) > 0.2).astype(float)}


def given(backend, batch, dtype="float32"):
    return {name: Tensor(backend.asarray(np.asarray(value, dtype)), backend=backend)
            for name, value in batch.items()}


def do(backend, work, captured):
    """Do some work at once, or capture it and then launch it."""
    if captured:
        backend.capture(work).launch()
    else:
        work()


def on_device(backend, numbers):
    """Return what an Updater's `numbers` returned, each an array (1,) on the device."""
    return {pair: tuple(backend.asarray(np.array([one])) for one in own) for pair, own in numbers.items()}


def train(layers, backend, solver, captured, iter_size=1):
    """Return losses, parameters, history and states of some steps, of which all but the first are
    captured."""
    net = Net(parse_net("\n".join(layers)), device=backend, seed=3)
    updater, found = Updater(parse_solver(solver).message, net), []
    for iteration, batch in enumerate(batches(layers)):
        data, rate = given(backend, batch), 0.1 / (1 + iteration)
        numbers = on_device(backend, updater.numbers(iteration, rate)) if captured and iteration else None
        losses, _read_by_the_graph = [], net.states

        def work(iteration=iteration, data=data, rate=rate, numbers=numbers, losses=losses):
            net.clear_grads()
            for part in range(iter_size):
                net.draw_patterns(iteration * iter_size + part)
                net.forward(**data)
                net.backward()
                losses.append({name: tensor.data for name, tensor in net.blobs.items()})
            if numbers:
                updater.apply_numbers(numbers, iter_size)
            else:
                updater.apply(iteration, rate, iter_size)

        do(backend, work, captured and iteration)
        found += [backend.to_host(array).copy() for blobs in losses for name, array in blobs.items()
                  if name not in net.inputs]
    found += [p.numpy() for p in net.parameters().values()]
    found += [backend.to_host(array) for arrays in updater.history.values() for array in arrays]
    return found + [backend.to_host(array) for array in net.states.values()]


MOMENTUM = "momentum: 0.9 weight_decay: 0.01 "
NETS = {
    "mlp": (mlp(), MOMENTUM + "clip_gradients: 0.1"),
    "mlp, Dropout": (mlp("Dropout"), MOMENTUM),
    "mlp, no momentum": (mlp(), "momentum: 0 clip_gradients: 1000"),
    "mlp, L1": (mlp("pattern: 'ROW' groups: 1", False), MOMENTUM + "regularization_type: 'L1'"),
    "mlp, Adam": (mlp(), "type: 'Adam' momentum: 0.9 delta: 1e-8 clip_gradients: 0.1"),
    "mlp, Nesterov": (mlp("pattern: 'ROW' groups: 1"),
                      MOMENTUM + "type: 'Nesterov' regularization_type: 'L1'"),
    "text": (text(), MOMENTUM + "clip_gradients: 0.1"),
    "text, no momentum": (text(), "momentum: 0 clip_gradients: 0.1"),
    "text, RMSProp": (text(), "type: 'RMSProp' rms_decay: 0.9 delta: 1e-5 weight_decay: 0.01"),
    "text, AdamW": (text(), "type: 'AdamW' momentum: 0.9 weight_decay: 0.1 decay_axes: 2 clip_gradients: 0.1 "
                    "warmup_iter: 3"),
    "text, GRU": (text("GRU", normalization="BATCH_SIZE"), MOMENTUM),
    "text, output product": (text("RNN", "hidden_dropout { step: 10 }", ignore=""), MOMENTUM),
    "text, two directions": (text("RNN", "bidirectional: true", ignore=""), MOMENTUM),
    "text, conventional": (text("LSTM", "hidden_dropout { } hidden_dropout_type: CONVENTIONAL"), MOMENTUM),
    "text, units": (text("GRU", "hidden_dropout { step: 10 }"), MOMENTUM + "clip_gradients: 0.1"),
    "text, units by steps": (text("LSTM", "hidden_dropout { step: 10 time: STEP }"), MOMENTUM),
    "text, units by two steps": (text("GRU", "hidden_dropout { step: 10 steps_per_pattern: 2 }"), MOMENTUM),
    "text, conventional by two steps": (text("LSTM", "hidden_dropout { steps_per_pattern: 2 } "
                                             "hidden_dropout_type: CONVENTIONAL"), MOMENTUM),
}


ALIKE = {"mlp, no momentum", "mlp, Nesterov", "text, no momentum", "text, RMSProp", "text, GRU",
         "text, units", "text, conventional by two steps"}


@pytest.mark.parametrize("layers, solver", [
    pytest.param(*net, id=name, marks=pytest.mark.full if name in ALIKE else ())
    for name, net in NETS.items()])
def test_captured_steps_give_the_same_bits(recorded_cuda, emulated_cuda, layers, solver):
    iter_size = 2 if "clip_gradients: 0.1" in solver else 1
    expected = train(layers, emulated_cuda(), solver, False, iter_size)
    device = recorded_cuda()
    device.trouble = device.zeros((1,), np.int32)
    got = train(layers, device, solver, True, iter_size)
    assert len(got) == len(expected) and device.to_host(device.trouble).tolist() == [0]
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("solver", [MOMENTUM + "clip_gradients: 0.1", "momentum: 0", "type: 'Adam' "
                                    "clip_gradients: 1"])
@pytest.mark.parametrize("top, place, value, message", [
    ("data", (1, 2), WORDS, "layer 'embed' (Embed): index 11 at place 6"),
    ("label", (0, 1), -7, "label -7 at place 1"), ("data", (0, 0), np.nan, "index nan at place 0"),
    ("cont", (2, 0), 0.5, "layer 'rec1' (LSTM): cont is 0.5 at place 8")])
def test_what_is_wrong_is_noted_and_changes_nothing(recorded_cuda, solver, top, place, value, message):
    """No address is out of bounds, no weight changes; the same batch, uncaptured, raises the error."""
    device = recorded_cuda()
    net = Net(parse_net("\n".join(text())), device=device, seed=3)
    updater, batch = Updater(parse_solver(solver).message, net), next(batches(text()))
    batch = {name: array.astype(float) for name, array in batch.items()}
    batch[top][place] = value
    data, numbers = given(device, batch), on_device(device, updater.numbers(0, 0.1))
    device.trouble = device.zeros((1,), np.int32)
    before = {name: p.numpy().copy() for name, p in net.parameters().items()}
    net.draw_patterns(0)

    def step():
        net.forward(**data)
        net.backward()
        updater.apply_numbers(numbers)

    do(device, step, True)
    assert device.to_host(device.trouble).tolist() == [1]
    for name, p in net.parameters().items():
        np.testing.assert_array_equal(p.numpy(), before[name])
        assert not any(device.to_host(array).any() for array in updater.history[name])
    with pytest.raises(DataError) as caught:
        net.forward(**data)
    assert message in str(caught.value)


def test_states_are_kept_where_something_is_wrong(recorded_cuda):
    device = recorded_cuda()
    for trouble, expected in ((None, 2), (0, 2), (1, 1), (-3, 1)):
        device.trouble = None if trouble is None else device.asarray(np.array([trouble], np.int32))
        state, new = (device.asarray(np.full((3, 4), n, np.float32)) for n in (1, 2))
        do(device, lambda state=state, new=new: device.keep_if_well(state, new), True)
        assert (device.to_host(state) == expected).all()


@pytest.mark.parametrize("clip", [0.0, 1e-3, 0.37, 1e3])
@pytest.mark.parametrize("size", [0.0, 1.0, 1e-8, np.inf, np.nan])
def test_the_scale_of_clipping_on_the_device_has_the_bits_of_the_hosts(recorded_cuda, clip, size):
    device = recorded_cuda()
    net = Net(parse_net("\n".join(mlp())), device=device, seed=3)
    updater, scales = Updater(parse_solver(f"clip_gradients: {clip}").message, net), []
    with np.errstate(all="ignore"):
        for parameter in net.parameters().values():
            parameter.grad = parameter.data * np.float32(size)
        host = updater._clip_scale(updater.norm())
        do(device, lambda: scales.append(updater._clip_scale_on_device(updater.device_norm())), True)
    assert scales[0].shape == (1,) and scales[0].dtype == np.float64
    np.testing.assert_array_equal(device.to_host(scales[0]), [host])


def test_steps_that_look_at_gradients_cannot_be_captured(recorded_cuda):
    device = recorded_cuda()
    net = Net(parse_net("\n".join(mlp())), device=device, seed=3)
    updater = Updater(parse_solver("momentum: 0.9").message, net)
    with pytest.raises(CaptureError, match="^float16: the host has to see"):
        device.capture(lambda: updater.apply_if_finite(0, 0.1))


@pytest.mark.parametrize("units", [20, 25])
def test_a_hidden_drop_is_captured_whether_or_not_its_steps_fit_the_units(recorded_cuda, units):
    text = "\n".join(lstm_of(units))
    results = []
    for device in (recorded_cuda(), "cpu"):
        solver = Solver(parse_solver(f"base_lr: .1 lr_policy: 'fixed' momentum: .9 max_iter: 99 random_seed: "
                                     f"4 net_param {{ {text} }}"), device=device, dtype="float64")
        for _ in range(24):
            batch = np.random.default_rng(solver.iteration)
            solver.net.set_inputs(data=batch.standard_normal((STEPS, STREAMS, 6)),
                                  cont=np.ones((STEPS, STREAMS)),
                                  label=batch.integers(0, 5, (STEPS, STREAMS)))
            solver.step()
        results.append([p.numpy() for p in solver.net.parameters().values()])
        if device != "cpu":
            assert solver.captured.replayed
    for got, expected in zip(*results, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-8, atol=1e-10)


def lstm_of(units):
    shapes = (f"shape {{ dim: {STEPS} dim: {STREAMS} dim: 6 }}" + f" shape {{ dim: {STEPS} dim: {STREAMS} }}"
              * 2)
    settings = f"recurrent_param {{ num_output: {units} {FILLER} hidden_dropout {{ step: 10 }} }}"
    return [f'layer {{ name: "in" type: "Input" top: "data" top: "cont" top: "label" input_param {{ {shapes} '
            f'}} }}', layer("LSTM", "lstm", "data", settings, "cont"), ip("ip", "lstm", 5, 2),
            layer("SoftmaxWithLoss", "loss", "ip", "softmax_param { axis: 2 }", "label")]
