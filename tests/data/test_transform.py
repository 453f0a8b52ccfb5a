"""transform_param: the formula image by image, what is drawn, mean files, and what is refused."""

import lzma

import h5py
import numpy as np
import pytest
from cases import in_turn
from google.protobuf import text_format

from minidrop import ConfigError, DataError, Net, Solver
from minidrop.config import parse_net
from minidrop.config.minidrop_pb2 import TransformationParameter
from minidrop.data.binaryproto import read_blob
from minidrop.data.mean_file import mean_of, read_mean, write_mean
from minidrop.data.records import ArrayRecords
from minidrop.data.transform import Transform

SHAPE = (3, 9, 7)


def transform_of(text, shape=SHAPE, dtype="float32", phase="TRAIN", **more):
    return Transform(text_format.Parse(text, TransformationParameter()), shape, dtype, phase, **more)


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (40, *SHAPE)).astype(np.uint8)


@pytest.fixture
def mean_file(tmp_path, rng):
    write_mean(tmp_path / "mean.npy", rng.uniform(0, 255, SHAPE))
    return tmp_path / "mean.npy"


def variants(image, crop, mean, scale):
    """Caffe's loops: {(first row, first column, mirrored): transformed image} of every crop of an image."""
    channels, height, width = image.shape
    size_y, size_x = (crop, crop) if crop else (height, width)
    found = {}
    for top in range(height - size_y + 1):
        for left in range(width - size_x + 1):
            for mirrored in (False, True):
                out = np.empty((channels, size_y, size_x), np.float32)
                for c in range(channels):
                    for y in range(size_y):
                        for x in range(size_x):
                            pixel = np.float32(image[c, top + y, left + x])
                            value = (pixel - mean[c, top + y, left + x]) * np.float32(scale)
                            out[c, y, size_x - 1 - x if mirrored else x] = value
                found[top, left, mirrored] = out
    return found


@in_turn("phase", ["TRAIN", "TEST"])
@in_turn("mirror", [False, True])
@in_turn("crop", [0, 4, 7])
@in_turn("mean", ["file", "channels", "one"])
def test_every_image_is_one_of_caffes(images, mean_file, crop, mirror, phase, mean):
    values = {"file": f'mean_file: "{mean_file}"', "channels": "mean_value: 9 mean_value: 8.5 mean_value: 7",
              "one": "mean_value: 3"}[mean]
    at_pixels = {"file": np.load(mean_file), "channels": np.float32([9, 8.5, 7]).reshape(3, 1, 1),
                 "one": np.float32(3)}[mean] + np.zeros(SHAPE, np.float32)
    transform = transform_of(f"{values} crop_size: {crop} mirror: {str(mirror).lower()} scale: 0.0078125",
                             phase=phase)
    got = transform(images[:12], 100)
    assert got.dtype == np.float32 and got.shape == (12, *transform.shape)
    assert transform.shape == ((3, crop, crop) if crop else SHAPE)
    centre = ((9 - crop) // 2, (7 - crop) // 2) if crop else (0, 0)
    for image, result in zip(images, got, strict=False):
        allowed = [place for place, expected in variants(image, crop, at_pixels, 0.0078125).items()
                   if np.array_equal(expected, result)]
        assert allowed and any(mirror or not mirrored for *_, mirrored in allowed)
        if phase == "TEST":
            assert any(tuple(place) == centre for *place, _ in allowed)


def places(transform, position, count):
    """(row, column, mirrored) of records, read off images whose pixels say where they are."""
    rows, columns = np.indices(SHAPE[1:])
    image = np.broadcast_to(100 * rows + columns, (count, *SHAPE)).astype(np.int16)
    got = transform(image, position)[:, 0].astype(int)
    turned = got[:, 0, 0] > got[:, 0, -1]
    corner = np.where(turned, got[:, 0, -1], got[:, 0, 0])
    return list(zip((corner // 100).tolist(), (corner % 100).tolist(), turned.tolist(), strict=True))


def test_places_are_uniform_and_independent():
    found = places(transform_of("crop_size: 4 mirror: true"), 0, 24000)
    counts = np.zeros((6, 4, 2), int)
    np.add.at(counts, tuple(np.array(found).T), 1)
    assert counts.sum() == 24000
    # 48 equal chances of 500 each: chi-square with 47 degrees of freedom is below 85 but for 1 in 1800.
    assert ((counts - 500) ** 2 / 500).sum() < 85


def test_mirroring_is_a_coin_also_in_tests():
    for phase in ("TRAIN", "TEST"):
        turned = [turned for *_, turned in places(transform_of("mirror: true", phase=phase), 0, 10000)]
        assert abs(np.mean(turned) - 0.5) < 0.02
        assert abs(np.mean(np.array(turned[1:]) == turned[:-1]) - 0.5) < 0.02


def test_what_is_drawn_depends_on_the_record_alone():
    transform = transform_of("crop_size: 4 mirror: true", seed=3, layer_name="d")
    whole = places(transform, 0, 60)
    for size in (1, 7, 60):
        assert sum((places(transform, begin, min(size, 60 - begin)) for begin in range(0, 60, size)),
                   []) == whole
    assert places(transform_of("crop_size: 4 mirror: true", seed=3, layer_name="d"), 0, 60) == whole
    assert places(transform_of("crop_size: 4 mirror: true", seed=4, layer_name="d"), 0, 60) != whole
    assert places(transform_of("crop_size: 4 mirror: true", seed=3, layer_name="e"), 0, 60) != whole
    # Each purpose has numbers of its own: mirroring does not move the crops, nor the other way round.
    assert [place[:2] for place in places(transform_of("crop_size: 4", seed=3, layer_name="d"), 0, 60)] == [
        place[:2] for place in whole]
    assert [place[2] for place in places(transform_of("mirror: true", seed=3, layer_name="d"), 0, 60)] == [
        place[2] for place in whole]
    assert len(places(transform, 10**30, 2)) == 2           # a snapshot may hold any number


@in_turn("stored", ["uint8", "int8", "int32", "int64", "float16", "float32", "float64",
                    "bool"])
@in_turn("text", ["mean_value: 2.3 scale: 0.7", "scale: 0.7", "mean_value: 2.3"])
def test_cropping_changes_no_number(rng, stored, text, dtype):
    """A crop of the whole image gives, bit for bit, what no crop gives, whatever the data are stored as."""
    x = (rng.uniform(0, 100, (5, 3, 4, 4)) * 1.37).astype(stored)
    before = x.copy()
    plain, cut = (transform_of(f"{text} {more}", (3, 4, 4), dtype)(x) for more in ("", "crop_size: 4"))
    assert plain.dtype == cut.dtype == dtype and plain.tobytes() == cut.tobytes()
    assert (x == before).all()


def test_settings_that_ask_for_nothing():
    x = np.ones((2, 5), np.float32)
    text = "crop_size: 0 mirror: false force_color: false mean_file: ''"
    assert transform_of(text, (5,))(x) is x


@pytest.mark.parametrize("text, shape, message", [
    ("crop_size: 8", SHAPE, "crop_size must be at most the height and width of the images, 9 x 7, got 8"),
    ("crop_size: 2", (5,), r"crop_size needs records \(channels, height, width\), got records of shape "
     r"\(5,\)"),
    ("mirror: true", (5, 4), r"mirror needs records \(channels, height, width\)"),
    ("force_color: true", SHAPE, "force_color is for encoded images"),
    ("mean_value: 1 mean_value: 2", SHAPE, "one mean_value, or one for each of the 3 channels, got 2"),
])
def test_what_is_refused(text, shape, message):
    with pytest.raises(ConfigError, match=f"^transform_param: .*{message}"):
        transform_of(text, shape)


class TestMeanFiles:
    @pytest.mark.parametrize("name", ["mean.npy", "mean.binaryproto"])
    def test_round_trip(self, tmp_path, rng, name):
        mean = rng.standard_normal(SHAPE).astype(np.float32)
        write_mean(tmp_path / name, mean)
        got = read_mean(tmp_path / name)
        assert got.dtype == np.float32 and got.shape == SHAPE and (got == mean).all()

    def test_a_new_blob_with_doubles(self, tmp_path):
        """shape { dim: 2 dim: 3 } packed, then double_data one by one, then diff, which is not read."""
        values = np.arange(6) / 7
        path = tmp_path / "b.binaryproto"
        path.write_bytes(b"\x3a\x04\x0a\x02\x02\x03" + b"".join(b"\x41" + v.tobytes() for v in values)
                         + b"\x32\x04\0\0\0\0")
        got = read_blob(path)
        assert got.dtype == np.float64 and (got == values.reshape(2, 3)).all()

    def test_caffes_own(self, tmp_path, data_folder):
        packed = data_folder / "caffe/weights/imagenet_mean.binaryproto.xz"
        if not packed.is_file():
            pytest.skip(f"no {packed}")
        path = tmp_path / "mean.binaryproto"
        path.write_bytes(lzma.decompress(packed.read_bytes()))
        mean = read_mean(path)
        assert mean.shape == (3, 256, 256)
        assert mean.mean(axis=(1, 2)) == pytest.approx([104.007, 116.669, 122.679], abs=1e-3)
        write_mean(tmp_path / "again.binaryproto", mean)
        assert (read_mean(tmp_path / "again.binaryproto") == mean).all()

    @pytest.mark.parametrize("name", ["mean.npy", "mean.binaryproto"])
    def test_damaged_files_are_refused(self, tmp_path, rng, name):
        path = tmp_path / name
        write_mean(path, np.arange(60, dtype=np.float32).reshape(3, 4, 5))
        whole = path.read_bytes()
        refused = 0
        for number in range(300):
            content = bytearray(whole[:rng.integers(len(whole))] if number % 3 == 0 else whole)
            for _ in range(number % 3):
                content[rng.integers(len(content))] = rng.integers(256)
            path.write_bytes(content)
            try:
                assert read_mean(path).size == 60
            except DataError as error:
                assert str(error).startswith(f"{path}: expected ") and "\n" not in str(error)
                refused += 1
        assert refused >= 100

    @pytest.mark.parametrize("content", [b"", b"\x0a", b"\x08\x01", b"\xff" * 20, b"\x3a\x02\x08\0\x2a\0",
                                         b"\x3a\x0c\x08\0\x08" + b"\xff" * 9 + b"\x01",
                                         b"\x2a\xff\xff\xff\xff\x0f\0", b"\x3a\x28" + b"\x08\x01" * 20])
    def test_bytes_that_are_no_blob(self, tmp_path, content):
        (tmp_path / "b").write_bytes(content)
        with pytest.raises(DataError, match="expected a .binaryproto file"):
            read_blob(tmp_path / "b")

    def test_objects_are_not_loaded(self, tmp_path):
        np.save(tmp_path / "m.npy", np.array([{}, 1], object))
        with pytest.raises(DataError, match="expected a .npy file"):
            read_mean(tmp_path / "m.npy")

    def test_another_shape(self, mean_file):
        with pytest.raises(ConfigError, match=r"mean_file .*mean\.npy: expected a mean of shape \(3, 8, 8\), "
                           r"that of the records before cropping, got \(3, 9, 7\).*compute_mean\.py"):
            transform_of(f'mean_file: "{mean_file}"', (3, 8, 8))

    def test_no_numbers(self, mean_file):
        write_mean(mean_file, np.full(SHAPE, np.nan))
        with pytest.raises(ConfigError, match="expected finite numbers"):
            transform_of(f'mean_file: "{mean_file}"')

    def test_numbers_that_are_too_large_for_the_net(self, tmp_path):
        np.save(tmp_path / "mean.npy", np.full(SHAPE, 1e300))
        text = f'mean_file: "{tmp_path}/mean.npy"'
        with pytest.raises(ConfigError, match="expected finite numbers of float32, got others"):
            transform_of(text)
        assert transform_of(text, dtype="float64").mean.max() == 1e300

    def test_missing(self, tmp_path):
        with pytest.raises(DataError, match="^mean_file 'no.npy': no such file .looked for .*no.npy"):
            transform_of('mean_file: "no.npy"')
        with pytest.raises(DataError, match="^mean_file .*: expected a mean file, got the folder"):
            transform_of(f'mean_file: "{tmp_path}"')

    def test_mean_of_records(self, images, monkeypatch):
        monkeypatch.setattr("minidrop.data.mean_file.PIECE_BYTES", 1000)
        records = ArrayRecords({"data": images, "label": np.arange(len(images))})
        np.testing.assert_allclose(mean_of(records), images.mean(axis=0), rtol=1e-12)


class TestLayers:
    """Through HDF5Data and MemoryData."""

    TRANSFORM = "transform_param { crop_size: 4 mirror: true mean_value: 3 scale: 0.5 }"

    @pytest.fixture
    def source(self, tmp_path, images):
        for number, part in enumerate((images[:23], images[23:])):
            with h5py.File(tmp_path / f"{number}.h5", "w") as h5:
                h5["data"], h5["label"] = part, np.arange(len(part))
        (tmp_path / "list.txt").write_text("0.h5\n1.h5\n")
        return tmp_path / "list.txt"

    def net(self, source, batch_size=8, settings="shuffle: true", phase="TRAIN", transform=TRANSFORM):
        return Net(parse_net(f'layer {{ name: "h" type: "HDF5Data" top: "data" top: "label" {transform} '
                             f'hdf5_data_param {{ source: "{source}" batch_size: {batch_size} {settings} }} '
                             f'}}'), phase, "cpu", seed=5)

    def read(self, net, count):
        data = []
        for _ in range(count):
            net.forward()
            data.append(net.blobs["data"].numpy().copy())
        net.close()
        return np.concatenate(data)

    def test_neither_batch_size_nor_prefetching_matters(self, source):
        expected = self.read(self.net(source, 8), 30)
        assert expected.shape == (240, 3, 4, 4)
        for size, settings in ((1, ""), (40, "prefetch: 3"), (48, "prefetch: 1")):
            got = self.read(self.net(source, size, f"shuffle: true {settings}"), 240 // size)
            assert (got == expected).all()

    def test_going_on_equals_never_having_stopped(self, source):
        expected = self.read(self.net(source), 30)
        for position in (1, 4, 17):
            net = self.net(source)
            net.seek({"h": position})
            assert (self.read(net, 5) == expected[8 * position:8 * position + 40]).all()

    def test_a_resumed_training_equals_one_that_was_not_stopped(self, source, tmp_path):
        net = (f'layer {{ name: "h" type: "HDF5Data" top: "data" top: "label" {self.TRANSFORM} '
               f'hdf5_data_param {{ source: "{source}" batch_size: 7 shuffle: true }} }} '
               'layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { '
               'num_output: 23 weight_filler { type: "xavier" } } } layer { name: "loss" '
               'type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }')
        (tmp_path / "net.prototxt").write_text(net)
        (tmp_path / "solver.prototxt").write_text(
            f'net: "net.prototxt" base_lr: 0.001 lr_policy: "fixed" max_iter: 20 random_seed: 3 '
            f'snapshot_prefix: "{tmp_path}/s"')
        whole, first, second = (Solver.from_file(tmp_path / "solver.prototxt", device="cpu")
                                for _ in range(3))
        whole.step(20)
        first.step(9)
        path = first.snapshot()
        second.restore(path)
        second.step(11)
        for name, weights in whole.net.parameters().items():
            assert (second.net.parameters()[name].numpy() == weights.numpy()).all()
        for solver in (whole, first, second):
            solver.close()

    def test_every_epoch_draws_anew(self, source, images):
        first, second = self.read(self.net(source, 40, ""), 2).reshape(2, 40, 3, 4, 4)
        assert np.mean((first == second).all(axis=(1, 2, 3))) < 0.3
        first, second = self.read(self.net(source, 40, "", "TEST",
                                           "transform_param { crop_size: 4 }"), 2).reshape(2, 40, 3, 4, 4)
        assert (first == second).all() and (first == images[:, :, 2:6, 1:5]).all()

    def test_memory_data(self, images):
        text = ('layer { name: "h" type: "MemoryData" top: "data" top: "label" memory_data_param '
                f'{{ batch_size: 8 channels: 3 height: 9 width: 7 }} {self.TRANSFORM} }}')
        net = Net(parse_net(text), "TRAIN", "cpu", seed=5)
        net.set_input_arrays(images, np.arange(40))
        assert net.graph.shapes["data", 0] == (8, 3, 4, 4)
        before = images.copy()
        got = self.read(net, 5)
        assert (images == before).all()
        transform = transform_of("crop_size: 4 mirror: true mean_value: 3 scale: 0.5", seed=5, layer_name="h")
        assert (got == transform(images)).all()

    def test_the_mistake_names_the_layer(self, source):
        with pytest.raises(ConfigError, match=r"^<string>:1:\d+: layer 'h' \(HDF5Data\): mean_file 'no.npy'"):
            self.net(source, transform='transform_param { mean_file: "no.npy" }')

    def test_a_mean_file_beside_the_net(self, source, mean_file, images, monkeypatch):
        net = ('layer { name: "h" type: "HDF5Data" top: "data" transform_param { mean_file: "mean.npy" } '
               'hdf5_data_param { source: "list.txt" batch_size: 40 } }')
        (source.parent / "net.prototxt").write_text(net)
        monkeypatch.chdir("/")
        got = self.read(Net.from_file(source.parent / "net.prototxt", device="cpu"), 1)
        assert (got == images - np.load(mean_file)).all()
