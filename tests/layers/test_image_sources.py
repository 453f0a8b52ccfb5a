"""Data, ImageData, WindowData and HDF5Output: what they feed or write, where they go on, what they refuse."""

import gc
import re
import subprocess
import sys

import h5py
import numpy as np
import pytest

from minidrop import ConfigError, DataError, ShapeError
from minidrop.config import parse_net
from minidrop.data.binaryproto import write_blob
from minidrop.data.database_writer import new_database
from minidrop.data.datum import write_datum, write_encoded
from minidrop.data.images import encode, resize
from minidrop.data.mean_file import unpacked
from minidrop.net import Net
from minidrop.net.definition import definition_of

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (10, 3, 8, 9), np.uint8)
SIZES = ((8, 9), (12, 7), (9, 9), (20, 11))
ODD = [RNG.integers(0, 256, (3, *SIZES[n % 4]), np.uint8) for n in range(10)]


@pytest.fixture
def database(tmp_path):
    """database(values, name) -> the folder of an LMDB."""
    pytest.importorskip("lmdb", reason="the package (of the extra `caffe`) that reads such databases")

    def make(values, name="db"):
        with new_database(tmp_path / name, "LMDB") as put:
            for n, value in enumerate(values):
                put(b"%08d" % n, value)
        return tmp_path / name
    return make


@pytest.fixture
def pictures(tmp_path):
    """A list of images n.png with label n."""
    pytest.importorskip("PIL", reason="Pillow (the extra `images`) decodes images")

    def make(arrays):
        for n, array in enumerate(arrays):
            (tmp_path / f"{n}.png").write_bytes(encode(array, "png"))
        (tmp_path / "list.txt").write_text("".join(f"{n}.png {n}\n" for n in range(len(arrays))))
        return tmp_path / "list.txt"
    return make


def data_text(source, settings="batch_size: 4", transform="", tops='top: "data" top: "label"'):
    return (f'layer {{ name: "d" type: "Data" {tops} data_param {{ source: "{source}" backend: LMDB '
            f'{settings} }} '
            f'transform_param {{ {transform} }} }}')


def image_text(source, settings="batch_size: 4", transform=""):
    return (f'layer {{ name: "i" type: "ImageData" top: "data" top: "label" image_data_param {{ source: '
            f'"{source}" '
            f'{settings} }} transform_param {{ {transform} }} }}')


def fed(net, count):
    """What net feeds in some forward passes: [(data, label)]."""
    found = []
    for _ in range(count):
        net.forward()
        found.append((net.blobs["data"].numpy(), net.blobs["label"].numpy()))
    return found


def same(one, other):
    assert len(one) == len(other)
    for ours, theirs in zip(one, other, strict=True):
        for x, y in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(x, y)


class TestData:
    def test_in_order_and_round_again(self, make_net, database, dtype):
        net = make_net(data_text(database(write_datum(image, 10 * n) for n, image in enumerate(IMAGES))))
        (data, label), *_, last = fed(net, 3)
        assert (data == IMAGES[:4]).all() and data.dtype == label.dtype == dtype
        assert label.tolist() == [0, 10, 20, 30] and last[1].tolist() == [80, 90, 0, 10]
        assert (last[0] == IMAGES[[8, 9, 0, 1]]).all()

    def test_only_the_images(self, make_net, database):
        net = make_net(data_text(database([write_datum(IMAGES[0], 1)]), tops='top: "x"'))
        net.forward()
        assert (net.blobs["x"].numpy() == IMAGES[[0] * 4]).all()

    @pytest.mark.parametrize("settings, transform", [
        ("batch_size: 3", ""), ("batch_size: 3 rand_skip: 9 prefetch: 1", "scale: 0.5 mirror: true"),
        ("batch_size: 4", "crop_size: 5 mirror: true mean_value: 9"), ("batch_size: 11 rand_skip: 2", "")])
    def test_a_resumed_run_goes_on_to_the_record(self, database, settings, transform):
        text = data_text(database(write_datum(image, n) for n, image in enumerate(IMAGES)), settings,
                         transform)
        whole, resumed = (Net(parse_net(text), device="cpu", seed=6) for _ in range(2))
        expected = fed(whole, 9)
        resumed.seek({"d": 4})
        same(fed(resumed, 5), expected[4:])
        whole.seek(0)
        same(fed(whole, 9), expected)

    def test_rand_skip_follows_from_the_seed(self, database):
        text = data_text(database(write_datum(image, n) for n, image in enumerate(IMAGES)),
                         "batch_size: 1 rand_skip: 10")
        first = [fed(Net(parse_net(text), device="cpu", seed=seed), 1)[0][1][0] for seed in (*range(12), 0)]
        assert first[0] == first[-1] and len(set(first)) > 3

    def test_encoded_images(self, make_net, database):
        pytest.importorskip("PIL", reason="Pillow (the extra `images`) decodes images")
        source = database(write_encoded(encode(image[:1 + 2 * (n != 1)], "png"), n)
                          for n, image in enumerate(IMAGES[:3]))
        force = "batch_size: 3 force_encoded_color: true"
        (data, _), = fed(make_net(data_text(source, force)), 1)
        assert (data[[0, 2]] == IMAGES[[0, 2]]).all() and (data[1] == IMAGES[1, 0]).all()
        same(fed(make_net(data_text(source, "batch_size: 3", "force_color: true")), 1),
             [(data, np.arange(3))])
        gray = make_net(data_text(source, transform="force_gray: true"))
        assert gray.graph.shapes["data", 0] == (4, 1, 8, 9)
        with pytest.raises(DataError, match=r"^layer 'd' \(Data\): .*db: record 1 .*: expected 3 x 8 x 9 .*, "
                                            "got 1 x 8 x 9; make all images of one kind, in colour or gray"):
            fed(make_net(data_text(source)), 1)

    def test_the_crop_is_taken_from_each_image(self, make_net, database):
        source = database(write_datum(image, n) for n, image in enumerate(ODD))
        net = make_net(data_text(source, transform="crop_size: 7 mean_value: 2"), phase="TEST")
        for n, (data, _) in enumerate(fed(net, 2)):
            for place, found in enumerate(data):
                image = ODD[4 * n + place]
                top, left = ((length - 7) // 2 for length in image.shape[1:])
                assert (found == image[:, top:top + 7, left:left + 7].astype(float) - 2).all()

    def test_random_crops_of_one_size_are_those_of_many(self, database):
        """Which sizes the other images of a batch have does not matter."""
        values = [write_datum(image, n) for n, image in enumerate(IMAGES)]
        alike = data_text(database(values[:4]), transform="crop_size: 5 mirror: true scale: 0.1")
        unlike = data_text(database([*values[:3], write_datum(ODD[1], 3)], "unlike"),
                           transform="crop_size: 5 mirror: true scale: 0.1")
        (one, _), (other, _) = (fed(Net(parse_net(text), device="cpu", seed=2), 1)[0]
                                for text in (alike, unlike))
        np.testing.assert_array_equal(one[:3], other[:3])
        assert (one[3] != other[3]).any()

    def test_single_images_of_any_size(self, database):
        text = data_text(database(write_datum(image, n) for n, image in enumerate(ODD[:3])), "batch_size: 1",
                         "mirror: true")
        text += ('layer { name: "c" type: "Convolution" bottom: "data" top: "c" convolution_param { '
                 'num_output: 2 '
                 'kernel_size: 3 weight_filler { type: "xavier" } } }')
        net = Net(parse_net(text), device="cpu")
        for n in range(3):
            net.forward()
            assert net.blobs["data"].shape == (1, *ODD[n].shape)
            assert net.blobs["c"].shape == (1, 2, ODD[n].shape[1] - 2, ODD[n].shape[2] - 2)

    def test_a_mean_file_of_another_size(self, make_net, database, tmp_path):
        write_blob(tmp_path / "mean.binaryproto", np.ones((1, 3, 8, 9)))
        source = database(write_datum(image, n) for n, image in enumerate(ODD[:2]))
        net = make_net(data_text(source, transform=f'crop_size: 5 mean_file: "{tmp_path}/mean.binaryproto"'))
        with pytest.raises(DataError,
                           match=r"mean_file: expected images of 8 x 9 as in the file, got 12 x 7 in entry 1 "
                                            r"of the batch; use mean_value"):
            net.forward()

    def test_two_nets_and_one_database(self, make_net, database):
        text = data_text(database(write_datum(image, n) for n, image in enumerate(IMAGES)))
        train, test = make_net(text), make_net(text, phase="TEST")
        same(fed(train, 3), fed(test, 3))
        train.close()
        assert fed(test, 1)[0][1].tolist() == [2, 3, 4, 5]

    @pytest.mark.parametrize("text, message", [
        ('data_param { batch_size: 1 }', "data_param needs a source, the folder of a database"),
        ('data_param { source: "x" }', "data_param needs a batch_size, at least 1"),
        ('data_param { source: "x" batch_size: 1 } transform_param { force_color: true force_gray: true }',
         "transform_param: force_color and force_gray are both given; keep one")])
    def test_settings(self, mistake, text, message):
        assert mistake(f'layer {{ name: "l" type: "Data" top: "x" {text} }}') == message

    @pytest.mark.parametrize("source, command", [
        ("examples/mnist/mnist_train_lmdb", "convert_mnist_data IMAGES LABELS DB"),
        ("cifar10_train_lmdb", "convert_cifar_data INPUT_FOLDER OUTPUT_FOLDER lmdb"),
        ("mnist_siamese_train_leveldb", "convert_mnist_siamese_data IMAGES LABELS DB"),
        ("ilsvrc12_train_lmdb", "convert_imageset ROOT/ LIST DB")])
    def test_a_missing_database(self, source, command):
        with pytest.raises(ConfigError) as caught:
            Net(parse_net(data_text(source)), device="cpu")
        assert f"source '{source}': no such folder (looked for " in str(caught.value)
        assert str(caught.value).endswith(f"make the database with: minidrop {command}")

    def test_a_file_in_its_place(self, tmp_path):
        (tmp_path / "db").touch()
        with pytest.raises(ConfigError,
                           match="expected the folder of a database, got a file; name the folder"):
            Net(parse_net(data_text(tmp_path / "db")), device="cpu")

    def test_force_color_is_for_encoded_images(self, database):
        with pytest.raises(ConfigError, match="force_color is for encoded images"):
            Net(parse_net(data_text(database([write_datum(IMAGES[0], 0)]), transform="force_color: true")),
                device="cpu")


class TestImageData:
    def test_in_order(self, make_net, pictures, dtype):
        net = make_net(image_text(pictures(IMAGES), transform="scale: 0.5"))
        (data, label), *_ = fed(net, 1)
        assert (data == IMAGES[:4] * 0.5).all() and label.tolist() == [0, 1, 2, 3] and data.dtype == dtype

    def test_one_image_unless_told_otherwise(self, make_net, pictures):
        assert make_net(image_text(pictures(IMAGES), "")).graph.shapes["data", 0] == (1, 3, 8, 9)

    def test_scaled(self, make_net, pictures):
        (data, _), = fed(make_net(image_text(pictures(ODD), "batch_size: 4 new_height: 6 new_width: 5")), 1)
        assert (data == np.stack([resize(image, 6, 5) for image in ODD[:4]])).all()
        net = make_net(image_text(pictures(ODD), "batch_size: 4 new_height: 6 new_width: 5 is_color: false"))
        assert net.graph.shapes["data", 0] == (4, 1, 6, 5)

    @pytest.mark.parametrize("settings, transform", [
        ("batch_size: 3 shuffle: true", "mirror: true"), ("batch_size: 4 shuffle: true rand_skip: 8", ""),
        ("batch_size: 4 prefetch: 1", "crop_size: 5 mirror: true")])
    def test_a_resumed_run_goes_on_to_the_record(self, pictures, settings, transform):
        text = image_text(pictures(IMAGES), settings, transform)
        whole, resumed = (Net(parse_net(text), device="cpu", seed=6) for _ in range(2))
        expected = fed(whole, 9)
        resumed.seek({"i": 4})
        same(fed(resumed, 5), expected[4:])

    def test_each_epoch_has_its_own_order(self, make_net, pictures):
        net = make_net(image_text(pictures(IMAGES), "batch_size: 10 shuffle: true"), seed=1)
        orders = [label.tolist() for _, label in fed(net, 3)]
        assert all(sorted(order) == list(range(10)) for order in orders) and len(set(map(tuple, orders))) == 3

    def test_images_of_different_sizes(self, make_net, pictures):
        source = pictures(ODD)
        assert fed(make_net(image_text(source, transform="crop_size: 7")), 2)[1][0].shape == (4, 3, 7, 7)
        single = fed(make_net(image_text(source, "")), 2)
        assert [data.shape for data, _ in single] == [(1, 3, 8, 9), (1, 3, 12, 7)]
        with pytest.raises(DataError,
                           match=r"^layer 'i' \(ImageData\): .*list\.txt:2: image '.*1\.png': expected"):
            make_net(image_text(source)).forward()

    @pytest.mark.parametrize("text, message", [
        ('', "image_data_param needs a source, the text file that lists the images"),
        ('source: "x" batch_size: 0', "image_data_param: batch_size must be at least 1, got 0"),
        ('source: "x" new_height: 3', "image_data_param: new_height and new_width go together, got 3 and 0; "
                                      "give both or neither")])
    def test_settings(self, mistake, text, message):
        assert mistake(f'layer {{ name: "l" type: "ImageData" top: "x" image_data_param {{ {text} }} '
                       f'}}') == message

    def test_more_of_them(self, mistake):
        assert mistake('layer { name: "l" type: "ImageData" top: "x" image_data_param { source: "x" } '
                       'transform_param { '
                       'force_gray: true } }').startswith("transform_param: force_color and force_gray are "
                                                          "for databases")


class TestWindowData:
    def text(self, folder, settings="", transform=""):
        return (f'layer {{ name: "w" type: "WindowData" top: "data" top: "label" window_data_param {{ '
                f'source: '
                f'"{folder}/windows.txt" root_folder: "{folder}/" batch_size: 4 {settings} }} '
                f'transform_param {{ crop_size: '
                f'6 {transform} }} }}')

    @pytest.fixture
    def folder(self, pictures, tmp_path):
        pictures(ODD[:2])
        (tmp_path / "windows.txt").write_text("# 0\n0.png\n3\n8\n9\n2\n3 0.8 0 0 4 4\n1 0.2 2 1 8 7\n"
                                              "# 1\n1.png\n3\n12\n7\n1\n5 1 1 1 6 11\n")
        return tmp_path

    def test_it_feeds_and_goes_on(self, folder, dtype):
        text = self.text(folder, "context_pad: 1 crop_mode: \"square\" fg_fraction: 0.5",
                         "mirror: true mean_value: 100")
        whole, resumed = (Net(parse_net(text), device="cpu", seed=6, dtype=dtype) for _ in range(2))
        assert whole.graph.shapes["data", 0] == (4, 3, 6, 6)
        expected = fed(whole, 6)
        assert all(label[:2].tolist() == [0, 0] and set(label[2:]) <= {3, 5} for _, label in expected)
        resumed.seek({"w": 2})
        same(fed(resumed, 4), expected[2:])

    def test_the_old_form_of_its_settings(self, folder):
        text = self.text(folder, "crop_size: 6 mirror: true scale: 2", "").replace("crop_size: 6  }", "}")
        new = self.text(folder, "", "mirror: true scale: 2")
        same(*(fed(Net(parse_net(one), device="cpu"), 2) for one in (text, new)))

    def test_a_mean_file(self, folder):
        write_blob(folder / "mean.binaryproto", np.full((1, 3, 6, 6), 7.0))
        file, value = (self.text(folder, "", mean) for mean in (f'mean_file: "{folder}/mean.binaryproto"',
                                                                "mean_value: 7"))
        same(*(fed(Net(parse_net(one), device="cpu"), 2) for one in (file, value)))
        net = Net(parse_net(file), device="cpu")
        write_blob(folder / "mean.binaryproto", np.full((1, 3, 6, 6), 8.0))
        definition = parse_net(definition_of(net)["deploy"])
        mean, = (unpacked(layer.transform_param.mean_data) for layer in definition.message.layer)
        np.testing.assert_array_equal(mean, np.full((3, 6, 6), 7.0))    # what it trains with
        write_blob(folder / "mean.binaryproto", np.full((1, 3, 6, 6), 1e300))
        with pytest.raises(ConfigError, match="the mean: expected finite numbers of float32"):
            Net(parse_net(file), device="cpu")

    @pytest.mark.parametrize("settings, message", [
        ("context_pad: 3", "window_data_param: context_pad must be less than half of crop_size, 6, got 3"),
        ('crop_mode: "sqare"', "window_data_param: crop_mode must be one of warp, square, got 'sqare'"),
        ("fg_fraction: 1.5", "window_data_param: fg_fraction must be within 0..1, got 1.5")])
    def test_settings(self, tmp_path, settings, message):
        with pytest.raises(ConfigError) as caught:
            Net(parse_net(self.text(tmp_path, settings)), device="cpu")
        assert str(caught.value).endswith(message)

    @pytest.mark.parametrize("text, message", [
        ('transform_param { crop_size: 6 }',
         "window_data_param needs a source, the text file that lists the windows"),
        ('window_data_param { source: "x" } transform_param { crop_size: 6 }',
         "window_data_param needs a batch_size, at least 1"),
        ('window_data_param { source: "x" batch_size: 1 }',
         "transform_param needs a crop_size, the side that windows are scaled to")])
    def test_what_it_needs(self, mistake, text, message):
        assert mistake(f'layer {{ name: "l" type: "WindowData" top: "x" top: "y" {text} }}') == message


class TestHDF5Output:
    TEXT = '''layer { name: "m" type: "MemoryData" top: "data" top: "label"
                      memory_data_param { batch_size: 2 channels: 3 height: 1 width: 1 } }
              layer { name: "f" type: "Flatten" bottom: "data" top: "flat" }
              layer { name: "o" type: "HDF5Output" bottom: "flat" bottom: "label"
                      hdf5_output_param { file_name: "%s" } }'''

    def test_batches_one_behind_another(self, make_net, tmp_path, dtype):
        path = tmp_path / "out.h5"
        path.write_text("old")
        net = make_net(self.TEXT % path)
        x = np.arange(12.0).reshape(4, 3, 1, 1)
        net.set_input_arrays(x, [1, 2, 3, 4])
        for _ in range(3):
            net.forward()
        assert path.read_text() == "old"        # whole or not at all
        net.close()
        with h5py.File(path) as h5:
            assert sorted(h5) == ["data", "label"] and h5["data"].dtype == dtype
            assert (h5["data"][:] == x[[0, 1, 2, 3, 0, 1]]).all() and h5["data"].shape == (6, 3, 1, 1)
            assert h5["label"].shape == (6, 1, 1, 1) and h5["label"][:].ravel().tolist() == [1, 2, 3, 4, 1, 2]
        assert [item.name for item in tmp_path.iterdir()] == ["out.h5"]
        net.close()
        with pytest.raises(DataError, match="out.h5: is complete; build the net again to write another one"):
            net.forward()

    def test_it_is_read_back(self, make_net, tmp_path):
        net = make_net(self.TEXT % (tmp_path / "out.h5"))
        net.set_input_arrays(np.arange(12.0).reshape(4, 3, 1, 1), [1, 2, 3, 4])
        net.forward()
        net.close()
        (tmp_path / "list.txt").write_text("out.h5\n")
        reader = make_net(f'layer {{ name: "h" type: "HDF5Data" top: "data" top: "label" hdf5_data_param {{ '
                          f'source: '
                          f'"{tmp_path}/list.txt" batch_size: 2 }} }}')
        reader.forward()
        assert reader.blobs["data"].numpy().ravel().tolist() == list(range(6))

    def written(self, path):
        """Return a net that has written a batch of two."""
        net = Net(parse_net(self.TEXT % path), device="cpu")
        net.set_input_arrays(np.ones((4, 3, 1, 1)))
        net.forward()
        return net

    def test_a_net_that_nobody_closes_replaces_nothing(self, tmp_path, caplog):
        (tmp_path / "out.h5").write_text("old")
        net = self.written(tmp_path / "out.h5")
        del net
        gc.collect()
        assert (tmp_path / "out.h5").read_text() == "old" and len(list(tmp_path.iterdir())) == 1
        assert "out.h5: is not written, since its net was not closed" in caplog.text

    def test_a_program_that_fails_replaces_nothing(self, tmp_path):
        (tmp_path / "out.h5").write_text("old")
        program = ("import sys; from minidrop.data.hdf5_output import HDF5Writer; import numpy\n"
                   "writer = HDF5Writer(sys.argv[1]); writer.append(data=numpy.ones((2, 1, 1, 1)))\n"
                   "raise SystemExit(3)")
        ended = subprocess.run([sys.executable, "-c", program, tmp_path / "out.h5"], check=False,
                               capture_output=True, text=True)
        assert ended.returncode == 3 and "Traceback" not in ended.stderr
        assert (tmp_path / "out.h5").read_text() == "old" and len(list(tmp_path.iterdir())) == 1

    def test_a_net_closed_because_of_an_error_replaces_nothing(self, tmp_path):
        (tmp_path / "out.h5").write_text("old")
        net = self.written(tmp_path / "out.h5")
        with pytest.raises(KeyboardInterrupt):
            try:
                raise KeyboardInterrupt
            finally:
                net.close()
        assert (tmp_path / "out.h5").read_text() == "old" and len(list(tmp_path.iterdir())) == 1
        with pytest.raises(DataError, match="out.h5: was given up after an error; build the net again"):
            net.forward()

    def test_a_run_within_the_handling_of_another_error_is_complete(self, tmp_path):
        try:
            raise ImportError
        except ImportError:
            self.written(tmp_path / "out.h5").close()
        with h5py.File(tmp_path / "out.h5") as h5:
            assert len(h5["data"]) == 2

    def test_two_nets_do_not_write_one_file(self, tmp_path):
        net = self.written(tmp_path / "out.h5")
        (tmp_path / "here").symlink_to(tmp_path)
        with pytest.raises(DataError, match="layer 'o'.*expected one layer that writes it, got a second"):
            self.written(tmp_path / "here" / "out.h5")
        net.close()
        self.written(tmp_path / "out.h5").close()

    def test_full_disk(self, tmp_path):
        """A limit on files is one that the system reports as a full disk does: at some write."""
        (tmp_path / "out.h5").write_text("old")
        program = """if True:
            import resource, signal, sys
            import numpy as np
            from minidrop.data.hdf5_output import HDF5Writer
            from minidrop.errors import DataError
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
            for rows, width in ((100, 5000), (1, 20_000), (1, 90_000)):
                writer = HDF5Writer(sys.argv[1])
                try:
                    for i in range(rows):
                        writer.append(data=np.ones((10, width)), label=np.zeros(10))
                    writer.close()
                except DataError as error:
                    print(error)
                try:
                    writer.append(data=np.ones((10, width)), label=np.zeros(10))
                except DataError as error:
                    print(error)
                writer.close()
        """
        ended = subprocess.run([sys.executable, "-c", program, tmp_path / "out.h5"], check=False,
                               capture_output=True, text=True)
        assert (ended.returncode, ended.stderr) == (0, "")
        lines = ended.stdout.splitlines()
        assert len(lines) == 6 and all(re.search(
            r"out.h5: expected a place for the file of hdf5_output_param, got: File too large; an older file "
            r"is as it was: free", line) for line in lines[::2])
        assert all("out.h5: was given up after an error" in line for line in lines[1::2])
        assert (tmp_path / "out.h5").read_text() == "old" and len(list(tmp_path.iterdir())) == 1

    def test_nothing_written_is_no_file(self, make_net, tmp_path):
        make_net(self.TEXT % (tmp_path / "out.h5")).close()
        assert list(tmp_path.iterdir()) == []

    def test_what_does_not_fit(self, mistake, tmp_path):
        text = 'layer { name: "l" type: "HDF5Output" bottom: "a" bottom: "b" %s }'
        assert mistake(text % "", (2, 3),
                       (2,)) == "hdf5_output_param needs a file_name, that of the HDF5 file to write"
        assert mistake(text % 'hdf5_output_param { file_name: "x" }', (2, 3), (3,)) == (
            "expected as many labels as records, got the shapes (2, 3) and (3,)")

    def test_another_shape_in_a_later_batch(self, make_net, tmp_path):
        net = make_net('layer { name: "i" type: "Input" top: "a" top: "b" input_param { shape { dim: 2 dim: '
                       '3 } shape { '
                       'dim: 2 } } } layer { name: "o" type: "HDF5Output" bottom: "a" bottom: "b" '
                       'hdf5_output_param { '
                       f'file_name: "{tmp_path}/out.h5" }} }}')
        net.forward(a=np.ones((2, 3)), b=np.ones(2))
        net.forward(a=np.ones((5, 3)), b=np.ones(5))
        net.close()
        with h5py.File(tmp_path / "out.h5") as h5:
            assert len(h5["data"]) == 7

    def test_a_folder_that_is_not_there(self, make_net, tmp_path):
        net = make_net(self.TEXT % (tmp_path / "none" / "out.h5"))
        net.set_input_arrays(np.ones((4, 3, 1, 1)))
        with pytest.raises((OSError, ShapeError, DataError), match="none/out.h5"):
            net.forward()
