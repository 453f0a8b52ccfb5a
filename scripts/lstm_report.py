"""The results of reproduce_lstm.py as tables, and as curves of loss against time."""

from dataclasses import dataclass, field
from statistics import mean, stdev

from reproduce_report import COLORS, markdown

PAPER = {       # (net, rate) -> speed-up of ROW; of TILE it is the same within 0.04
    ("caption_lm_2", 0.3): 1.16, ("caption_lm_2", 0.5): 1.23, ("caption_lm_2", 0.7): 1.31,
    ("caption_lm_3", 0.3): 1.18, ("caption_lm_3", 0.5): 1.43, ("caption_lm_3", 0.7): 1.49,
}
"""Song and Jiang, arXiv 1805.08939."""

TITLES = {"table2": "Table 2 of arXiv 1805.08939: 110000 iterations of Caffe there; word accuracy 47.6 -> "
          "46.8 % with ROW at "
                    "p = 0.3, 46.2 -> 44.7 % at 0.7.",
          "cases": "The cases of arXiv 2106.12089, whose trainings ran 1.23 to 1.64 times faster at equal "
          "metrics."}


@dataclass
class Row:
    """One cell and method: what was measured; lists have one entry for each training that did not diverge."""

    cell: object
    method: str
    speed_up: float | None = None
    bound: float | None = None
    runs: list = field(default_factory=list)
    diverged: int = 0
    missing: int = 0                    # trainings asked for that have not been made
    perplexity_ratio: float | None = None      # of the mean perplexity to that of conventional dropout, minus
                                               # 1
    difference: float | None = None     # of the mean accuracy to that of conventional dropout, in points

    def values(self, name):
        """The values of all trainings."""
        return [run[name] for run in self.runs]

    @property
    def paper(self):
        """The paper's speed-up, or None."""
        method = self.method.partition(":")[0]
        return PAPER.get((self.cell.net, self.cell.rate)) if method in ("NR ROW", "NR TILE") else None


def rows_of(selection, store, bound):
    """Return a Row for every cell and method that has a run; `bound(net, rate, method)` counts what its
    products allow."""
    rows = []
    for cell in selection.cells:
        own = [_row(selection, store, cell, method) for method in cell.methods]
        base = own[0]
        for row in own:
            if row is not base and base.runs and row.runs and not row.diverged:
                row.perplexity_ratio = mean(row.values("perplexity")) / mean(base.values("perplexity")) - 1
                row.difference = 100 * (mean(row.values("accuracy")) - mean(base.values("accuracy")))
            if row.speed_up is not None or row.runs or row.diverged:
                row.bound = bound(cell.net, cell.rate, row.method)
                rows.append(row)
    return rows


def _row(selection, store, cell, method):
    row = Row(cell, method)
    if method == "conventional":
        measured = any(store.find(selection.speed(cell, other)) for other in cell.methods[1:])
        row.speed_up = 1.0 if measured else None
    elif speed := store.find(selection.speed(cell, method)):
        row.speed_up = speed["speed_up"]
    for seed in selection.all_seeds:
        record = store.find(selection.run(cell, method, seed))
        if record is None:
            row.missing += 1
        elif record["perplexity"] is None:
            row.diverged += 1
        else:
            row.runs.append(record)
    return row


# -- tables --------------------------------------------------------------------------------------------------
HEADS = ("net", "p", "method", "speed-up", "bound", "paper", "iterations", "seconds", "perplexity",
         "to conventional", "accuracy %", "difference")


def text_of(rows):
    """Return the tables as Markdown, one for each part."""
    texts = []
    for part in dict.fromkeys(row.cell.part for row in rows):
        own = [row for row in rows if row.cell.part == part]
        names = ", ".join(dict.fromkeys(row.cell.text for row in own))
        texts += [f"{TITLES[part]}\nHere: text {names}. Speed-up: a whole training step, conventional "
                  f"dropout over the " "method, in one run. Bound: the same for the operations of the "
                  "products.\nSeconds: of the training, without tests; perplexity and accuracy on the test "
                  "part at its end, compared with conventional dropout.",
                  markdown(HEADS, [_line(row) for row in own])]
    return "\n\n".join(texts) + "\n"


def _line(row):
    threads = {run["threads"] for run in row.runs}
    seconds = f"{mean(row.values('seconds')):.1f}" if len(threads) == 1 else "-"
    return (row.cell.net, f"{row.cell.rate:g}", row.method, _times(row.speed_up), _times(row.bound),
            _times(row.paper), str(row.cell.iterations), seconds, _spread(row, row.values("perplexity")),
            "-" if row.perplexity_ratio is None else f"{100 * row.perplexity_ratio:+.2f} %",
            _spread(row, [100 * value for value in row.values("accuracy")]),
            "-" if row.difference is None else f"{row.difference:+.2f}")


def _times(value):
    return "-" if value is None else f"{value:.2f}x"


def _spread(row, values):
    """Mean and standard deviation, and how many trainings are missing or have diverged."""
    if not values:
        return "diverged" if row.diverged else "-"
    text = f"{mean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")
    notes = [f"{count} {what}" for count, what in ((row.diverged, "diverged"), (row.missing, "missing"))
             if count]
    return f"{text} ({', '.join(notes)})" if notes else text


# -- figure --------------------------------------------------------------------------------------------------
def draw(rows, path):
    """Draw the test loss against seconds of training, a panel for each net and rate; returns whether there
    was any curve.

    The first seed of each method. ImportError without matplotlib.
    """
    from matplotlib.figure import Figure
    rows = [row for row in rows if row.runs]
    panels = {}
    for row in rows:
        panels.setdefault((row.cell.net, row.cell.rate, row.cell.iterations),
                          {}).setdefault(row.method, row.runs[0]["curve"])
    if not panels:
        return False
    methods = list(dict.fromkeys(row.method for row in rows))
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(1.2 + 4 * columns, 0.8 + 3.2 * lines), layout="constrained")
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    handles = {}
    for ((net, rate, _), curves), one in zip(panels.items(), axes, strict=False):
        for method, curve in curves.items():
            color = COLORS[methods.index(method) % len(COLORS)]
            handles[method], = one.plot([point[1] for point in curve], [point[3] for point in curve], ".-",
                                        color=color)
        one.set_title(f"{net}, dropout rate {rate:g}")
        one.set_xlabel("seconds of training")
        one.set_ylabel("test loss a token")
        one.grid(color="#dddddd", linewidth=0.7)
        one.set_axisbelow(True)
        for side in ("top", "right"):
            one.spines[side].set_visible(False)
    for one in axes[len(panels):]:
        one.set_visible(False)
    figure.legend(list(handles.values()), list(handles), loc="outside upper center",
                  ncols=min(len(handles), 2 * columns), frameon=False)
    figure.savefig(path, dpi=150)
    return True
