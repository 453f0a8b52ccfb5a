#!/usr/bin/env python
"""Draw an iteration of two ranks as an SVG: layers forward and backward, and buckets that travel beside them.

    python scripts/benchmarks/timeline_picture.py --svg timeline.svg

It starts two ranks (mpiexec) of one thread each, which train the perceptron of measure_ranks.py with compact
gradients; --trace draws a file of `minidrop train --timeline` instead. Drawn is the iteration of median
length on rank 0, from where the first rank begins to where the last one ends, by the clocks of the ranks,
which on one host are one.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median_low

from minidrop.apps.charts import ticks
from minidrop.apps.markup import Markup, element

ITERATIONS = 40
WIDTH, LEFT, BAR, ROW = 400, 4, 22, 26
COLOURS = {"forward": "c1", "backward": "c2", "update": "c3", "reduce": "c4"}
STYLE = """
text { fill: #57606a; font: 14px system-ui, sans-serif; }
.c1 { fill: #0969da; } .c2 { fill: #bf5b00; } .c3 { fill: #1a7f37; } .c4 { fill: #8250df; }
.axis { stroke: #8c959f; }
@media (prefers-color-scheme: dark) { text { fill: #adbac7; } .c1 { fill: #539bf5; } .c2 { fill: #e0823d; }
  .c3 { fill: #57ab5a; } .c4 { fill: #986ee2; } }
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--svg", type=Path)
    parser.add_argument("--trace", type=Path, help="of minidrop train --timeline, in place of a new one")
    parser.add_argument("--record", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, default=2048, metavar="H")
    parser.add_argument("--batch", type=int, default=128, help="of both ranks together")
    parser.add_argument("--rate", type=float, default=0.5)
    options = parser.parse_args()
    if options.record:
        record(options)
        return
    if options.svg is None:
        parser.error("--svg FILE says where the picture goes")
    with tempfile.TemporaryDirectory() as folder:
        trace = options.trace or recorded(Path(folder) / "trace.json", options)
        parts = parts_of(json.loads(trace.read_text())["traceEvents"])
    options.svg.write_text(picture(parts))
    for rank, spans in sorted(parts.items()):
        print(f"rank {rank}: {words(spans)}")


def recorded(path, options):
    """Let two ranks train and record; returns the path."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MINIDROP_THREADS": "1"}
    subprocess.run(["mpiexec", "-n", "2", sys.executable, __file__, "--record", str(path), "--size",
                    str(options.size), "--batch", str(options.batch), "--rate", str(options.rate)],
                   env=environment, check=True)
    return path


def record(options):
    from measure_ranks import solver_of

    from minidrop.apps.timeline import timeline
    from minidrop.solver.mpi import world

    solver = solver_of("compact", options, world())
    solver.step(5)
    with timeline(solver, options.record, ITERATIONS):
        solver.step(ITERATIONS)


def parts_of(events):
    """Return {rank: [(part, name, begin, end)]} of the iteration that is drawn, in milliseconds."""
    whole = {(one["pid"], one["args"]["iteration"]): one for one in events if one.get("cat") == "iteration"}
    lengths = {iteration: one["dur"] for (rank, iteration), one in whole.items() if rank == 0}
    typical = median_low(lengths.values())
    chosen = next(iteration for iteration, length in lengths.items() if length == typical)
    begin = min(one["ts"] for (_, iteration), one in whole.items() if iteration == chosen)
    parts, open_buckets = {}, {}
    for one in events:
        if one.get("cat") not in COLOURS or one["args"]["iteration"] != chosen:
            continue
        at, key = (one["ts"] - begin) / 1e3, (one["pid"], one.get("id"))
        spans = parts.setdefault(one["pid"], [])
        if one["ph"] == "X":
            spans.append((one["cat"], one["name"], at, at + one["dur"] / 1e3))
        elif one["ph"] == "b":
            open_buckets[key] = at
        else:
            spans.append((one["cat"], one["name"], open_buckets.pop(key), at))
    return parts


def words(spans):
    """Return how long the parts of an iteration took, and how much of the travel lay beside backward."""
    travel = [(begin, end) for part, _, begin, end in spans if part == "reduce"]
    computed = [(begin, end) for part, _, begin, end in spans if part == "backward"]
    until = max(end for _, end in computed)
    beside = sum(max(0.0, min(end, until) - begin) for begin, end in travel)
    total = sum(end - begin for begin, end in travel)
    took = {part: sum(end - begin for name, _, begin, end in spans if name == part) for part in COLOURS}
    return (", ".join(f"{part} {took[part]:.1f} ms" for part in ("forward", "backward", "update"))
            + f"; buckets travel for {total:.1f} ms, of which {beside:.1f} before backward ends")


def picture(parts):
    """Return the SVG: for each rank a row of what it computes, and under it one for each bucket."""
    end = max(end for spans in parts.values() for *_, end in spans)
    scale = (WIDTH - 2 * LEFT) / end
    body, y = [], 20

    def words_at(x, y, *said):
        body.append(element("text", *said, x=f"{x:.1f}", y=y))

    def bar(part, name, begin, last, y, height=BAR):
        body.append(element("rect", element("title", f"{name}: {last - begin:.2f} ms"), class_=COLOURS[part],
                            x=f"{LEFT + begin * scale:.1f}", y=y, height=height,
                            width=f"{max(0.6, (last - begin) * scale):.1f}"))

    for rank, spans in sorted(parts.items()):
        words_at(LEFT, y, f"rank {rank}")
        y += 6
        travels = sorted((span for span in spans if span[0] == "reduce"), key=lambda span: span[2])
        for span in spans:
            if span[0] != "reduce":
                bar(*span, y)
        y += ROW
        for number, span in enumerate(travels):
            bar(*span, y + number * ROW // 2, BAR // 2)
        y += ROW // 2 * len(travels) + 26
    body.append(element("line", class_="axis", x1=LEFT, x2=WIDTH - LEFT, y1=y - 14, y2=y - 14))
    for tick in ticks(0, end):
        words_at(LEFT + tick * scale, y + 4, f"{tick:g}{'' if tick else ' ms'}")
    y += 28
    x = LEFT
    for part, name in (("forward", "forward"), ("backward", "backward"), ("update", "update"),
                       ("reduce", "bucket travels")):
        body.append(element("rect", class_=COLOURS[part], x=x, y=y - 12, width=12, height=12))
        words_at(x + 17, y, name)
        x += 33 + 7.2 * len(name)
    title = f"one iteration of {len(parts)} ranks: what each computes, and its gradients on their way"
    return element("svg", element("title", title), element("style", Markup(STYLE)), Markup("\n"),
                   Markup("\n".join(body)), Markup("\n"), xmlns="http://www.w3.org/2000/svg",
                   viewBox=f"0 0 {WIDTH} {y + 10}", role="img") + "\n"


if __name__ == "__main__":
    main()
