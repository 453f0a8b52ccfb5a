"""minidrop train --timeline, of one process."""

import json
from pathlib import Path
from types import SimpleNamespace

from minidrop.cli.train import beside


def test_a_timeline(tiny, minidrop):
    assert minidrop("train", "--solver", tiny.solver, "--out", "o", "--timeline", "trace.json").code == 0
    events = json.loads(Path("trace.json").read_text())["traceEvents"]
    iterations = [event["args"]["iteration"] for event in events if event.get("cat") == "iteration"]
    assert iterations == list(range(40)) and {event["pid"] for event in events} == {0}
    assert minidrop("train", "--solver", tiny.solver, "--out", "o", "--resume", "auto", "--set",
                    "max_iter=42", "--timeline", "trace.json").code == 0
    for expected in ("trace_iter_40_2.json", "trace_iter_40_3.json"):
        kept = Path("trace_iter_40.json").read_text()
        assert beside("trace.json", SimpleNamespace(iteration=40)) == expected
        Path(expected).touch()
        assert Path("trace_iter_40.json").read_text() == kept
    kept, more = (json.loads(Path(name).read_text())["traceEvents"] for name in
                  ("trace.json", "trace_iter_40.json"))
    assert kept == events and {event["args"].get("iteration") for event in more} == {None, 40, 41}
    refused = minidrop("train", "--solver", tiny.solver, "--out", "p", "--timeline", "none/trace.json")
    assert refused.code == 1 and "none/trace.json" in refused.err and "iteration" not in refused.out
