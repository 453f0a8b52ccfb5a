"""Logs of trainings become tables: Caffe's of several years, minidrop's, damaged ones."""

import math
import os

import numpy as np
import pytest

from minidrop.apps import logs
from minidrop.apps.logs import as_csv, csv_paths, outputs, read_log
from minidrop.errors import DataError

CAFFE = """Log file created at: 2015/12/31 23:59:50
I1231 23:59:50.000000  7 solver.cpp:279] Solving LeNet
I1231 23:59:50.000001  7 solver.cpp:280] Learning Rate Policy: step
I1231 23:59:51.500000  7 solver.cpp:337] Iteration 0, Testing net (#0)
I1231 23:59:52.000000  7 solver.cpp:404]     Test net output #0: accuracy = 0.0913
I1231 23:59:52.000000  7 solver.cpp:404]     Test net output #1: loss = 2.33 (* 1 = 2.33 loss)
I1231 23:59:53.000000  7 solver.cpp:228] Iteration 0, loss = 2.5
I1231 23:59:53.000000  7 solver.cpp:244]     Train net output #0: loss = 2.25 (* 1 = 2.25 loss)
I1231 23:59:53.000001  7 sgd_solver.cpp:106] Iteration 0, lr = 0.01
W1231 23:59:54.000000  7 blocking_queue.cpp:50] Data layer prefetch queue empty
I0101 00:00:01.000000  7 solver.cpp:228] Iteration 100 (12.3 iter/s, 8s/100 iters), loss = 0.5
I0101 00:00:01.000000  7 solver.cpp:244]     Train net output #0: loss = 4e-05 (* 1 = 4e-05 loss)
I0101 00:00:01.000001  7 sgd_solver.cpp:106] Iteration 100, lr = 0.001
I0101 00:00:02.000000  7 solver.cpp:337] Iteration 100, Testing net (#0)
I0101 00:00:02.500000  7 solver.cpp:404]     Test net output #0: accuracy = 0.98
I0101 00:00:02.500000  7 solver.cpp:404]     Test net output #1: loss = nan (* 1 = nan loss)
I0101 00:00:02.600000  7 solver.cpp:454] Snapshotting to binary proto file lenet_iter_100.caffemodel
"""
OWN = """2026-11-28 22:00:00,250 INFO    s.prototxt: training to iteration 10 on cpu; run folder r
2026-11-28 22:00:01,250 INFO    Iteration 0, Testing net (#0): accuracy = 0.5, s = [0.25, -1e-05], loss = 1.5
2026-11-28 22:00:02,250 INFO    Iteration 0, loss = 1.25, lr = 0.05
2026-11-28 22:00:03,000 INFO    Iteration 5, snapshot r/snapshots/s_iter_5.h5
2026-11-28 22:00:04,250 WARNING something
2026-11-28 22:00:05,250 INFO    Iteration 5 (12 iter/s), loss = 1, lr = 0.025, a/b = nan
"""


def written(tmp_path, text, name="log"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_log_of_caffe(tmp_path):
    path = written(tmp_path, CAFFE)
    os.utime(path, (1451500000, 1451500000))
    train, test = read_log(path)
    assert train == [{"NumIters": 0, "Seconds": 3, "LearningRate": 0.01, "loss": 2.25},
                     {"NumIters": 100, "Seconds": 11, "LearningRate": 0.001, "loss": 4e-05}]
    assert [list(row) for row in test] == [["NumIters", "Seconds", "LearningRate", "accuracy", "loss"]] * 2
    assert list(test[0].values()) == [0, 2, 0.01, 0.0913, 2.33]
    assert list(test[1].values())[:4] == [100, 12.5, 0.001, 0.98]
    assert math.isnan(test[1]["loss"])
    assert as_csv(train, ";") == ("NumIters;Seconds;LearningRate;loss\r\n0.0;3.0;0.01;2.25\r\n"
                                  "100.0;11.0;0.001;4e-05\r\n")


def test_a_log_of_minidrop(tmp_path):
    train, test = read_log(written(tmp_path, OWN))
    assert train[0] == {"NumIters": 0, "Seconds": 2, "LearningRate": 0.05, "loss": 1.25}
    assert list(train[1]) == ["NumIters", "Seconds", "LearningRate", "loss", "a/b"]
    assert list(train[1].values())[:4] == [5, 5, 0.025, 1]
    assert test == [{"NumIters": 0, "Seconds": 1, "LearningRate": 0.05, "accuracy": 0.5, "s[0]": 0.25,
                     "s[1]": -1e-05, "loss": 1.5}]
    assert outputs(train) == ["loss", "a/b"]
    assert as_csv(train).splitlines()[1] == "0.0,2.0,0.05,1.25,"


def test_lines_without_times_and_glogs_new_dates(tmp_path):
    plain = "\n".join(line[31:] for line in OWN.splitlines())
    train, _ = read_log(written(tmp_path, plain))
    assert [row["loss"] for row in train] == [1.25, 1]
    assert all(math.isnan(row["Seconds"]) for row in train)
    dated = CAFFE.replace("\nI1231", "\nI20151231").replace("\nI0101", "\nI20160101")
    assert [row["Seconds"] for row in read_log(written(tmp_path, dated)).train] == [3, 11]


def test_a_display_without_outputs_gives_the_smoothed_loss(tmp_path):
    text = "\n".join(line for line in CAFFE.splitlines() if "Train net" not in line)
    assert [(row["loss"], row["LearningRate"]) for row in read_log(written(tmp_path, text)).train] == [
        (2.5, 0.01), (0.5, 0.001)]


def test_outputs_of_one_name_and_several_test_nets(tmp_path):
    head = "I0101 00:00:01.000000  7 solver.cpp:337] "
    lines = ["Solving x", "Iteration 0, Testing net (#0)", "    Test net output #0: a = 1",
             "    Test net output #1: a = 2", "Iteration 0, Testing net (#1)",
             "    Test net output #0: a = 3"]
    _, test = read_log(written(tmp_path, "\n".join(head + line for line in lines)))
    assert [{name: row[name] for name in list(row)[3:]} for row in test] == [{"a": 1, "a[1]": 2}, {"a": 3}]


@pytest.mark.parametrize("text, message", [
    ("", "expected a log of minidrop or Caffe"),
    ("nothing of interest\n" * 3, "expected a log of minidrop or Caffe"),
    (b"\x00\xff" * 5000, "expected a log of minidrop or Caffe"),
    ("I0101 00:00:00.1 7 a.cpp:1] Iteration 99999999999999999999999999, loss = 1", "expected a log"),
])
def test_what_is_no_log_is_one_clear_line(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read_log(written(tmp_path, text))


def test_a_missing_file_a_folder_and_a_pipe_are_one_clear_line(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(DataError, match=str(path)):
            read_log(path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="a pipe or a device"):
        read_log(tmp_path / "pipe")


def test_damaged_logs_give_a_table_or_one_clear_line(tmp_path):
    rng = np.random.default_rng(0)
    for text in (CAFFE, OWN):
        raw = np.frombuffer(text.encode(), np.uint8)
        for _ in range(100):
            spoilt = raw.copy()
            spoilt[rng.integers(raw.size, size=rng.integers(1, 60))] = rng.integers(256, dtype=np.uint8)
            try:
                as_csv(read_log(written(tmp_path, spoilt.tobytes())).train)
            except DataError:
                pass


def test_too_many_rows_and_columns_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "MOST_ROWS", 20)
    monkeypatch.setattr(logs, "MOST_COLUMNS", 20)
    with pytest.raises(DataError, match="expected at most 20 rows"):
        read_log(written(tmp_path, "Iteration 1, loss = 1, lr = 1\n" * 30))
    wide = "".join(f"Iteration {i}, loss = 1, lr = 1, x{i} = 1\n" for i in range(19))
    with pytest.raises(DataError, match="more than 20 different outputs"):
        as_csv(read_log(written(tmp_path, wide)).train)


def test_a_long_line_takes_no_long_time(tmp_path):
    for piece in ("Iteration 1, ", "a = 1, ", "x" * 7, "lr = 1e", "Train net output #1: "):
        with pytest.raises(DataError):
            read_log(written(tmp_path, piece * 9000))


def test_names_of_the_tables():
    assert [str(path) for path in csv_paths("x/caffe.INFO", "out")] == ["out/caffe.INFO.train",
                                                                        "out/caffe.INFO.test"]
