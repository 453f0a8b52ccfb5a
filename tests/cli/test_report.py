"""minidrop report: one page, well formed and alone, of real runs, hostile names and damaged folders."""

import json
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, Browser

from minidrop.apps.charts import MOST_MARKS, MOST_POINTS, Series, chart, log_ticks, thinned, ticks
from minidrop.apps.curves import read_curves
from minidrop.apps.logs import read_sessions
from minidrop.apps.markup import VOID
from minidrop.apps.run_report import kept_share, read_run
from minidrop.errors import ConfigError, DataError, SnapshotError
from minidrop.patterns import PatternSettings, get_family, known_families
from minidrop.patterns.drop_site import DropSite

HOSTILE = '<script>alert("1")</script>&\'"\x00\x1b[31m\u202e'


class Page(HTMLParser):
    """The elements of a page, [(name, {attribute: value})], and its text; fails where tags do not match."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        assert len(attributes) == len(dict(attributes))
        if tag not in VOID:
            self.open.append(tag)
        elif tag == "circle":               # it has a title
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        assert tag in VOID or tag == "rect"
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, name):
        return [attributes for tag, attributes in self.elements if tag == name]

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def checked(path):
    """Return the Page of a file that names nothing outside it, and runs nothing."""
    text = Path(path).read_text(encoding="utf-8")
    page = Page(text)
    names = {tag for tag, _ in page.elements}
    assert not names & {"script", "link", "img", "iframe", "object", "embed", "form", "base", "image", "use"}
    for _, attributes in page.elements:
        assert not any(name.startswith("on") or name in ("src", "href", "xlink:href", "srcset", "action")
                       for name in attributes)
    assert not re.search(r"url\(|@import|https?://|//", "".join(re.findall("<style>.*?</style>", text, re.S)))
    policy = next(one["content"] for one in page.all("meta") if "content" in one and "http-equiv" in one)
    assert "default-src 'none'" in policy
    return page


def write_run(folder, name="loss", values=(4.0, 2.0, 1.0), **facts):
    folder = Path(folder)
    folder.mkdir(parents=True)
    lines = [{"iteration": 10 * i, "phase": "TRAIN", "values": {name: value}}
             for i, value in enumerate(values)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if facts:
        (folder / "run.json").write_text(json.dumps(facts))
    return folder


def test_real_runs(tiny, minidrop):
    for out, more in (("one", ()), ("two", ("--dropout", "conventional"))):
        done = minidrop("train", "--solver", tiny.solver, "--out", out, "--device", "cpu", *more)
        assert done.code == 0, done.err
    done = minidrop("report", "one", "two", "-o", "page.html", "--confusion", "--title", "Both & more")
    assert (done.code, done.err, done.out) == (0, "", "wrote page.html\n")
    page = checked("page.html")
    assert page.text.startswith("Both & more")
    curves = read_curves("one")
    points = sum(len(points) for phases in curves.points.values() for points in phases.values())
    assert points > 20 and len(page.all("circle")) == 2 * points
    drawn = [line["points"].split() for line in page.all("polyline") if line["points"] != "1,6 27,6"]
    assert sum(map(len, drawn)) == 2 * points
    for said in ("loss", "accuracy", "lr", "ip1 8x20", "PERIODIC", "it drops every element on its own",
                 "0.5000", "iterations 40 of 40", "time per iteration", "cpu (NumPy", "seed 3", "float32",
                 "net.prototxt", "50 records of the test net"):
        assert said in page.text, said
    run = read_run("one", confusion=True)
    assert run.notes == [] and [one.layer for one in run.kept] == ["drop1"]
    assert run.confusion.counts.sum() == 50     # a test of the training takes 20 of them
    assert run.confusion.counts.shape == (3, 3) and run.confusion.weights == "task_iter_40.h5"


def test_a_confusion_matrix_counts_what_accuracy_counts(tiny, minidrop):
    minidrop("train", "--solver", tiny.solver, "--out", "run", "--device", "cpu")
    done = minidrop("test", "--model", tiny.net, "--weights", "run/snapshots/task_iter_40.h5", "--json")
    counts = read_run("run", confusion=True).confusion.counts
    assert np.trace(counts) / 50 == pytest.approx(json.loads(done.out)["values"]["accuracy"])
    import h5py
    with h5py.File(tiny.folder / "train.h5") as file:
        assert counts.sum(axis=1).tolist() == np.bincount(file["label"][()]).tolist()
    shutil.rmtree("run/snapshots")
    assert "there is none" in minidrop("report", "run", "--confusion").err
    with pytest.raises(ConfigError, match="needs the folder of a run"):
        read_run("run/metrics.jsonl", confusion=True)


def test_a_confusion_matrix_is_of_the_runs_own_weights(tiny, minidrop):
    """Not of another run with its snapshot_prefix, though that one went on for longer."""
    for out, iterations in (("long", 20), ("short", 10)):
        assert minidrop("train", "--solver", tiny.solver, "--out", out, "--device", "cpu", "--set",
                        "snapshot_prefix=x", "--set", f"max_iter={iterations}").code == 0
    assert read_run("long", confusion=True).confusion.weights == "x_iter_20.h5"
    assert read_run("short", confusion=True).confusion.weights == "x_iter_10.h5"


def test_a_confusion_matrix_is_of_the_averages_that_tests_read(tiny, minidrop):
    for test in ("true", "false"):
        assert minidrop("train", "--solver", tiny.solver, "--out", test, "--device", "cpu", "--set",
                        "ema_decay=0.999", "--set", f"ema_test={test}", "--set", "test_iter=-1").code == 0
        run = read_run(test, confusion=True)
        counts, points = run.confusion.counts, run.curves.points["accuracy"]
        [tested] = [phase for name, phase in points.items() if "TEST" in str(name).upper()]
        assert np.trace(counts) / counts.sum() == pytest.approx(tested[-1][1])
    assert (read_run("true", confusion=True).confusion.counts != counts).any()


def test_sessions_of_a_resumed_run(tiny, minidrop):
    minidrop("train", "--solver", tiny.solver, "--out", "run", "--device", "cpu", "--set", "max_iter=20")
    minidrop("train", "--solver", tiny.solver, "--out", "run", "--device", "cpu", "--resume", "auto")
    first, second = read_sessions("run/train.log")
    assert (first.first, first.last, second.first, second.last) == (0, 20, 20, 40)
    assert first.device == second.device and first.device.startswith("cpu (NumPy")
    assert 0 <= first.paced <= first.seconds and 0 < second.seconds < 60
    assert ("time in all", ) == tuple(what for what, text in read_run("run").facts if "in 2 sessions" in text)


def test_logs_have_sessions_too(tmp_path):
    path = tmp_path / "caffe.log"
    path.write_text("I0101 10:00:00.000000 1 solver.cpp:1] Solving net\n"
                    "I0101 10:00:01.000000 1 solver.cpp:2] Iteration 0, loss = 2\n"
                    "I0101 10:00:21.500000 1 solver.cpp:2] Iteration 100, loss = 1\n")
    session, = read_sessions(path)
    assert (session.device, session.seconds, session.first, session.last) == ("", 21.5, 0, 100)
    assert session.paced == 20.5
    path.write_text("nothing\n")
    assert read_sessions(path) == []


def test_what_is_hostile_is_text(tmp_path, minidrop, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "<b onload=x>&\"'"
    folder = write_run(name, HOSTILE, solver="/x/" + HOSTILE, minidrop=HOSTILE, dtype=HOSTILE,
                       dropout=HOSTILE)
    (folder / "solver.prototxt").write_text(f"# </pre>{HOSTILE[:20]}\nbase_lr: 1\n")
    (folder / "net.prototxt").write_text(f'name: "{HOSTILE[:25].replace(chr(34), "")}</pre>"\n')
    done = minidrop("report", name, "-o", "page.html", "--title", HOSTILE)
    assert done.code == 0, done.err
    page = checked("page.html")
    assert '<script>alert("1")</script>' in page.text and not {"\x1b", "\u202e"} & set(page.text)
    assert name in page.text and page.text.count("</pre>") == 2


def test_what_is_missing_or_damaged_is_said(tmp_path, minidrop, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("torn").mkdir()
    Path("torn/metrics.jsonl").write_text('{"iteration": 0, "phase": "TRAIN", "values": {"loss": 1}}\n{]\n')
    for path, message in (("empty", "metrics.jsonl: cannot be read"), ("torn", "metrics.jsonl:2: expected a"),
                          ("none", "cannot be read")):
        done = minidrop("report", path)
        assert done.code == 1 and message in done.err and not Path("report.html").exists()
    write_run("bare")
    done = minidrop("report", "bare")
    assert done.code == 0 and done.err.count("warning: bare: ") == 4
    for said in ("run.json", "solver.prototxt", "net.prototxt", "train.log"):
        assert said in done.err and said in checked("report.html").text
    Path("bare/run.json").write_text("[1")
    Path("bare/solver.prototxt").write_text("base_lr: x")
    Path("bare/net.prototxt").write_text("layer {")
    done = minidrop("report", "bare")
    assert done.code == 0 and "run.json: cannot be read" in done.err and "solver.prototxt:1" in done.err
    Path("bare/solver.prototxt").write_text("base_lr: 1")
    assert "net cannot be shown: bare/net.prototxt:1" in minidrop("report", "bare").err
    assert "ends with .html" in minidrop("report", "bare", "-o", "page.txt").err
    assert "cannot be written" in minidrop("report", "bare", "-o", "no/page.html").err
    with pytest.raises(DataError):
        read_run("empty")
    with pytest.raises(SnapshotError, match="needs solver.prototxt and a snapshot"):
        read_run("bare", confusion=True)


def test_values_that_are_not_finite(tmp_path, minidrop, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run("run", "loss", (1.0, None, 3.0, 0.0, None))
    write_run("lost", "loss", (None, None))
    assert minidrop("report", "run", "lost", "--log").code == 0
    page = checked("report.html")
    assert len(page.all("circle")) == 2     # 0 has no logarithm
    for said in ("run, train: left out: 3 of 5 values", "lost, train: left out: 2 of 2", "not finite",
                 "0 at 30", "3 at 20"):
        assert said in page.text, said
    assert minidrop("report", "lost").code == 0
    assert "no value that can be drawn" in checked("report.html").text


def test_a_curve_that_diverged_does_not_flatten_the_others():
    good = Series("good", 0, 0, [(i, 2.0 / (i + 1)) for i in range(40)])
    bad = Series("bad", 1, 0, [*((i, 2.0) for i in range(36)), (36, 1e6), (37, 1e12), (38, math.nan)])
    page = Page(chart("loss", [good, bad]))
    lines = [[float(point.split(",")[1]) for point in line["points"].split()]
             for line in page.all("polyline") if line["points"] != "1,6 27,6"]
    assert [len(line) for line in lines] == [40, 36] and max(lines[0]) - min(lines[0]) > 100
    assert "bad: left out: 1 of 39 values" in page.text
    assert "2 of 39 values are above 10, 5 times" in page.text
    assert "bad: 1e+12 at 37, not finite at the end" in page.text and "good: 0.05 at the end" in page.text
    assert "above" not in Page(chart("loss", [good, bad], log_scale=True)).text
    rises = Series("accuracy", 0, 0, [(i, min(0.99, 1e-4 + i / 9)) for i in range(40)])
    for one in (good, rises):
        assert "above" not in Page(chart("loss", [one])).text


def test_kept_shares_are_those_of_the_masks():
    for name in known_families():
        for rate in (0.0, 0.3, 0.7):
            site = DropSite("drop", PatternSettings(rate, name), 5)
            site.shape(90)
            shares = []
            for iteration in range(40):
                draw = site.draw(iteration)
                if site.kind == "weights":
                    mask = draw.weight_mask(90, 90)
                elif site.kind == "blocks":
                    continue        # a mask has parts of blocks at the edges; checked by the mean below
                else:
                    mask = draw.mask((64, 90), 1)
                shares.append((mask > 0).mean())
            found = kept_share(site, 40)
            assert found.looked == 40 and 0 <= found.least <= found.greatest <= 1
            assert found.least - 1e-12 <= found.mean <= found.greatest + 1e-12
            if shares:
                # Groups of samples are equally large here; tiles at the edges are cut off.
                allowed = 0.05 if site.kind == "weights" else 1e-12
                assert abs(found.mean - np.mean(shares)) <= allowed, (name, rate)
            else:
                assert abs(found.mean - (1 - get_family(site.settings).distribution.rate)) < 0.1


def test_ticks():
    assert ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1] and ticks(0.98, 0.9831) == [0.98, 0.981, 0.982, 0.983]
    assert ticks(-3, 1500, 5) == [0, 500, 1000, 1500] and ticks(2, 2) == [2]
    assert log_ticks(0.003, 20) == [0.001, 0.01, 0.1, 1, 10, 100] and log_ticks(2, 9) == [2, 4, 6, 8]
    rng = np.random.default_rng(1)
    for _ in range(300):
        low, high = np.sort(rng.choice([-1, 1], 2) * 10.0 ** rng.uniform(-300, 300, 2))
        found = ticks(low, high)
        assert 1 <= len(found) <= 8 and found == sorted(found) and all(map(math.isfinite, found))
        slack = 1e-8 * (high / 2 - low / 2)
        assert low - slack <= found[0] and found[-1] <= high + slack
        found = log_ticks(*sorted(10.0 ** rng.uniform(-300, 300, 2)))
        assert 1 <= len(found) <= 9 and all(map(math.isfinite, found))


def test_long_curves_keep_their_extremes():
    rng = np.random.default_rng(2)
    points = [(i, value) for i, value in enumerate(rng.normal(size=50_000).tolist())]
    kept = thinned(points, MOST_POINTS)
    assert len(kept) <= MOST_POINTS and kept == sorted(kept) and set(kept) <= set(points)
    values = [value for _, value in points]
    assert {min(values), max(values)} <= {value for _, value in kept} and {points[0], points[-1]} <= set(kept)
    page = Page(chart("loss", [Series("train", 0, 0, points)]))
    assert len(page.all("circle")) <= MOST_MARKS and "extremes of 500 stretches" in page.text
    lost = [(i, math.nan) for i in range(9000)]
    assert all(math.isnan(value) for _, value in thinned(lost, MOST_POINTS))
    for extreme in ([(0, -1.7e308), (1, 1.7e308)], [(0, 5e-324), (1, 1e-323)], [(7, 3.0)]):
        for scale in (False, True):
            for line in Page(chart("x", [Series("train", 0, 0, extreme)], scale)).all("polyline"):
                assert "nan" not in line["points"] and "inf" not in line["points"]


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium in PATH")
def test_a_browser_shows_it(tmp_path, minidrop, monkeypatch):
    from io import BytesIO
    image = pytest.importorskip("PIL.Image")
    monkeypatch.chdir(tmp_path)
    write_run("run", HOSTILE, [3.0 / (i + 1) for i in range(30)])
    assert minidrop("report", "run").code == 0
    with Browser(tmp_path) as browser:
        for width in (1000, 390):       # that of a phone
            browser.open((tmp_path / "report.html").as_uri(), width)
            picture = np.asarray(image.open(BytesIO(browser.picture())).convert("RGB"), int)
            assert picture.shape[1] == width
            colours = picture.reshape(-1, 3)
            blue = (colours[:, 2] > colours[:, 0] + 60).sum()       # the curve
            assert blue > 200 and len(np.unique(colours, axis=0)) > 20
            # Nothing sticks out, so that there is no bar to scroll with: the edges are empty.
            assert len(np.unique(picture[:, width - 4:].reshape(-1, 3), axis=0)) == 1
            assert browser.value("document.documentElement.scrollWidth") <= width
        assert browser.said == []
