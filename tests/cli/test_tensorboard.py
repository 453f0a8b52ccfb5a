"""minidrop train --tensorboard: the event files hold what metrics.jsonl holds."""

import struct

import pytest

from minidrop.apps.curves import read_curves


def scalars(folder):
    """Return ({tag: [(step, value)]}, [steps purged]) of a folder's event files, as they were written."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    found, purged = {}, []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        content, at = path.read_bytes(), 0
        while at < len(content):
            size, = struct.unpack_from("<Q", content, at)
            event = Event.FromString(content[at + 12:at + 12 + size])
            at += size + 16         # length, its sum, the event, its sum
            if event.session_log.status == SessionLog.START:
                purged.append(event.step)
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found, purged


def test_scalars_are_those_of_the_metrics(tiny, minidrop):
    pytest.importorskip("tensorboardX", reason="needs the extra `tensorboard`")
    train = ("train", "--solver", tiny.solver, "--out", "run", "--device", "cpu", "--tensorboard")
    done = minidrop(*train, "--set", "max_iter=20")
    assert done.code == 0, done.err
    found, purged = scalars(tiny.path / "run" / "tensorboard")
    wanted = {f"{phase}/{name}": points for name, phases in read_curves("run").points.items()
              for phase, points in phases.items()}
    assert set(found) == set(wanted) == {"train/loss", "train/lr", "test/loss", "test/accuracy"}
    for tag, points in found.items():
        assert points == [(step, pytest.approx(value, rel=1e-6)) for step, value in wanted[tag]]
    assert purged == []
    assert minidrop(*train, "--resume", "auto").code == 0
    found, purged = scalars(tiny.path / "run" / "tensorboard")
    assert found["train/loss"][-1][0] == 40 and purged == [20]


def test_it_says_what_is_missing(tiny, minidrop, monkeypatch):
    monkeypatch.setattr("minidrop.cli.tensorboard.find_spec", lambda name: None)
    done = minidrop("train", "--solver", tiny.solver, "--out", "run", "--tensorboard")
    assert done.code == 1 and "pip install 'minidrop[tensorboard]'" in done.err
    assert not (tiny.path / "run").exists()
