"""Tests of every record once: means over data whose number of records no batch size divides."""

import threading

import h5py
import numpy as np
import pytest
from cases import in_turn

import minidrop as md
from minidrop.config import parse_net, parse_solver
from minidrop.data.database_writer import new_database
from minidrop.data.datum import write_datum
from minidrop.data.images import encode
from minidrop.errors import ConfigError, DataError
from minidrop.solver import run_test

CLASSES = 5
HEADS = """
  layer { name: "flat" type: "Flatten" bottom: "data" top: "scores" }
  layer { name: "loss" type: "SoftmaxWithLoss" bottom: "scores" bottom: "label" top: "loss" %(loss)s }
  layer { name: "accuracy" type: "Accuracy" bottom: "scores" bottom: "label" top: "accuracy" top: "each"
          %(accuracy)s }
  layer { name: "perplexity" type: "Perplexity" bottom: "scores" bottom: "label" top: "perplexity" %(loss)s }
  layer { name: "triple" type: "Power" bottom: "scores" top: "triple" power_param { scale: 3 shift: 1 } }
  layer { name: "square" type: "EuclideanLoss" bottom: "scores" bottom: "triple" top: "square" }
  layer { name: "hinge" type: "HingeLoss" bottom: "scores" bottom: "label" top: "hinge" }
"""
NONE = {"loss": "", "accuracy": ""}
IGNORING = {"loss": "loss_param { ignore_label: 2 }", "accuracy": "accuracy_param { ignore_label: 2 }"}


def memory(batch, settings=None):
    return (f'layer {{ name: "d" type: "MemoryData" top: "data" top: "label" memory_data_param {{ '
            f'batch_size: {batch} channels: {CLASSES} height: 1 width: 1 }} }} {HEADS % (settings or NONE)}')


def net_of(text, **options):
    return md.Net(parse_net(text, "net.prototxt"), "TEST", "cpu", "float64", **options)


def made(count):
    rng = np.random.default_rng([count])
    return rng.integers(0, CLASSES, count), rng.standard_normal((count, CLASSES)) * 3


def expected(labels, scores, ignored=None):
    """The values of `memory` on all records at once."""
    counts = labels != ignored
    own, found = scores[counts], labels[counts]
    log = own - np.log(np.exp(own).sum(axis=1, keepdims=True))
    likelihood = log[np.arange(len(own)), found].mean()
    sign = np.where(np.arange(CLASSES) == labels[:, None], -1, 1)
    right = own.argmax(axis=1) == found
    return {"loss": -likelihood, "accuracy": right.mean(), "perplexity": np.exp(-likelihood),
            "each": [right[found == c].mean() if (found == c).any() else 0 for c in range(CLASSES)],
            "square": ((scores - 3 * scores - 1) ** 2).sum() / (2 * len(scores)),
            "hinge": np.maximum(1 + sign * scores, 0).sum() / len(scores)}


@in_turn("count, batch", [(10, 4), (11, 4), (3, 4), (8, 4), (9, 1), (5, 7), (23, 6)])
@in_turn("ignored", [None, 2])
def test_means_are_those_of_the_whole_set(count, batch, ignored):
    labels, scores = made(count)
    net = net_of(memory(batch, IGNORING if ignored else None))
    net.set_input_arrays(scores[:, :, None, None], labels)
    wanted = expected(labels, scores, ignored)
    for _ in range(2):
        values = run_test(net)
        total = values.pop("total_loss")
        assert set(values) == set(wanted)
        for name, value in wanted.items():
            np.testing.assert_allclose(values[name], value, rtol=1e-12, atol=1e-14, err_msg=name)
        assert total == pytest.approx(wanted["loss"] + wanted["square"] + wanted["hinge"], rel=1e-12)


def test_means_of_batches_are_as_before():
    """Without the whole pass a batch goes on into the next epoch, and each weighs the same."""
    labels, scores = made(10)
    net = net_of(memory(4))
    net.set_input_arrays(scores[:, :, None, None], labels)
    again = np.arange(12) % 10
    values = run_test(net, 3)
    for name, value in expected(labels[again], scores[again]).items():
        np.testing.assert_allclose(values[name], value, rtol=1e-12, err_msg=name)


def test_normalization_full_divides_by_the_ignored_ones_too_and_none_adds_up():
    labels, scores = made(10)
    log = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    sums = np.where(labels == 2, 0, -log[np.arange(10), labels])
    for mode, value in (("FULL", sums.mean()), ("BATCH_SIZE", sums.mean()),
                        ("NONE", np.mean([sums[:4].sum(), sums[4:8].sum(), sums[8:].sum()]))):
        net = net_of(memory(4, {"loss": f"loss_param {{ ignore_label: 2 normalization: {mode} }}",
                                "accuracy": ""}))
        net.set_input_arrays(scores[:, :, None, None], labels)
        assert run_test(net)["loss"] == pytest.approx(value, rel=1e-12), mode


@in_turn("iterations", [-1, 3])
@in_turn("ignored", ["", "ignore_label: 2"])
def test_a_weighted_loss_is_that_of_all_labels(iterations, ignored):
    """Divided by the sum of the weights of all labels, not the mean of what it is in each batch."""
    weights = np.array([0.25, 2, 1, 0.5, 3])
    labels, scores = made(10)
    text = memory(4, {"loss": f"loss_param {{ {ignored} }}", "accuracy": ""})
    # Not of the Perplexity, which has no weights.
    net = net_of(text.replace("loss_param {", f"loss_param {{ class_weight: {weights.tolist()}", 1))
    net.set_input_arrays(scores[:, :, None, None], labels)
    read = np.arange(10 if iterations == -1 else 12) % 10
    labels, scores = labels[read], scores[read]
    log = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    counts = weights[labels] * (labels != 2 if ignored else 1)
    value = -(counts * log[np.arange(len(labels)), labels]).sum() / counts.sum()
    values = run_test(net, iterations)
    assert values["loss"] == pytest.approx(value, rel=1e-12)
    assert values["total_loss"] == pytest.approx(value + values["square"] + values["hinge"], rel=1e-12)


# -- data layers ---------------------------------------------------------------------------------------------
IMAGES = np.random.default_rng(1).integers(0, 256, (11, 3, 2, 2), np.uint8)


def hdf5(folder, extra=""):
    for name, part in (("a.h5", slice(0, 4)), ("b.h5", slice(4, 11))):
        with h5py.File(folder / name, "w") as file:
            file["data"], file["label"] = IMAGES[part].astype(np.float32), np.arange(11)[part]
    (folder / "list.txt").write_text("a.h5\nb.h5\n")
    return (f'layer {{ name: "d" type: "HDF5Data" top: "data" top: "label" hdf5_data_param {{ '
            f'source: "{folder}/list.txt" batch_size: 4 {extra} }} }}')


def lmdb(folder, extra=""):
    pytest.importorskip("lmdb", reason="the package (of the extra `caffe`) that reads such databases")
    with new_database(folder / "db", "LMDB") as put:
        for n, image in enumerate(IMAGES):
            put(b"%08d" % n, write_datum(image, n))
    return (f'layer {{ name: "d" type: "Data" top: "data" top: "label" data_param {{ source: "{folder}/db" '
            f'backend: LMDB batch_size: 4 {extra} }} }}')


def pictures(folder, extra=""):
    pytest.importorskip("PIL", reason="Pillow (the extra `images`) decodes images")
    for n, image in enumerate(IMAGES):
        (folder / f"{n}.png").write_bytes(encode(image, "png"))
    (folder / "list.txt").write_text("".join(f"{n}.png {n}\n" for n in range(11)))
    return (f'layer {{ name: "d" type: "ImageData" top: "data" top: "label" image_data_param {{ '
            f'source: "{folder}/list.txt" root_folder: "{folder}/" batch_size: 4 {extra} }} }}')


@pytest.mark.parametrize("source, extra", [(hdf5, ""), (hdf5, "shuffle: true prefetch: 2"), (lmdb, ""),
                                           (lmdb, "rand_skip: 9 prefetch: 1"), (pictures, ""),
                                           (pictures, "shuffle: true rand_skip: 5")])
def test_each_record_once_and_then_on_where_the_layer_was(source, extra, tmp_path):
    net = net_of(source(tmp_path, extra))

    def labels(batches):
        found = []
        for _ in range(batches):
            found.append(net.forward()["label"].numpy().astype(int).tolist())
        return found
    before = labels(5)
    net.seek(2)
    with net.one_pass() as batches:
        assert batches == 3
        whole = labels(3)
        assert [len(batch) for batch in whole] == [4, 4, 3]
        assert sorted(sum(whole, [])) == list(range(11))
        np.testing.assert_array_equal(net.blobs["data"].numpy(), IMAGES[whole[-1]])
        assert net.layers["d"].record_of(2) == net.layers["d"].batches.where(2, 2)
    assert net.positions == {"d": 2}
    assert labels(3) == before[2:]
    net.close()


def test_the_reader_threads_of_a_pass_end_with_it(tmp_path):
    net = net_of(hdf5(tmp_path, "prefetch: 3"))
    before = threading.active_count()
    with net.one_pass() as batches:
        for _ in range(batches):
            net.forward()
        assert threading.active_count() == before + 1
    assert threading.active_count() == before


# -- texts ---------------------------------------------------------------------------------------------------
def test_all_steps_of_the_streams_of_a_text(tmp_path):
    (tmp_path / "text.txt").write_text("".join(chr(97 + i * i % 26) for i in range(47)))
    net = net_of(f'layer {{ name: "t" type: "TextData" top: "data" top: "label" top: "cont" text_data_param '
                 f'{{ source: "{tmp_path}/text.txt" level: CHARACTER batch_size: 4 steps: 3 }} }}')
    indices = net.layers["t"].text.indices
    found = []
    with net.one_pass() as batches:
        for _ in range(batches):
            net.forward()
            found.append((net.blobs["data"].numpy(), net.blobs["label"].numpy(), net.blobs["cont"].numpy()))
        assert net.run.share == pytest.approx(1 / 3)
    data, label, cont = (np.concatenate([part[i] for part in found]) for i in range(3))
    rows = indices[:44].reshape(4, 11)          # 47 tokens: 4 streams of 11
    assert [len(part[0]) for part in found] == [3, 3, 3, 1]
    np.testing.assert_array_equal(data, rows[:, :-1].T)
    np.testing.assert_array_equal(label, rows[:, 1:].T)
    assert cont[0].tolist() == [0] * 4 and (cont[1:] == 1).all()


def test_perplexity_of_all_words_of_a_text_in_one_stream(tmp_path):
    (tmp_path / "text.txt").write_text("a b a\nc a b b\n" * 5)
    net = net_of(f'layer {{ name: "t" type: "TextData" top: "data" top: "label" text_data_param {{ source: '
                 f'"{tmp_path}/text.txt" batch_size: 1 steps: 5 }} }} layer {{ name: "e" type: "Embed" '
                 f'bottom: "data" top: "e" embed_param {{ input_dim: 6 num_output: 6 weight_filler {{ type: '
                 f'"gaussian" }} }} }} layer {{ name: "p" type: "Perplexity" bottom: "e" bottom: "label" '
                 f'top: "p" softmax_param {{ axis: 2 }} }}')
    indices = net.layers["t"].text.indices
    rows = net.params["e"]["weight"].numpy()[indices[:-1]] + net.params["e"]["bias"].numpy()
    log = rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))
    assert (len(indices) - 1) % 5
    value = np.exp(-log[np.arange(len(rows)), indices[1:]].mean())
    assert run_test(net)["p"] == pytest.approx(value, rel=1e-12)


SENTENCES = ["a b", "c", "a a c", "b b b", "c a"]


def test_each_sentence_once_and_padding_in_what_is_left(tmp_path):
    (tmp_path / "text.txt").write_text("".join(f"{line}\n" for line in SENTENCES))
    net = net_of(f'layer {{ name: "t" type: "TextData" top: "data" top: "label" top: "cont" text_data_param '
                 f'{{ source: "{tmp_path}/text.txt" batch_size: 3 steps: 5 sentences: true }} }}')
    vocabulary, found = net.layers["t"].vocabulary, []
    with net.one_pass() as batches:
        for _ in range(batches):
            net.forward()
            label, cont = net.blobs["label"].numpy().astype(int), net.blobs["cont"].numpy()
            found += [" ".join(vocabulary[i] for i in row if i >= 0) for row in label.T]
            assert (cont[:, (label < 0).all(axis=0)] == 0).all()
        assert net.run.share == pytest.approx(2 / 3)
        assert "padding after" in net.layers["t"].record_of(2)
    assert found == [f"{line} <eos>" for line in SENTENCES] + [""]


def test_each_pair_once(tmp_path):
    rows = [("a b c", "x y"), ("a", "x"), ("b b", "y z w"), ("c a b d", "w"), ("d", "z z z z")]
    for side in (0, 1):
        (tmp_path / ("source", "target")[side]).write_text("".join(f"{row[side]}\n" for row in rows))
    tops = " ".join(f'top: "{name}"' for name in ("source", "mask", "target", "label", "cont", "tcont"))
    net = net_of(f'layer {{ name: "p" type: "ParallelTextData" {tops} parallel_text_data_param {{ source: '
                 f'"{tmp_path}/source" target: "{tmp_path}/target" batch_size: 3 source_steps: 6 '
                 f'target_steps: 7 }} }}')
    words, found = net.layers["p"].vocabulary.target, []
    with net.one_pass() as batches:
        assert batches == 2
        for _ in range(batches):
            net.forward()
            label = net.blobs["label"].numpy().astype(int)
            found += [" ".join(words[i] for i in row if i >= 0) for row in label.T]
            assert (net.blobs["mask"].numpy()[0] == 1).all()        # attention has something to read
            assert (net.blobs["tcont"].numpy()[:, (label < 0).all(axis=0)] == 0).all()
    assert found == [f"{target} </s>" for _, target in rows] + [""]


def test_a_loss_over_sentences_of_different_lengths_is_that_of_all_tokens(tmp_path):
    """Each token weighs the same, however long the sentences of its batch are."""
    lengths = [5, 1, 2, 3, 1]
    words = [(f"w{(i * 7 + j) % 5}", f"T{(i + j) % 3}") for i, n in enumerate(lengths) for j in range(n)]
    ends = set(np.cumsum(lengths) - 1)
    (tmp_path / "train.txt").write_text("".join(f"{word} {tag}\n" + "\n" * (i in ends)
                                                for i, (word, tag) in enumerate(words)))
    net = net_of(f'layer {{ name: "t" type: "TaggedTextData" top: "words" top: "tags" tagged_text_data_param '
                 f'{{ source: "{tmp_path}/train.txt" batch_size: 2 scheme: NONE }} }} layer {{ name: "e" '
                 f'type: "Embed" bottom: "words" top: "e" embed_param {{ input_dim: 9 num_output: 4 '
                 f'weight_filler {{ type: "gaussian" }} }} }} layer {{ name: "l" type: "SoftmaxWithLoss" '
                 f'bottom: "e" bottom: "tags" top: "l" softmax_param {{ axis: 2 }} loss_param {{ '
                 f'ignore_label: -1 }} }}')
    encoded = net.layers["t"].encoded
    rows = net.params["e"]["weight"].numpy()[encoded.word] + net.params["e"]["bias"].numpy()
    log = rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))
    value = -log[np.arange(len(rows)), encoded.tag].mean()
    assert run_test(net)["l"] == run_test(net, 3)["l"] == pytest.approx(value, rel=1e-12)


# -- what it refuses, and who asks for it --------------------------------------------------------------------
CONSTANT = ('layer { name: "c" type: "DummyData" top: "c" dummy_data_param { shape { dim: 1 } data_filler { '
            'type: "constant" value: 2 } } }')
RANDOM = CONSTANT.replace('"constant" value: 2', '"gaussian"')


def second(batch):
    return (f'layer {{ name: "m" type: "MemoryData" top: "x" memory_data_param {{ batch_size: {batch} '
            f'channels: 1 height: 1 width: 1 }} }}')


def test_several_data_layers(tmp_path):
    labels, scores = made(10)
    for batch, count, message in ((4, 10, ""), (4, 12, "layer 'm' has 3 batches"), (3, 10, "layer 'm' has 4 "
                                  "batches of which the last has 0.333 of a batch")):
        net = net_of(memory(4) + second(batch) + CONSTANT)
        net.set_input_arrays(scores[:, :, None, None], labels, "d")
        net.set_input_arrays(np.zeros((count, 1, 1, 1)), None, "m")
        if message:
            with pytest.raises(DataError, match="layer 'd' has 3 batches of which the last has 0.5 of a "
                                                f"batch, {message}; give the number of batches instead$"):
                run_test(net)
            assert net.layers["d"].batches.whole is False
        else:
            with pytest.raises(DataError, match=r"output 'x' has shape \(2, 1, 1, 1\) in a batch and \(4, 1, "
                                                r"1, 1\) in those before.*silence it"):
                run_test(net)
            net = net_of(memory(4) + second(batch) + CONSTANT
                         + 'layer { name: "s" type: "Silence" bottom: "x" }')
            net.set_input_arrays(scores[:, :, None, None], labels, "d")
            net.set_input_arrays(np.zeros((count, 1, 1, 1)), None, "m")
            assert run_test(net)["loss"] == pytest.approx(expected(labels, scores)["loss"], rel=1e-12)


@in_turn("text, message", [
    (RANDOM, r"layer 'c' \(DummyData\) does not know how many records it has"),
    (CONSTANT, "no layer of the net reads records"),
    ('layer { name: "i" type: "Input" top: "i" input_param { shape { dim: 1 } } }',
     "no layer of the net reads records"),
    (memory(4), "no data; call net.set_input_arrays"),
])
def test_what_has_no_number_of_records(text, message):
    with pytest.raises(DataError, match=message):
        run_test(net_of(text))


def test_a_start_has_no_meaning_then():
    with pytest.raises(DataError, match="begins with batch 0, got start 3"):
        run_test(net_of(CONSTANT), -1, 3)


TRAINED = """
  layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
          inner_product_param { num_output: 11 weight_filler { type: "xavier" } } }
  layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
  layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy" }
"""


def test_a_solver_file_asks_for_it(tmp_path):
    base = "base_lr: 1e-6 lr_policy: 'fixed' max_iter: 4 test_interval: 2 random_seed: 1 solver_mode: CPU"
    with pytest.raises(ConfigError, match="'test_iter' must be at least 1, or -1 for every record once"):
        md.Solver(parse_solver(f"{base} test_iter: 0 net_param {{ {hdf5(tmp_path)} {TRAINED} }}"))
    solver = md.Solver(parse_solver(f"{base} test_iter: -1 net_param {{ {hdf5(tmp_path)} {TRAINED} }}"),
                       dtype="float64", snapshot_prefix=tmp_path / "s")
    events = []
    solver.add_callback(lambda event: event.kind == "test" and events.append(event.values))
    result = solver.solve()
    assert len(events) == 3 and result["loss"] == events[-1]["loss"]
    weight, bias = (solver.net.params["ip"][name].numpy() for name in ("weight", "bias"))
    scores = IMAGES.reshape(11, -1).astype(float) @ weight.T + bias
    log = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    assert result["loss"] == pytest.approx(-log[np.arange(11), np.arange(11)].mean(), rel=1e-10)
    assert result["accuracy"] == pytest.approx((scores.argmax(axis=1) == np.arange(11)).mean(), rel=1e-12)
    solver.close()


def test_monte_carlo_over_all_records():
    labels, scores = made(10)
    drop = ('layer { name: "drop" type: "Dropout" bottom: "scores" top: "dropped" dropout_param { '
            'dropout_ratio: 0.2 } }')
    text = memory(4).replace('layer { name: "loss"', f'{drop} layer {{ name: "loss"')
    net = net_of(text.replace('"SoftmaxWithLoss" bottom: "scores"', '"SoftmaxWithLoss" bottom: "dropped"'))
    net.set_input_arrays(scores[:, :, None, None], labels)
    with net.one_pass() as batches:
        found = md.evaluate_monte_carlo(net, batches, 3)
    assert found.outputs["loss"].deterministic == pytest.approx(expected(labels, scores)["loss"], rel=1e-12)
    assert found.outputs["loss"].std > 0 and found.predictions["dropped"].places == 10
