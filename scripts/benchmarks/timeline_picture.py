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

    def bar(part, name, begin, last, y):
        width = max(0.6, (last - begin) * scale)
        return (f'<rect class="{COLOURS[part]}" x="{LEFT + begin * scale:.1f}" y="{y}" width="{width:.1f}" '
                f'height="{BAR}"><title>{name}: {last - begin:.2f} ms</title></rect>')
    for rank, spans in sorted(parts.items()):
        body.append(f'<text x="{LEFT}" y="{y}">rank {rank}</text>')
        y += 6
        body += [bar(*span, y) for span in spans if span[0] != "reduce"]
        y += ROW
        for number, span in enumerate(sorted((span for span in spans if span[0] == "reduce"),
                                             key=lambda span: span[2])):
            body.append(bar(*span, y + number * ROW // 2).replace(f'height="{BAR}"', f'height="{BAR // 2}"'))
        y += ROW // 2 * sum(span[0] == "reduce" for span in spans) + 26
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 1000) if end / step <= 6)
    body.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - LEFT}" y1="{y - 14}" y2="{y - 14}"/>')
    for tick in range(0, int(end) + 1, step):
        body.append(f'<text x="{LEFT + tick * scale:.1f}" y="{y + 4}">{tick}{"" if tick else " ms"}</text>')
    y += 28
    x = LEFT
    for part, name in (("forward", "forward"), ("backward", "backward"), ("update", "update"),
                       ("reduce", "bucket travels")):
        body.append(f'<rect class="{COLOURS[part]}" x="{x}" y="{y - 12}" width="12" height="12"/>'
                    f'<text x="{x + 17}" y="{y}">{name}</text>')
        x += 33 + 7.2 * len(name)
    lines = "\n".join(body)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 10}" role="img"><title>one '
            f'iteration of {len(parts)} ranks: what each computes, and its buckets of gradients on their way'
            f'</title><style>{STYLE}</style>\n{lines}\n</svg>\n')


if __name__ == "__main__":
    main()
