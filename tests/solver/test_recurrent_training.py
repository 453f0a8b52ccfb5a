"""Training with carried states: a resumed run equals one that never stopped, and what of a snapshot is
refused or ignored."""

from pathlib import Path

import numpy as np
import pytest
from cases import every_pair

import minidrop as md
from minidrop.config import parse_solver
from minidrop.snapshot import read_snapshot, write_snapshot

UNIFORM = 'weight_filler { type: "uniform" min: -0.3 max: 0.3 }'
HIDDEN = 'hidden_dropout { dropout_ratio: 0.5 pattern: "UNIT" %s }'
HIDDENS = {"none": "", "SEQUENCE": HIDDEN % "", "STEP": HIDDEN % "time: STEP",
           "held": HIDDEN % "steps_per_pattern: 2",
           "CONVENTIONAL": HIDDEN % "" + " hidden_dropout_type: CONVENTIONAL"}


@pytest.fixture
def make(tmp_path, monkeypatch):
    """make(..) -> Solver of a character model of a text whose streams go on over eight batches."""
    monkeypatch.setenv("MINIDROP_CACHE", str(tmp_path))
    rng = np.random.default_rng(0)
    (tmp_path / "text.txt").write_text("".join(rng.choice(list("abcd e"), 4 * 5 * 8 + 1)), encoding="utf-8")

    def build(kind="LSTM", hidden="", settings="", name="run", streams=4, seed=3, **options):
        net = f"""
          layer {{ name: "text" type: "TextData" top: "data" top: "label" top: "cont" text_data_param {{
                  source: "text.txt" batch_size: {streams} steps: 5 level: CHARACTER }} }}
          layer {{ name: "embed" type: "Embed" bottom: "data" top: "embed"
            embed_param {{ num_output: 6 input_dim: 9
                  {UNIFORM} }} }}
          layer {{ name: "r" type: "{kind}" bottom: "embed" bottom: "cont" top: "h"
            recurrent_param {{ num_output: 8
                  {UNIFORM} {hidden} }} }}
          layer {{ name: "drop" type: "ApproxDropout" bottom: "h" top: "drop"
                  approx_dropout_param {{ time: STEP pattern: "UNIT" }} }}
          layer {{ name: "ip" type: "InnerProduct" bottom: "drop" top: "ip"
            inner_product_param {{ num_output: 9 axis: 2
                  {UNIFORM} }} }}
          layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss"
                  softmax_param {{ axis: 2 }} }}"""
        text = (f"base_lr: 0.5 lr_policy: 'fixed' momentum: 0.9 max_iter: 12 random_seed: {seed} "
                f"solver_mode: CPU clip_gradients: 1 {settings} net_param {{ {net} }}")
        return md.Solver(parse_solver(text), snapshot_prefix=str(tmp_path / name),
                         **{"dtype": "float32", **options})
    return build


def assert_same_run(a, b):
    assert a.iteration == b.iteration and list(a.losses) == list(b.losses)
    assert set(a.net.states) == set(b.net.states)
    for key, array in a.net.states.items():
        np.testing.assert_array_equal(array, b.net.states[key], err_msg=str(key))
    for name, parameter in a.net.parameters().items():
        np.testing.assert_array_equal(parameter.data, b.net.parameters()[name].data, err_msg=name)


@every_pair(("kind", ["LSTM", "GRU", "RNN"]), ("hidden", list(HIDDENS)),
            ("settings", ["", "iter_size: 2", "test_iter: 2 test_interval: 3"]))
def test_resumed_run_equals_uninterrupted_run(make, tmp_path, kind, hidden, settings):
    """Bit for bit, stopped where the streams are in the middle; a test in between changes nothing."""
    whole = make(kind, HIDDENS[hidden], f"snapshot: 5 average_loss: 4 {settings}")
    whole.solve()
    resumed = make(kind, HIDDENS[hidden], f"snapshot: 5 average_loss: 4 {settings}", name="second")
    resumed.step(2)         # whatever it did before is forgotten
    resumed.restore(tmp_path / "run_iter_5.h5")
    assert resumed.iteration == 5 and all(array.any() for array in resumed.net.states.values())
    resumed.solve()
    assert_same_run(whole, resumed)


def test_the_state_is_what_makes_it_so(make, tmp_path):
    """Without it the next loss is another: these tests can fail."""
    whole = make()
    whole.step(5)
    path = whole.snapshot()
    whole.step()
    resumed = make()
    resumed.restore(path)
    resumed.net.reset_states()
    resumed.step()
    assert resumed.losses[-1] != whole.losses[-1]


def test_another_batch_size_is_named_as_the_reason(make):
    path = make().snapshot()
    with pytest.raises(md.SnapshotError) as caught:
        make(streams=2).restore(path)
    assert str(caught.value) == (
        f"{path}: state/r/h has shape (4, 8), this net expects (2, 8). Did batch_size of the data change? "
        f"--weights starts with new states")
    md.load_weights(make(streams=2).net, path)          # which is right


def test_a_snapshot_holds_the_states(make):
    solver = make()
    solver.step(3)
    arrays = read_snapshot(solver.snapshot()).arrays
    assert {key for key in arrays if key.startswith("state/")} == {"state/r/h", "state/r/c"}
    for name in ("h", "c"):
        array = arrays[f"state/r/{name}"]
        assert array.shape == (4, 8) and array.dtype == np.float32 and array.any()
        np.testing.assert_array_equal(array, solver.net.states["r", name])


def test_a_net_without_states_has_none_in_its_snapshot(make):
    arrays = read_snapshot(make("LSTM", "bidirectional: true").snapshot()).arrays
    assert not any(key.startswith("state") for key in arrays)


@pytest.mark.parametrize("change, message", [
    (lambda arrays: arrays.pop("state/r/c"), "is no snapshot of this net: it has no state/r/c; did you mean "
     "'state/r/h'?"),
    (lambda arrays: arrays.update({"state/r/h": np.zeros((5, 8), "f4")}),
     "state/r/h has shape (5, 8), this net expects (4, 8)"),
    (lambda arrays: arrays.update({"state/other/h": np.zeros((4, 8), "f4")}),
     "is no snapshot of this net: it has state/other/h, the net has not"),
], ids=["missing", "another shape", "too many"])
def test_states_that_do_not_fit_are_refused_and_nothing_changes(make, change, message):
    solver = make()
    solver.step(3)
    path = solver.snapshot()
    snapshot = read_snapshot(path)
    change(snapshot.arrays)
    write_snapshot(path, snapshot)
    other = make()
    other.step()
    states = {key: array.copy() for key, array in other.net.states.items()}
    with pytest.raises(md.SnapshotError) as caught:
        other.restore(path)
    assert message in str(caught.value) and str(path) in str(caught.value)
    assert other.iteration == 1
    for key, array in other.net.states.items():
        np.testing.assert_array_equal(array, states[key])


def test_weights_alone_leave_the_states_where_they_are(make):
    """Initial weights may come from a net with any number of streams."""
    first = make()
    first.step(3)
    other = make(streams=2)
    copied, left = md.load_weights(other.net, first.snapshot())
    assert copied == list(first.net.parameters()) and left == []
    assert not any(array.any() for array in other.net.states.values())
    np.testing.assert_array_equal(other.net.params["r"]["recurrent_weight"].data,
                                  first.net.params["r"]["recurrent_weight"].data)


def test_a_random_seed_comes_back_with_the_states(make, tmp_path):
    first, second = (make(seed=-1) for _ in range(2))
    first.step(4)
    second.restore(first.snapshot())
    first.step(3)
    second.step(3)
    assert second.seed == first.seed
    assert_same_run(first, second)


def test_float64_states_come_back_as_they_were(make):
    first, second = (make(dtype="float64") for _ in range(2))
    first.step(4)
    second.restore(first.snapshot())
    first.step(2)
    second.step(2)
    assert second.net.states["r", "h"].dtype == np.float64
    assert_same_run(first, second)


@pytest.mark.parametrize("hidden", ["SEQUENCE", "STEP"])
def test_training_equals_masked_dense_training(make, hidden):
    """Over ten batches, states carried on: drops of the state and of the top."""
    compact, dense = (make("LSTM", HIDDENS[hidden], dtype="float64") for _ in range(2))
    dense.net.run_masked_dense()
    for solver in (compact, dense):
        solver.step(10)
    for name, parameter in compact.net.parameters().items():
        np.testing.assert_allclose(parameter.data, dense.net.parameters()[name].data, rtol=0, atol=1e-10,
                                   err_msg=name)
    for key, array in compact.net.states.items():
        np.testing.assert_allclose(array, dense.net.states[key], rtol=0, atol=1e-10)


@pytest.mark.parametrize("dropout, kinds", [("conventional", ("Dropout", True)),
                                            ("approx", ("ApproxDropout", False)),
                                            ("approx:PERIODIC", ("ApproxDropout", False))])
def test_the_option_dropout_reaches_the_state(make, dropout, kinds):
    solver = make("LSTM", HIDDENS["SEQUENCE"], dropout=dropout)
    assert (solver.net.layers["drop"].type, solver.net.layers["r"].hidden.conventional) == kinds
    if dropout == "approx:PERIODIC":
        assert {site.family.name for site in solver.net.drop_sites.values()} == {"PERIODIC"}
    solver.step(3)
    assert np.isfinite(solver.smoothed_loss)


def test_a_translation_run_that_is_resumed_is_the_same_run(tmp_path, monkeypatch):
    """Batches of all lengths, four drops and one of the decoder's state: bit for bit."""
    monkeypatch.chdir(tmp_path)
    rows = [" ".join(f"w{(i * k) % 7}" for k in range(1, 2 + i % 5)) for i in range(23)]
    for name in ("source.txt", "target.txt"):
        (tmp_path / name).write_text("".join(f"{row}\n" for row in rows))
    net = (Path(__file__).resolve().parents[2] / "models/nmt_tiny/train_val.prototxt").read_text()
    net = net.replace("made-dates/train.words", "source.txt").replace("made-dates/train.digits", "target.txt")
    net = net.replace("batch_size: 64", "batch_size: 4").replace(
        "num_output: 64\n    weight", "num_output: 64 hidden_dropout { }\n    weight")
    text = f'net_param {{ {net} }} type: "Adam" base_lr: 0.01 lr_policy: "fixed" max_iter: 9 random_seed: 3'

    def solver():
        return md.Solver(parse_solver(text), device="cpu", snapshot_prefix="s")
    whole, begun, resumed = solver(), solver(), solver()
    assert "decoder" in whole.net.drop_sites
    whole.step(8)
    begun.step(5)
    resumed.restore(begun.snapshot())
    resumed.step(3)
    for name, parameter in whole.net.parameters().items():
        np.testing.assert_array_equal(resumed.net.parameters()[name].data, parameter.data, err_msg=name)
