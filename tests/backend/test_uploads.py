"""Uploads on a device that does everything as late, or as oddly, as CUDA allows (late_device.py): numbers
stay right."""

import ctypes
import gc
import importlib.util
import threading
import weakref
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from minidrop import Tensor
from minidrop.backend import get_backend
from minidrop.backend.cuda import backend as cupy_backend
from minidrop.backend.cuda.backend import CupyBackend
from minidrop.backend.cuda.graphs import Graphs
from minidrop.backend.cuda.uploads import RING, Uploads
from minidrop.config import parse_net
from minidrop.errors import CaptureError
from minidrop.net import Net

_spec = importlib.util.spec_from_file_location("late_device", Path(__file__).with_name("late_device.py"))
late_device = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(late_device)
LateDevice = late_device.LateDevice


class Owner:
    pass


class Setting:
    """A device, its Uploads, and the readers of what was uploaded."""

    def __init__(self, schedule="late"):
        self.device = LateDevice(schedule)
        self.uploads = Uploads(self.device.cupy, self.device.cupy.cuda.Device())
        self.expected, self.seen = [], []

    def upload(self, owner, *arrays):
        return self.uploads.upload(owner, arrays, self.device.cupy.empty)

    def read(self, arrays, expected):
        for array, values in zip(arrays, expected, strict=True):
            assert (array.shape, array.dtype) == (values.shape, values.dtype)
            self.seen.append(self.device.read(array))
            self.expected.append(values)

    def check(self):
        self.device.finish()
        for number, (seen, expected) in enumerate(zip(self.seen, self.expected, strict=True)):
            np.testing.assert_array_equal(seen[0], expected, f"reader {number}")


@pytest.fixture(params=late_device.SCHEDULES)
def setting(request):
    return Setting(request.param)


@pytest.fixture
def late():
    return Setting("late")


def batch(n, rows=4, dtype=np.float32):
    return (np.arange(rows * 300).reshape(rows, 300) % 97 + n).astype(dtype), np.full(rows, n, dtype)


# -- numbers -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("delay", [0, 1, RING - 1])
@pytest.mark.parametrize("pinned", [True, False], ids=["pinned", "pageable"])
def test_each_batch_is_read_as_it_was_given(setting, delay, pinned):
    """Also where it is read only after `delay` more uploads, and host arrays are gone or changed at once."""
    owner, kept = Owner(), []
    for n in range(50):
        given = [setting.uploads.pinned(x, least=1) for x in batch(n)] if pinned else list(batch(n))
        kept.append(setting.upload(owner, *given))
        while given:
            x = given.pop()
            if not pinned:
                x[...] = -1
            del x
        if n >= delay:
            setting.read(kept[n - delay], batch(n - delay))
            kept[n - delay] = None
    setting.check()


def test_buffers_are_made_once(setting):
    owner = Owner()
    for n in range(50):
        setting.read(setting.upload(owner, *batch(n)), batch(n))
    setting.check()
    assert setting.device.memory_made == 2 * (RING + 1)


def test_shapes_and_types_may_change_while_the_pool_reuses_memory(setting, rng):
    """The device's own temporaries come from the memory that buffers leave, and buffers from theirs."""
    owner, device = Owner(), setting.device
    for n in range(60):
        arrays = [x for x in batch(n, int(rng.integers(0, 7)),
                                   rng.choice([np.float32, np.float64, np.int64]))]
        temporaries = [rng.integers(0, 9, (rows, 300)).astype(np.float32) for rows in (2, 3, 5)]
        for values in temporaries:
            setting.read([device.cupy.asarray(values)], [values])
        arrays = arrays[:1] if n % 10 == 9 else arrays
        setting.read(setting.upload(owner, *arrays), arrays)
    setting.check()


def test_a_smaller_batch_takes_the_same_memory(late):
    owner = Owner()
    for n in range(3 * (RING + 1)):
        rows = 2 if n % 5 == 4 else 4
        late.read(late.upload(owner, *batch(n, rows)), batch(n, rows))
    late.check()
    made = late.device.memory_made
    for n in range(3 * (RING + 1)):
        late.read(late.upload(owner, *batch(n, 1 + n % 4)), batch(n, 1 + n % 4))
    late.check()
    assert late.device.memory_made - made <= 2      # the slots that had seen only smaller batches


def test_any_layout_byte_order_and_size(late):
    arrays = [np.arange(12.0).reshape(3, 4).T, np.arange(6, dtype=">f4"), np.array(5, np.uint8),
              np.zeros((0, 3), np.float32), np.array([True, False])]
    for _ in range(2 * RING):
        late.read(late.upload(late, *arrays), [x.astype(x.dtype.newbyteorder("=")) for x in arrays])
    late.read(late.upload(Owner(), [[1, 2], [3, 4]]), [np.array([[1, 2], [3, 4]])])
    late.check()
    assert late.upload(Owner()) == []


def test_owners_do_not_disturb_each_other(setting):
    often, seldom = Owner(), Owner()
    held = None
    for n in range(60):
        if n % 15 == 0:
            held, values = setting.upload(seldom, *batch(1000 + n)), batch(1000 + n)
        setting.read(setting.upload(often, *batch(n)), batch(n))
        setting.read(held, values)
    setting.check()


def test_streams_do_not_disturb_each_other(setting):
    owner, streams = Owner(), [setting.device.default, setting.device.computing_stream()]
    for n in range(50):
        setting.device.use(streams[n // 3 % 2])
        setting.read(setting.upload(owner, *batch(n)), batch(n))
    setting.check()


def test_an_owner_may_go_while_its_copies_are_under_way(setting):
    owner = Owner()
    for n in range(RING):
        setting.read(setting.upload(owner, *batch(n)), batch(n))
    last = setting.upload(owner, *batch(77))
    gone = weakref.ref(owner)
    del owner
    gc.collect()
    assert gone() is None and not setting.uploads._rings
    # takes the memory that was left
    for values in (np.full((4, 300), 5, np.float32), np.full(4, 5, np.float32)):
        setting.read([setting.device.cupy.asarray(values)], [values])
    setting.read(setting.upload(Owner(), *batch(3)), batch(3))
    setting.read(last, batch(77))
    setting.check()


def test_an_upload_that_fails_changes_nothing(setting):
    owner = Owner()
    for n in range(30):
        with pytest.raises(ValueError, match="^Unsupported dtype <U1$"):
            setting.upload(owner, np.zeros(10 * n + 1), np.array(["a"]))
        setting.read(setting.upload(owner, *batch(n, 1 + n % 3)), batch(n, 1 + n % 3))
    setting.check()


# -- who waits for whom --------------------------------------------------------------------------------------
def test_a_host_that_the_copies_keep_up_with_never_waits():
    setting = Setting("early copies")       # nothing is computed until the end, so only the first laps can be
                                            # copied
    owner = Owner()
    for n in range(RING + 1):
        setting.read(setting.upload(owner, *batch(n)), batch(n))
    assert setting.device.host_waits == 0
    setting.check()

    setting = Setting("eager")
    for n in range(50):
        setting.read(setting.upload(owner, *batch(n)), batch(n))
    assert setting.device.host_waits == 0


def test_a_host_too_far_ahead_waits_for_the_oldest_copy(late):
    owner = Owner()
    for n in range(RING + 3):
        late.upload(owner, *batch(n))
        assert late.device.host_waits == max(0, n - RING)


def test_a_copy_runs_beside_the_work_on_the_last_batch():
    setting = Setting("early copies")
    owner = Owner()
    for n in range(20):
        setting.upload(owner, *batch(n))
        setting.device.finish()
    on_device, _ = setting.upload(owner, *batch(20))
    setting.device.step(setting.device.default)         # all work before batch 20 is done
    at_work = setting.device.read(on_device)            # queued, and not run
    array, _ = setting.upload(owner, *batch(21))
    assert not at_work and now_in(array) == batch(21)[0].tolist()
    # The device is one batch behind; only as it goes on there may be another copy.
    array, _ = setting.upload(owner, *batch(22))
    assert not at_work and now_in(array) != batch(22)[0].tolist()
    setting.device.finish()
    assert now_in(array) == batch(22)[0].tolist()


def now_in(array):
    """What stands in device memory, whatever is queued."""
    return array.bytes.view(array.dtype).reshape(array.shape).tolist()


def test_host_memory_is_let_go_when_copied(late):
    owner = Owner()
    for n in range(5):
        late.upload(owner, *batch(n))
    assert late.device.pinned_alive == 10
    late.device.finish()
    late.upload(owner, *batch(5))
    assert late.device.pinned_alive == 2
    late.device.finish()
    late.uploads.trim()
    assert late.device.pinned_alive == 0


# -- page-locked memory --------------------------------------------------------------------------------------
def test_what_is_pinned(late):
    pinned, asked = late.uploads.pinned, late.device.pinned_by
    small = np.zeros(100, np.float32)
    assert pinned(small) is small and not asked
    x = np.arange(6000.0).reshape(60, 100)
    first = pinned(x)
    assert first is not x and (first == x).all() and len(asked) == 1
    first[0, 0] = 7
    assert x[0, 0] == 0
    assert pinned(first) is first and len(asked) == 1
    rows = first[10:50]
    assert pinned(rows) is rows
    for other in (first[:, ::2], first.T, first * 2, x.astype(">f8"), first.view(first.dtype.newbyteorder())):
        copy = pinned(other)
        assert (copy is not other and copy.flags.c_contiguous and copy.dtype == np.float64
                and copy.dtype.isnative)
        assert (copy == other).all() and copy.shape == other.shape
    assert len(asked) == 6


def test_without_page_locked_memory_the_plain_array_is_copied_at_once(setting, caplog):
    setting.device.pinned_limit = 2000
    x, label = batch(0)
    assert setting.uploads.pinned(x) is x
    owner = Owner()
    for n in range(30):
        x, label = batch(n)
        setting.read(setting.upload(owner, x, label), batch(n))
        x[...] = label[...] = -1
    setting.check()
    assert [record.getMessage() for record in caplog.records] == [
        "no page-locked memory for 4800 bytes (cudaErrorMemoryAllocation: out of memory): the host waits for "
        "its copies"]


def test_threads_pin_at_the_same_time(late):
    wrong = []

    def pin(number):
        for n in range(50):
            x = np.full((20, 300), 100 * number + n, np.float32)
            copy = late.uploads.pinned(x)
            if copy is x or (copy != x).any():
                wrong.append((number, n))

    threads = [threading.Thread(target=pin, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and len(late.device.pinned_by) == 200


def test_cupy_s_own_pointers_are_known(late):
    """CuPy's class over memory of ours: without a GPU there is none that is page-locked."""
    cupy = pytest.importorskip("cupy")
    memory = ctypes.create_string_buffer(8192)
    pointer = cupy.cuda.PinnedMemoryPointer(SimpleNamespace(ptr=ctypes.addressof(memory), size=8192), 0)
    late.device.cupy.cuda.PinnedMemoryPointer = cupy.cuda.PinnedMemoryPointer
    late.device.cupy.cuda.alloc_pinned_memory = lambda size: pointer
    x = np.arange(2000, dtype=np.float32)
    copy = late.uploads.pinned(x)
    assert copy.ctypes.data == ctypes.addressof(memory) and (copy == x).all()
    assert late.uploads.pinned(copy) is copy and late.uploads.pinned(copy[4:1900]).base is copy


# -- the backend ---------------------------------------------------------------------------------------------
@pytest.fixture
def on_device(setting, monkeypatch):
    """A CupyBackend on `setting`'s device: what moves arrays works."""
    return make_backend(setting, monkeypatch)


def make_backend(setting, monkeypatch):
    cupy = setting.device.cupy
    monkeypatch.setattr(cupy_backend, "cupy", cupy)
    backend = object.__new__(CupyBackend)
    backend.name, backend.index, backend.xp, backend.device = "cuda:0", 0, cupy, cupy.cuda.Device()
    backend._uploads, backend.graphs = setting.uploads, Graphs("cuda:0", cupy, backend.device)
    return backend


def test_numbers_are_sent_in_the_order_of_all_other_work(setting, monkeypatch):
    backend = make_backend(setting, monkeypatch)
    there, rows = setting.device.cupy.empty((3,),
                                            np.uint8), backend.pinned(np.arange(9,
                                                                                dtype=np.uint8).reshape(3, 3))
    for row in rows:
        backend.send(there, row)
        setting.read([there], [row.copy()])
    setting.check()


def test_nothing_comes_from_the_host_while_a_step_is_captured(late, monkeypatch):
    backend = make_backend(late, monkeypatch)
    there = backend.asarray(np.zeros(3))
    backend.capturing = True
    assert backend.asarray(there) is there
    for call, message in [
        (lambda: backend.asarray(np.zeros((2, 3), np.int64)), "int64 (2, 3) is needed from the host inside "
         "the step"),
        (lambda: backend.asarray([1.5, 2], np.float32), "float32 (2,) is needed from the host inside the "
         "step"),
        (lambda: backend.upload(Owner(), [np.zeros((4, 2)), np.zeros(4, np.float32)]),
         "a batch of float64 (4, 2), float32 (4,) is needed from the host inside the step"),
        (lambda: backend.send(there, np.zeros(3)), "float64 (3,) is sent from the host inside the step"),
    ]:
        with pytest.raises(CaptureError) as caught:
            call()
        assert str(caught.value) == message
    assert backend.upload(Owner(), [there]) == [there]
    backend.capturing = False
    new, same = backend.upload(Owner(), [np.ones(3), there])
    assert same is there
    late.read([new, same], [np.ones(3), np.zeros(3)])
    late.read(backend.upload(Owner(), [np.ones(3)]), [np.ones(3)])
    late.check()


def test_on_the_cpu_nothing_is_copied():
    backend, x = get_backend("cpu"), np.arange(6000.0)
    assert backend.pinned(x) is x
    same, made = backend.upload(Owner(), (x, [1, 2]))
    assert same is x and made.tolist() == [1, 2]


@pytest.fixture
def sources(tmp_path, rng):
    with h5py.File(tmp_path / "all.h5", "w") as h5:
        h5["a"] = rng.integers(0, 255, (70, 300)).astype(np.uint8)
        h5["b"] = np.arange(70)
    (tmp_path / "list.txt").write_text("all.h5\n")
    (tmp_path / "words.txt").write_text("".join(f"w{i} w{i * i % 30}\n" for i in range(100)))
    return tmp_path


LAYERS = {
    "HDF5Data": 'top: "a" top: "b" transform_param {{ scale: 0.5 }} '
                'hdf5_data_param {{ source: "{0}/list.txt" batch_size: 16 }}',
    "shuffled": 'top: "a" top: "b" hdf5_data_param {{ source: "{0}/list.txt" batch_size: 9 shuffle: true '
    'prefetch: 2 }}', "MemoryData": 'top: "a" top: "b" memory_data_param {{ batch_size: 8 channels: 1 '
    'height: 20 width: 20 }}', "TextData": 'top: "a" top: "b" top: "c" text_data_param {{ source: '
    '"{0}/words.txt" batch_size: 3 steps: 5 }}', "DummyData": 'top: "a" top: "b" top: "c" dummy_data_param '
    '{{ shape {{ dim: 9 }} data_filler {{ type: "gaussian" }} '
                 'data_filler {{ value: 3 }} data_filler {{ type: "uniform" max: 5 }} }}',
    "Input": 'top: "a" top: "b" input_param {{ shape {{ dim: 4 dim: 300 }} shape {{ dim: 4 }} }}',
}


@pytest.mark.parametrize("kind", LAYERS)
def test_data_layers_feed_what_they_feed_on_the_cpu(setting, on_device, kind, sources):
    type = "HDF5Data" if kind == "shuffled" else kind
    text = f'layer {{ name: "d" type: "{type}" {LAYERS[kind].format(sources)} }}'
    device_net, cpu_net = (Net(parse_net(text), device=device, seed=4) for device in (on_device, "cpu"))
    for net in (device_net, cpu_net):
        if kind == "MemoryData":
            net.set_input_arrays(np.arange(20 * 400, dtype=np.float32).reshape(20, 1, 20, 20), np.arange(20))
    for n in range(30):
        given = {}
        if kind == "Input":
            given = {"a": batch(n, 1 + n % 5)[0]} if n else {"a": batch(0, 1)[0], "b": [3.5, 4, 5, 6]}
            given["b"] = np.full(1 + n % 5, n) if n % 2 else list(range(1 + n % 5))
        if n == 20 and kind != "Input":
            device_net.seek(5), cpu_net.seek(5)
        cpu_net.forward(**given), device_net.forward(**given)
        for name, tensor in device_net.blobs.items():
            setting.read([tensor.data], [cpu_net.blobs[name].numpy().copy()])
    setting.check()
    device_net.close(), cpu_net.close()


def test_what_is_given_once_stays(setting, on_device):
    net = Net(parse_net('layer { name: "d" type: "Input" top: "a" top: "b" input_param { shape { dim: 4 dim: '
                        '300 } } }'),
              device=on_device)
    once = batch(1000)[0]
    net.set_inputs(b=once)
    there = setting.device.cupy.asarray(batch(5)[0])
    for n in range(100):
        given = there if n % 30 == 0 else Tensor(there, backend=on_device) if n % 30 == 1 else batch(n)[0]
        net.forward(a=given)
        setting.read([net.blobs["a"].data, net.blobs["b"].data], [batch(5 if n % 30 < 2 else n)[0], once])
        if n % 30 < 2:
            assert net.blobs["a"].data is there
    setting.check()


def test_constants_are_made_once(late, monkeypatch):
    net = Net(parse_net(f'layer {{ name: "d" type: "DummyData" {LAYERS["DummyData"].format("")} }}'),
              device=make_backend(late, monkeypatch))
    net.forward()
    constant = net.blobs["b"].data
    for _ in range(2 * RING):
        net.forward()
    assert net.blobs["b"].data is constant
    late.read([constant], [np.full(9, 3, np.float32)])
    late.check()


def test_the_reading_thread_pins(late, monkeypatch, sources):
    """All that is large: what the thread that trains copies is a row of labels."""
    backend = make_backend(late, monkeypatch)
    net = Net(parse_net(f'layer {{ name: "d" type: "HDF5Data" {LAYERS["HDF5Data"].format(sources)} }}'),
              device=backend)
    asked = {}
    pinned = late.device.alloc_pinned_memory

    def note(nbytes):
        asked.setdefault(threading.current_thread().name, set()).add(nbytes)
        return pinned(nbytes)

    late.device.cupy.cuda.alloc_pinned_memory = note
    for _ in range(6):
        net.forward()
    net.close()
    assert asked == {"minidrop-prefetch": {16 * 300 * 4}, threading.current_thread().name: {16 * 4}}


def test_a_net_that_nobody_holds_goes_with_its_buffers(late, monkeypatch, sources):
    backend = make_backend(late, monkeypatch)
    net = Net(parse_net(f'layer {{ name: "d" type: "HDF5Data" {LAYERS["HDF5Data"].format(sources)} }}'),
              device=backend)
    net.forward()
    layer = weakref.ref(net.layers["d"])
    del net
    gc.collect()
    assert layer() is None and not late.uploads._rings


# -- a real device -------------------------------------------------------------------------------------------
@pytest.mark.gpu
@pytest.mark.parametrize("busy", [0, 20], ids=["fast", "slow"])
@pytest.mark.parametrize("pinned", [True, False], ids=["pinned", "pageable"])
def test_on_a_gpu(backend_of_name, rng, busy, pinned):
    """Readers RING - 1 uploads late, behind work that takes longer than the copies or not; sizes change."""
    backend, owner = backend_of_name("cuda:0"), Owner()
    with backend.active():
        weight = backend.asarray(rng.standard_normal((2048, 2048)).astype(np.float32))
        given, kept, seen = [], [], []
        for n in range(100):
            arrays = [rng.integers(0, 99, (int(rng.integers(1, 400)), 3000)).astype(np.float32),
                      np.full(7, n)]
            given.append([x.copy() for x in arrays])
            arrays = [backend.pinned(x) for x in arrays] if pinned else arrays
            kept.append(backend.upload(owner, arrays))
            if not pinned:
                for x in arrays:
                    x[...] = -1
            for _ in range(busy):
                weight = backend.gemm(weight, weight) * np.float32(1e-3)
            if n >= RING - 1:
                seen.append([array.copy() for array in kept[n - RING + 1]])
                kept[n - RING + 1] = None
        for got, expected in zip(seen, given, strict=False):
            for array, values in zip(got, expected, strict=True):
                assert (backend.to_host(array) == values).all()
        large = np.ones((100, 100))
        copy = backend.pinned(large)
        assert copy is not large and backend.pinned(copy) is copy
