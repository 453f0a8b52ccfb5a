"""Every rank reads its part of the batches that one process reads, whatever the source; and what it tests."""

import h5py
import numpy as np
import pytest
from nets import drop, layer
from parallel_nets import assert_same_training, language_model, mlp, solver_of, trained, weights, write_text

from minidrop.config import parse_net
from minidrop.data.database_writer import new_database
from minidrop.data.datum import write_datum
from minidrop.errors import ConfigError, DataError, SnapshotError
from minidrop.net import Net
from minidrop.testing import run_ranks

IMAGES = np.random.default_rng(0).integers(0, 256, (50, 3, 8, 9), np.uint8)


def hdf5(folder, settings):
    for number in range(2):
        with h5py.File(folder / f"{number}.h5", "w") as file:
            file["data"] = np.arange(number * 25 * 4, (number + 1) * 25 * 4, dtype="f4").reshape(25, 4)
            file["label"] = np.arange(25)
    (folder / "list.txt").write_text(f"{folder}/0.h5\n{folder}/1.h5\n")
    return (f'layer {{ name: "d" type: "HDF5Data" top: "data" top: "label" hdf5_data_param {{ source: '
            f'"{folder}/list.txt" batch_size: 12 {settings} }} }}')


def database(folder, settings):
    pytest.importorskip("lmdb", reason="the package (of the extra `caffe`) that reads such databases")
    with new_database(folder / "db", "LMDB") as put:
        for n, image in enumerate(IMAGES):
            put(b"%08d" % n, write_datum(image, n))
    return (f'layer {{ name: "d" type: "Data" top: "data" top: "label" data_param {{ source: "{folder}/db" '
            f'backend: LMDB batch_size: 12 {settings} }} transform_param {{ crop_size: 5 mirror: true }} }}')


def pictures(folder, settings):
    image = pytest.importorskip("PIL.Image", reason="Pillow (the extra `images`) decodes images")
    for n, array in enumerate(IMAGES[:20]):
        image.fromarray(array.transpose(1, 2, 0)).save(folder / f"{n}.png")
    (folder / "list.txt").write_text("".join(f"{n}.png {n}\n" for n in range(20)))
    return (f'layer {{ name: "d" type: "ImageData" top: "data" top: "label" image_data_param {{ source: '
            f'"{folder}/list.txt" root_folder: "{folder}/" batch_size: 12 {settings} }} '
            f'transform_param {{ crop_size: 5 mirror: true }} }}')


def text(folder, settings):
    return (f'layer {{ name: "d" type: "TextData" top: "data" top: "label" top: "cont" text_data_param {{ '
            f'source: "{write_text(folder)}" steps: 5 batch_size: 12 {settings} }} }}')


def pairs(folder, settings):
    rng = np.random.default_rng(1)
    for side in ("source", "target"):
        (folder / f"{side}.txt").write_text("".join(
            " ".join(rng.choice(list("abcdef"), rng.integers(1, 6))) + "\n" for _ in range(40)))
    return (f'layer {{ name: "d" type: "ParallelTextData" top: "a" top: "b" top: "c" top: "e" '
            f'parallel_text_data_param {{ source: "{folder}/source.txt" target: "{folder}/target.txt" '
            f'source_steps: 6 target_steps: 7 batch_size: 12 {settings} }} }}')


def tags(folder, settings):
    rng = np.random.default_rng(1)
    (folder / "train.txt").write_text("".join(
        "".join(f"{word} O\n" for word in rng.choice(["Ann", "met", "a", "B-52"], rng.integers(1, 5))) + "\n"
        for _ in range(30)))
    tops = " ".join(f'top: "{top}"' for top in ("words", "tags", "cont", "characters", "character_cont"))
    return (f'layer {{ name: "d" type: "TaggedTextData" {tops} tagged_text_data_param {{ '
            f'source: "{folder}/train.txt" batch_size: 12 {settings} }} }}')


def dummy(folder, settings):
    return ('layer { name: "d" type: "DummyData" top: "data" top: "label" dummy_data_param { '
            'shape { dim: 12 dim: 3 } shape { dim: 12 } data_filler { type: "gaussian" std: 1 } '
            'data_filler { type: "constant" value: 2 } } }')


@pytest.mark.parametrize(("source", "settings"), [
    (hdf5, ""), (hdf5, "shuffle: true"), (hdf5, "shuffle: true shuffle_across_files: true"),
    (database, ""), (database, "rand_skip: 9"), (pictures, "shuffle: true"), (text, "level: CHARACTER"),
    (text, "level: CHARACTER shuffle: true"), (text, "sentences: true"), (pairs, "shuffle: true"),
    (tags, "shuffle: true"), (dummy, "")])
def test_parts_of_the_batches_of_one_process(source, settings, tmp_path):
    """Also over the end of an epoch, and with crops and mirrors at random."""
    description = parse_net(source(tmp_path, settings), "net.prototxt")
    whole = Net(description, device="cpu", seed=3)
    parts = [Net(description, device="cpu", seed=3, rank=rank, ranks=3) for rank in range(3)]
    for _ in range(10):
        for net in (whole, *parts):
            net.forward()
        for net in parts:
            for ref, tensor in net.run.tensors.items():
                np.testing.assert_array_equal(tensor.numpy(),
                                              net.parts.blobs[ref].take(whole.run.tensors[ref].numpy()))
        layer_of = [net.layers["d"] for net in (whole, parts[1])]
        assert layer_of[1].record_of(1) == layer_of[0].record_of(5)
    for net in (whole, *parts):
        net.close()


def test_a_batch_that_cannot_be_shared(tmp_path):
    text = "'d' .HDF5Data.: expected a batch of a multiple of 5 records.*got 12"
    with pytest.raises(ConfigError, match=text):
        Net(parse_net(hdf5(tmp_path, ""), "net.prototxt"), device="cpu", rank=0, ranks=5)


# -- tests, outputs ------------------------------------------------------------------------------------------
METRICS = [layer("Accuracy", "accuracy", "ip2 label", more="accuracy_param { ignore_label: 2 }"),
           layer("Accuracy", "classes", "ip2 label", more="accuracy_param { top_k: 2 }")]
EVENTS = 'display: 2 test_interval: 2 test_iter: {} max_iter: 4'


def events_of(layers, settings, communicator=None):
    solver = solver_of(layers, settings, communicator)
    found = []
    solver.add_callback(lambda event: found.append((event.kind, event.iteration, dict(event.values))))
    solver.solve()
    return found


@pytest.mark.parametrize("tests", [1, 2, 5, -1])
def test_means_of_tests_and_displays_are_over_all_ranks(tests, tmp_path, monkeypatch):
    """One batch, so that only one rank has any; and each record once, with a last batch of two."""
    monkeypatch.chdir(tmp_path)
    layers = [*mlp(drop("drop1", "relu1", "PERIODIC", top="relu1")), *METRICS,
              layer("Reduction", "sums", "ip2", more="reduction_param { operation: SUM }")]
    settings = f"{EVENTS.format(tests)} snapshot_after_train: false"
    one = events_of(layers, settings)
    for several in run_ranks(3, lambda communicator: events_of(layers, settings, communicator)):
        assert [event[:2] for event in several] == [event[:2] for event in one]
        for (_, _, found), (_, _, expected) in zip(several, one, strict=True):
            assert list(found) == list(expected)
            for name in expected:
                np.testing.assert_allclose(found[name], expected[name], rtol=1e-10, atol=1e-12)


def test_a_test_that_fails_on_one_rank_fails_on_all():
    def work(communicator):
        solver = solver_of(mlp(), "test_interval: 1 test_iter: 4", communicator)
        data = np.zeros((48, 13, 1, 1))
        data[40] = np.nan
        solver.test_nets[0].set_input_arrays(data, np.zeros(48))
        with pytest.raises(DataError, match="^rank 2: test data hold a NaN or infinity: record 40"):
            solver.test()
        return True
    assert run_ranks(3, work) == [True] * 3


# -- snapshots -----------------------------------------------------------------------------------------------
def lstm(path):
    return language_model(path, layer("LSTM", "h", "embed cont", more=(
        'recurrent_param { num_output: 10 weight_filler { type: "uniform" min: -0.3 max: 0.3 } }')))


@pytest.mark.parametrize("kind", ["perceptron", "lstm"])
def test_a_resumed_run_with_another_number_of_ranks(kind, tmp_path):
    """Rank 0 writes the states of all streams; whoever resumes takes its own."""
    layers = (mlp(drop("drop1", "relu1", "PERIODIC groups: 2", top="relu1")) if kind == "perceptron"
              else lstm(write_text(tmp_path)))
    settings, path = "momentum: 0.9 ema_decay: 0.9", tmp_path / "snapshot.h5"
    expected, _ = trained(layers, settings)

    def first(communicator=None):
        solver = solver_of(layers, settings, communicator)
        solver.step(3)
        solver.snapshot(path)

    def second(communicator=None):
        solver = solver_of(layers, settings, communicator)
        solver.restore(path)
        assert solver.iteration == 3
        solver.step(3)
        return weights(solver)
    for before, after in ((3, 2), (2, 1), (1, 4), (2, 2)):
        run_ranks(before, first) if before > 1 else first()
        for found in run_ranks(after, second) if after > 1 else [second()]:
            for name, values in expected.items():
                np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-10, err_msg=name)


def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(tmp_path):
    layers, path = mlp(drop("drop1", "relu1", "PERIODIC", top="relu1")), tmp_path / "snapshot.h5"

    def work(communicator):
        solver = solver_of(layers, "momentum: 0.9", communicator)
        solver.step(3)
        solver.snapshot(path)
        solver.step(3)
        other = solver_of(layers, "momentum: 0.9", communicator)
        other.restore(path)
        other.step(3)
        return all((weights(other)[name] == values).all() for name, values in weights(solver).items())
    assert run_ranks(3, work) == [True] * 3


def test_statistics_of_batches_are_averaged_before_tests_and_snapshots(tmp_path):
    layers = [*mlp()[:2], layer("BatchNorm", "norm", "ip1"), layer("ReLU", "relu1", "norm"), *mlp()[3:]]

    def work(communicator):
        solver = solver_of(layers, "", communicator)
        solver.step(3)
        own = solver.net.params["norm"]["mean"].data.copy()
        solver.snapshot(tmp_path / "snapshot.h5")
        return own, solver.net.params["norm"]["mean"].data
    (one, mean), (other, same) = run_ranks(2, work)
    assert not np.allclose(one, other)
    np.testing.assert_allclose(mean, (one + other) / 2)
    np.testing.assert_array_equal(mean, same)


def test_rank_0_alone_writes_and_all_fail_together(tmp_path):
    """The best snapshot, the last one, and one that cannot be written."""
    def work(communicator):
        solver = solver_of([*mlp(), *METRICS], "test_interval: 2 test_iter: 2 max_iter: 4 snapshot: 2 "
                           'snapshot_best: "accuracy"', communicator, snapshot_prefix=tmp_path / "p")
        solver.solve()
        with pytest.raises(SnapshotError, match="^rank 0: .*cannot be"):
            solver.snapshot("/proc/nowhere/x.h5")
        return True
    assert run_ranks(2, work) == [True] * 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p_best.h5", "p_iter_2.h5", "p_iter_4.h5"]


# -- nets whose batches differ in shape ----------------------------------------------------------------------
def weighted(kind, settings):
    """The settings of a layer with weights and a bias."""
    fillers = " ".join(f'{name}_filler {{ type: "uniform" min: -0.4 max: 0.4 }}'
                       for name in ("weight", "bias"))
    return f"{kind}_param {{ {settings} {fillers} }}"


@pytest.mark.parametrize("hidden", [
    "", 'hidden_dropout { pattern: "PERIODIC" groups: 2 }',
    "hidden_dropout { dropout_ratio: 0.4 } hidden_dropout_type: CONVENTIONAL"])
def test_a_translation_model(hidden, tmp_path):
    """Batches are as long as their longest sentence, of any rank; padding is ignored."""
    tops = " ".join(f'top: "{top}"' for top in ("s", "m", "t", "l", "sc", "tc"))
    data = pairs(tmp_path, "shuffle: true").replace('top: "a" top: "b" top: "c" top: "e"', tops)
    embed = weighted("embed", "input_dim: 12 num_output: 6")
    layers = [data, layer("Embed", "se", "s", more=embed), layer("Embed", "te", "t", more=embed),
              layer("LSTM", "enc", "se sc", more=weighted("recurrent", f"num_output: 7 {hidden}")),
              layer("AttentionDecoder", "dec", "te enc m",
                    more=weighted("decoder", f"num_output: 6 {hidden}")),
              drop("drop", "dec", "PERIODIC groups: 4"),
              layer("Silence", "none", "tc").replace('top: "none"', ""),
              layer("InnerProduct", "scores", "drop",
                    more=weighted("inner_product", "axis: 2 num_output: 12")),
              layer("SoftmaxWithLoss", "loss", "scores l",
                    more="softmax_param { axis: 2 } loss_param { ignore_label: -1 }")]
    assert_same_training(layers, "clip_gradients: 1", ranks=(3,))


def test_a_tagger(tmp_path):
    """Of words and their characters, whose steps and streams are one axis."""
    embed = weighted("embed", "input_dim: 30 num_output: 6")
    lstm = weighted("recurrent", "num_output: 4 bidirectional: true")
    layers = [tags(tmp_path, ""), layer("Embed", "ew", "words", more=embed),
              layer("Embed", "ec", "characters", more=embed),
              layer("LSTM", "spell", "ec character_cont", more=lstm),
              layer("LastState", "last", "spell character_cont",
                    more="recurrent_param { bidirectional: true }"),
              drop("dropped", "last", "Dropout"),
              layer("Reshape", "spelling", "dropped words",
                    more="reshape_param { shape { dim: 0 dim: 0 dim: 8 } }"),
              layer("Concat", "token", "ew spelling", more="concat_param { axis: 2 }"),
              layer("LSTM", "lstm", "token cont", more=lstm),
              layer("InnerProduct", "scores", "lstm",
                    more=weighted("inner_product", "axis: 2 num_output: 5")),
              layer("CRF", "loss", "scores tags", more='crf_param { weight_filler { type: "constant" } }'),
              layer("Reduction", "size", "dropped",
                    more="loss_weight: 0.01 reduction_param { operation: SUMSQ }")]
    assert_same_training(layers, "", ranks=(3,))
