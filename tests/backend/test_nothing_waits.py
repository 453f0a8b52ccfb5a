"""While a step is captured nothing is read by the host and no host array is sent: whole nets on a device that minds.

The device is the emulated one, with arrays of a type that refuses what would wait for a GPU: to become a bool, a number or
a list, to be indexed by a mask, and to meet an array of the host.
"""

import numpy as np
import pytest

from minidrop.autograd import Tensor
from minidrop.config import parse_net, parse_solver
from minidrop.errors import CaptureError, DataError
from minidrop.net import Net
from minidrop.solver.updater import Updater

# What CuPy does by way of the host, or by cuBLAS's own calls, which cannot be captured.
FORBIDDEN = ("argsort", "array", "asarray", "bincount", "concatenate", "dot", "flatnonzero", "nonzero", "sort", "stack",
             "unique")


class DeviceArray(np.ndarray):
    """An array that stands for one in device memory."""

    strict = False      # True while a step is captured

    def _refuse(self, *_, **__):
        if DeviceArray.strict:
            raise AssertionError("the host asks for what only the device knows")

    def __bool__(self):
        return self._refuse() or bool(np.asarray(self))

    def __float__(self):
        return self._refuse() or float(np.asarray(self))

    def __int__(self):
        return self._refuse() or int(np.asarray(self))

    def __index__(self):
        return self._refuse() or int(np.asarray(self))

    def tolist(self):
        return self._refuse() or np.asarray(self).tolist()

    item = tobytes = tolist

    def argmax(self, *arguments, **options):
        return on_device(super().argmax(*arguments, **options))

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, where=True, **options):
        check(*inputs, *(out or ()), where)
        plain = [np.asarray(x) if isinstance(x, np.ndarray) else x for x in inputs]
        if out is not None:
            options["out"] = tuple(np.asarray(x) for x in out)
        if where is not True:
            options["where"] = np.asarray(where)
        result = on_device(getattr(ufunc, method)(*plain, **options))
        return out[0] if out is not None else result

    def __getitem__(self, key):
        check_key(key)
        return on_device(super().__getitem__(key))

    def __setitem__(self, key, value):
        check_key(key)
        check(value)
        super().__setitem__(key, np.asarray(value))


def on_device(x):
    return np.asarray(x).view(DeviceArray) if isinstance(x, np.ndarray | np.generic) else x


def check(*values):
    for x in values:
        if DeviceArray.strict and isinstance(x, np.ndarray) and not isinstance(x, DeviceArray):
            raise AssertionError(f"an array of the host, {x.dtype} {x.shape}, is used on the device")


def check_key(key):
    for part in key if isinstance(key, tuple) else (key,):
        check(part)
        if DeviceArray.strict and isinstance(part, np.ndarray) and part.dtype == bool:
            raise AssertionError("how many entries a mask has, only the device knows")


class Module:
    """NumPy, whose results are on the device."""

    ndarray, __name__ = DeviceArray, "device"

    def __getattr__(self, name):
        found = getattr(np, name)
        if isinstance(found, type) or not callable(found):
            return found

        def function(*arguments, **options):
            assert not (DeviceArray.strict and name in FORBIDDEN), f"xp.{name} while a step is captured"
            for x in (*arguments, *options.values()):
                check(*x) if isinstance(x, list | tuple) else check(x)
            if isinstance(found, np.ufunc) or name in ("split", "copyto"):
                result = found(*arguments, **options)
            else:
                result = found(*(np.asarray(x) if isinstance(x, np.ndarray) else x for x in arguments),
                               **{key: np.asarray(x) if isinstance(x, np.ndarray) else x for key, x in options.items()})
            return on_device(result)
        return function


@pytest.fixture
def watched(emulated_cuda):
    """watched() -> an emulated device whose arrays mind while `capturing`."""
    class Watched(emulated_cuda):
        xp = Module()
        _capturing = False

        @property
        def capturing(self):
            return self._capturing

        @capturing.setter
        def capturing(self, on):
            self._capturing = DeviceArray.strict = on

        def empty(self, shape, dtype):
            return on_device(super().empty(shape, dtype))

        def asarray(self, x, dtype=None):
            if self.capturing and not isinstance(x, DeviceArray):
                raise CaptureError("a host array")
            return on_device(np.asarray(x, dtype))

        def to_host(self, x):
            assert not self.capturing, "the host reads an array"
            return np.asarray(super().to_host(x))

        def refuse(self, wrong, error):
            if not self.capturing:
                super().refuse(wrong, error)
                return
            self.trouble |= wrong.any()

        def _run(self, kernel, macros=None, /, **values):
            check(*values.values())
            super()._run(kernel, macros, **values)

    yield Watched
    DeviceArray.strict = False


FILLER = 'weight_filler { type: "uniform" min: -.5 max: .5 } bias_filler { type: "uniform" min: -.5 max: .5 }'
STEPS, STREAMS, WORDS = 5, 4, 11


def layer(kind, name, bottom, extra="", more=""):
    bottoms = " ".join(f'bottom: "{one}"' for one in (bottom, *more.split()))
    return f'layer {{ name: "{name}" type: "{kind}" {bottoms} top: "{name}" {extra} }}'


def ip(name, bottom, outputs, axis=1):
    multipliers = "param { lr_mult: 1 decay_mult: 1 } param { lr_mult: 2 decay_mult: 0 }"
    return layer("InnerProduct", name, bottom,
                 f"{multipliers} inner_product_param {{ num_output: {outputs} axis: {axis} {FILLER} }}")


def mlp(drop="step: 10", accuracy=True):
    dropped = (lambda name, bottom: layer("Dropout", name, bottom)) if drop == "Dropout" else (
        lambda name, bottom: layer("ApproxDropout", name, bottom, f'approx_dropout_param {{ {drop} }}'))
    inputs = ('layer { name: "in" type: "Input" top: "data" top: "label" '
              'input_param { shape { dim: 6 dim: 13 } shape { dim: 6 } } }')
    return [inputs, ip("ip1", "data", 40), layer("ReLU", "relu1", "ip1"), dropped("drop1", "relu1"),
            ip("ip2", "drop1", 30), layer("TanH", "tanh2", "ip2"), dropped("drop2", "tanh2"), ip("ip3", "drop2", 7),
            layer("Concat", "both", "ip3", "", "ip3"), ip("ip4", "both", 7),
            layer("SoftmaxWithLoss", "loss", "ip4", "", "label"),
            layer("Accuracy", "accuracy", "ip4", 'top: "classes" include { phase: TRAIN }' * accuracy, "label")]


def text(kind="LSTM", settings="", normalization="VALID", ignore="ignore_label: 3"):
    tops = "".join(f'top: "{name}" ' for name in ("data", "label", "cont"))
    shapes = f"shape {{ dim: {STEPS} dim: {STREAMS} }} " * 3
    loss = f"softmax_param {{ axis: 2 }} loss_param {{ {ignore} normalization: {normalization} }}"
    recurrent = f"recurrent_param {{ num_output: 20 {FILLER} {settings} }}"
    return [f'layer {{ name: "in" type: "Input" {tops} input_param {{ {shapes} }} }}',
            layer("Embed", "embed", "data", f"embed_param {{ input_dim: {WORDS} num_output: 10 {FILLER} }}"),
            layer("Dropout", "drop1", "embed"), layer(kind, "rec1", "drop1", recurrent, "cont"),
            layer("Dropout", "drop2", "rec1", "dropout_param { axes: 0 }"), layer(kind, "rec2", "drop2", recurrent, "cont"),
            ip("ip", "rec2", WORDS, 2), layer("SoftmaxWithLoss", "loss", "ip", loss, "label"),
            layer("Perplexity", "perplexity", "ip", loss, "label")]


def batches(layers, count=4):
    rng = np.random.default_rng(1)
    for i in range(count):
        if "Embed" not in "".join(layers):
            yield {"data": rng.standard_normal((6, 13)), "label": rng.integers(0, 7, 6)}
            continue
        words = rng.integers(0, WORDS, (2, STEPS, STREAMS))
        words[1][words[1] == 3] += i < 2      # none to ignore, in the first batches
        yield {"data": words[0], "label": words[1], "cont": (rng.random((STEPS, STREAMS)) > 0.2).astype(float)}


def train(layers, backend, solver, captured, dtype="float32", iter_size=1):
    """Return the bits of losses, parameters and history of some steps, of which all but the first are captured."""
    net = Net(parse_net("\n".join(layers)), device=backend, dtype=dtype, seed=3)
    updater, found = Updater(parse_solver(solver).message, net), []
    for iteration, batch in enumerate(batches(layers)):
        net.clear_grads()
        for part in range(iter_size):
            net.draw_patterns(iteration * iter_size + part)
            given = {name: Tensor(backend.asarray(value, dtype), backend=backend) for name, value in batch.items()}
            backend.capturing = captured and iteration > 0
            net.forward(**given)
            net.backward()
            backend.capturing = False
            found.append(net.loss)
        lr = 0.1 / (1 + iteration)
        on_the_device = backend.asarray(np.array([lr]))
        backend.capturing = captured and iteration > 0
        updater.apply(iteration, on_the_device if backend.capturing else lr, iter_size)
        backend.capturing = False
    found += [p.numpy() for p in net.parameters().values()]
    return found + [backend.to_host(array) for arrays in updater.history.values() for array in arrays] + [
        backend.to_host(array) for array in net.states.values()]


MOMENTUM = "momentum: 0.9 weight_decay: 0.01 "
NETS = {
    "mlp": (mlp(), MOMENTUM + "clip_gradients: 0.1"),
    "mlp, Dropout": (mlp("Dropout"), MOMENTUM),
    "mlp, no momentum": (mlp(), "momentum: 0 clip_gradients: 1000"),
    "mlp, L1": (mlp("pattern: 'ROW'", False), MOMENTUM + "regularization_type: 'L1'"),
    "text": (text(), MOMENTUM + "clip_gradients: 0.1"),
    "text, no momentum": (text(), "momentum: 0 clip_gradients: 0.1"),
    "text, GRU": (text("GRU", normalization="BATCH_SIZE"), MOMENTUM),
    "text, two directions": (text("RNN", "bidirectional: true", ignore=""), MOMENTUM),
    "text, conventional": (text("LSTM", "hidden_dropout { } hidden_dropout_type: CONVENTIONAL"), MOMENTUM),
    "text, units": (text("GRU", "hidden_dropout { step: 10 }"), MOMENTUM + "clip_gradients: 0.1"),
    "text, units by steps": (text("LSTM", "hidden_dropout { step: 10 time: STEP }"), MOMENTUM),
}


@pytest.mark.parametrize("layers, solver", NETS.values(), ids=NETS.keys())
@pytest.mark.parametrize("iter_size", [1, 2])
def test_captured_steps_wait_for_nothing_and_give_the_same_bits(watched, emulated_cuda, layers, solver, iter_size):
    expected = train(layers, emulated_cuda(), solver, False, iter_size=iter_size)
    device = watched()
    device.trouble = device.zeros((1,), np.int32)
    got = train(layers, device, solver, True, iter_size=iter_size)
    assert len(got) == len(expected) and not device.to_host(device.trouble)
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("solver", [MOMENTUM + "clip_gradients: 0.1", "momentum: 0"])
@pytest.mark.parametrize("top, place, value, message", [
    ("data", (1, 2), WORDS, "layer 'embed' (Embed): index 11 at place 6"), ("label", (0, 1), -7, "label -7 at place 1"),
    ("data", (0, 0), np.nan, "index nan at place 0"), ("cont", (2, 0), 0.5, "layer 'rec1' (LSTM): cont is 0.5 at place 8")])
def test_what_is_wrong_is_noted_and_changes_nothing(watched, solver, top, place, value, message):
    """No address is out of bounds, no weight changes; the same batch, uncaptured, raises the error."""
    device = watched()
    net = Net(parse_net("\n".join(text())), device=device, seed=3)
    updater, batch = Updater(parse_solver(solver).message, net), next(batches(text()))
    batch = {name: array.astype(float) for name, array in batch.items()}
    batch[top][place] = value
    given = {name: Tensor(device.asarray(array, "float32"), backend=device) for name, array in batch.items()}
    device.trouble, lr = device.zeros((1,), np.int32), device.asarray(np.array([0.1]))
    before = {name: p.numpy().copy() for name, p in net.parameters().items()}
    net.draw_patterns(0)
    device.capturing = True
    net.forward(**given)
    net.backward()
    updater.apply(0, lr)
    device.capturing = False
    assert device.to_host(device.trouble).tolist() == [1]
    for name, p in net.parameters().items():
        np.testing.assert_array_equal(p.numpy(), before[name])
        assert not updater.history[name][0].any()
    with pytest.raises(DataError) as caught:
        net.forward(**given)
    assert message in str(caught.value)


def test_states_are_kept_where_something_is_wrong(watched):
    device = watched()
    for trouble, expected in ((None, 2), (0, 2), (1, 1), (-3, 1)):
        device.trouble = None if trouble is None else device.asarray(np.array([trouble], np.int32))
        state, new = (device.asarray(np.full((3, 4), n, np.float32)) for n in (1, 2))
        device.capturing = True
        device.keep_if_well(state, new)
        device.capturing = False
        assert (state == expected).all()


@pytest.mark.parametrize("clip", [0.0, 1e-3, 0.37, 1e3])
@pytest.mark.parametrize("size", [0.0, 1.0, 1e-8, np.inf, np.nan])
def test_the_scale_of_clipping_on_the_device_has_the_bits_of_the_hosts(watched, clip, size):
    device = watched()
    net = Net(parse_net("\n".join(mlp())), device=device, seed=3)
    updater = Updater(parse_solver(f"clip_gradients: {clip}").message, net)
    for parameter in net.parameters().values():
        parameter.grad = parameter.data * np.float32(size)
    with np.errstate(all="ignore"):
        host = updater._clip_scale()
        device.capturing = True
        scale = updater._clip_scale_on_device()
        device.capturing = False
    assert scale.shape == (1,) and scale.dtype == np.float64
    np.testing.assert_array_equal(device.to_host(scale), [host])


@pytest.mark.parametrize("rule", ["Nesterov", "Adam"])
def test_other_rules_say_that_they_cannot_be_captured(watched, rule):
    device = watched()
    net = Net(parse_net("\n".join(mlp())), device=device, seed=3)
    updater = Updater(parse_solver(f"type: '{rule}' delta: 1e-8").message, net)
    device.capturing = True
    with pytest.raises(CaptureError, match=f"^the rule {rule} updates with numbers that the host gives it; only SGD can be"):
        updater.apply(0, 0.1)
    with pytest.raises(CaptureError, match="^float16: the host has to see"):
        updater.apply_if_finite(0, 0.1)


def test_the_arrays_that_mind(watched):
    """The tests above see something: each of these would wait for a GPU, or send it an array."""
    device = watched()
    x, host = device.asarray(np.arange(4.0)), np.arange(4.0)
    waits = [lambda: bool((x > 1).any()), lambda: float(x.sum()), lambda: int(x.argmax()), lambda: x[x > 1],
             lambda: x + host, lambda: host * x, lambda: device.to_host(x), lambda: x.tolist(),
             lambda: device.xp.concatenate([x, x]), lambda: device.xp.dot(x, x), lambda: device.xp.maximum(x, host),
             lambda: device.relu(host), lambda: x.__setitem__(slice(None), host)]
    for wait in waits:
        wait()
    device.capturing = True
    for wait in waits:
        with pytest.raises(AssertionError):
            wait()
    with pytest.raises(CaptureError):
        device.asarray(host)
