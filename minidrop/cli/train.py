"""minidrop train: trains a net as a solver file says, in a run folder from which it can be resumed."""

import logging
import math
import shlex
import time
from contextlib import ExitStack, nullcontext
from itertools import chain, count
from pathlib import Path
from typing import Any

import click

from minidrop.apps.timeline import timeline
from minidrop.backend import cuda_devices
from minidrop.cli import values
from minidrop.cli.caffe_flags import without
from minidrop.cli.console import RunLog, console
from minidrop.cli.glog import CaffeNarrator, GlogFormatter
from minidrop.cli.leaving import leave
from minidrop.cli.options import (
    Command,
    Count,
    chosen_device,
    device_options,
    ema_option,
    ignore_unknown_option,
    net_options,
    refuse_idle,
    seed_type,
    skip_option,
    weights_option,
)
from minidrop.cli.progress import Bar, Narrator, wants_bar
from minidrop.cli.ranks import Traffic, chosen, introduce, launched, reached
from minidrop.cli.restarts import with_restarts
from minidrop.cli.tensorboard import Board, check_tensorboard
from minidrop.config import load_solver
from minidrop.errors import MinidropError, visible_name
from minidrop.snapshot import read_header
from minidrop.solver import Solver
from minidrop.solver.mpi import launch_line
from minidrop.solver.signals import EFFECTS, StopSignals, exit_code_of
from minidrop.solver.watchdog import TIMEOUT
from minidrop.solver.wire import WIRES

log = logging.getLogger(__name__)


@click.command(cls=Command)
@click.option("--solver", required=True, metavar="FILE", help="The solver file.")
@net_options
@ignore_unknown_option
@device_options
@weights_option
@skip_option
@ema_option
@click.option("--resume", "--snapshot", "resume", metavar="auto|FILE",
              help="Resume from a snapshot, or a .solverstate of Caffe's; auto: the newest snapshot of this "
              "solver's newest run (or of --out), in its folder.")
@click.option("--out", metavar="DIR", help="The run folder. [default: runs/<solver>-<time>]")
@click.option("--seed", type=seed_type,
              help="Seed of the random numbers, in place of the file's random_seed.")
@click.option("--sigint-effect", type=click.Choice(EFFECTS), default="stop", show_default=True,
              help="What Ctrl-C does.")
@click.option("--sighup-effect", type=click.Choice(EFFECTS), default="snapshot", show_default=True,
              help="What a hang-up signal does.")
@click.option("--tensorboard", is_flag=True,
              help="Also write what displays and tests show into tensorboard/ of the run folder. Needs "
              "minidrop[tensorboard].")
@click.option("--progress/--no-progress", default=None,
              help="A progress bar, or plain lines. [default: a bar on a terminal]")
@click.option("--mpi/--no-mpi", "together", default=None,
              help="Train together with the processes that a launcher such as mpiexec started with this one, "
              "or alone. [default: together, if there are any]")
@click.option("--batch-per-rank", is_flag=True,
              help="With several ranks: a batch_size of the net to train is that of each. [default: of all]")
@click.option("--scale-lr", is_flag=True,
              help="Multiply the learning rates by the number of ranks; set warmup_iter as well.")
@click.option("--wire", type=click.Choice(WIRES),
              help="With several ranks: round gradients to 16 bits on their way. [default: the file's wire]")
@click.option("--timeline", "trace", metavar="FILE.json",
              help="Record when the parts of the first 100 iterations run, on each rank, as JSON for "
              "Perfetto.")
@click.option("--rank-timeout", type=click.FloatRange(0, min_open=True), default=TIMEOUT, show_default=True,
              metavar="SECONDS", help="How long a rank waits for others before all end.")
@click.option("--restarts", type=Count(0), default=0,
              help="Begin again at the newest snapshot, up to N times, if it is killed or fails.")
@click.option("--launcher", metavar="COMMAND",
              help="With --restarts: what starts the ranks, such as 'mpiexec -n 4'. [default: one process]")
@click.option("--log-format", type=click.Choice(["minidrop", "caffe"]), default="minidrop", show_default=True,
              help="caffe: lines that parsers of Caffe's logs can read.")
@click.pass_context
def train(context: Any, solver: Any, overrides: tuple, dropout: str | None, level: int, stages: list,
          ignore_unknown: bool, device: str, gpu: str | None, dtype: Any, precision: str, weights: Any,
          skip_mismatched: bool, ema: bool, resume: Any, out: Any, seed: int, sigint_effect: Any,
          sighup_effect: Any, tensorboard: bool, progress: Any, together: bool | None, batch_per_rank: bool,
          scale_lr: bool, wire: str | None, trace: str | None, rank_timeout: float, restarts: int,
          launcher: str | None, log_format: str) -> None:
    """Train a net.

    The run folder holds metrics.jsonl, the resolved solver and net files, train.log, and snapshots/ (unless
    the solver file sets snapshot_prefix). Ctrl-C or SIGTERM finishes the iteration, writes a snapshot and
    exits with 130 or 143; a second Ctrl-C stops at once; SIGHUP writes a snapshot and continues.

    Started by mpiexec -n N, N processes train together: each on its part of every batch, with the results of
    one.
    """
    if math.isnan(rank_timeout):
        raise click.UsageError("--rank-timeout takes a number of seconds, or inf, got nan")
    if launcher and not restarts:
        raise click.UsageError("--launcher says what --restarts starts: give both, or neither")
    if restarts:
        context.exit(with_restarts(context.obj, solver, out, resume, restarts, launcher or ""))
    if weights and resume not in (None, "auto"):
        raise click.UsageError("--weights and --resume (Caffe's -snapshot) exclude each other: a snapshot "
                               "has its weights")
    if not weights:
        refuse_idle(["ema"], "says how --weights is read; give both")
    if resume not in (None, "auto"):
        refuse_idle(["skip_mismatched"], "a snapshot to go on from must fit; begin anew with --weights")
    if trace and not trace.endswith(".json"):       # as --timeline net.prototxt, which would be replaced
        raise click.UsageError(f"--timeline {trace}: expected a name that ends with .json")
    if tensorboard:
        check_tensorboard()
    if seed is not None:
        overrides = (*overrides, f"random_seed={seed}")
    if wire is not None:
        overrides = (*overrides, f"wire={wire}")
    with ExitStack() as stack:
        # Before the nets are built, which takes long, so that no signal is lost.
        signals = stack.enter_context(StopSignals(sigint_effect, sighup_effect, leave))
        communicator = stack.enter_context(launched(together, rank_timeout))
        device = chosen_device(device, gpu, communicator.local_rank, communicator.size)
        run_log = stack.enter_context(RunLog()) if communicator.rank == 0 else None
        formatter = GlogFormatter() if log_format == "caffe" else None
        stack.enter_context(console.formatted(formatter))
        config = load_solver(solver, ignore_unknown)
        trained = Solver(config, overrides, dropout, device, dtype, level, stages, precision=precision,
                         initial_weights=False, communicator=communicator, batch_per_rank=batch_per_rank,
                         scale_lr=scale_lr)
        stack.callback(trained.close)
        folder, start = chosen(trained, out, resume)
        if folder:
            stack.enter_context(folder)
        if start:
            _restore(trained, start)
        else:
            trained.load_initial_weights(skip_mismatched)
            if weights:
                trained.net.load_weights(weights, skip_mismatched, ema=ema)
        trace = trained.ranks.of_root(trace or "")      # all ranks record, or none
        if trace:       # before the run begins: a file that cannot be written is no reason for a restart
            stack.enter_context(timeline(trained, beside(trace, trained)))
        trained.ranks.at_root(lambda: folder.begin())
        reached.begin(trained.iteration)
        trained.add_callback(reached)
        if run_log is None:
            introduce(trained)
            code = _train(trained, signals, nullcontext(), None, "")
        else:
            run_log.open(folder.log_path, formatter)
            with_bar = wants_bar(progress)
            narrator = (CaffeNarrator if formatter else Narrator)(trained.iteration, with_bar)
            _introduce(trained, folder, device)
            narrator.begin(trained)
            view = Bar(trained) if with_bar else nullcontext()
            boards = [stack.enter_context(Board(folder.path, trained.iteration))] if tensorboard else []
            for callback in (folder.record, narrator, *boards, *([view] if with_bar else [])):
                trained.add_callback(callback)
            before = ""
            if not trained.ranks.alone:
                introduce(trained)
                trained.add_callback(Traffic(trained.settings.max_iter))
                before = f"{launch_line(communicator.size)} "
            again = [*without(context.obj, "resume", "snapshot", "out"), "--out", str(folder.path),
                     "--resume", "auto"]
            code = _train(trained, signals, view, narrator, f"{before}minidrop {shlex.join(again)}")
    context.exit(code)


def beside(trace: str, solver: Solver) -> str:
    """Return where the timeline of a training goes: that of a resumed one not over what is there."""
    path = Path(trace)
    if solver.iteration and path.exists():      # rank 0 writes: what others see does not matter
        stem = f"{path.stem}_iter_{solver.iteration}"
        names = (f"{stem}{more}{path.suffix}" for more in chain([""], (f"_{n}" for n in count(2))))
        path = next(other for name in names if not (other := path.with_name(name)).exists())
        log.info("%s is there: the timeline goes to %s", trace, path)
    return str(path)


def _restore(solver, path):
    """Restore a snapshot and warn of settings that have changed since it was written."""
    solver.restore(path)
    log.info("going on at iteration %d from %s", solver.iteration, solver.last_snapshot or path)
    if solver.iteration >= solver.settings.max_iter:
        log.warning("nothing is left to train: max_iter is %d; raise it with --set max_iter=N",
                    solver.settings.max_iter)
    if solver.last_snapshot is None:        # a solver state of Caffe's, which says nothing else
        return
    before = read_header(solver.last_snapshot)
    if before.get("dtype", solver.dtype) != solver.dtype:
        log.warning("the snapshot was written with --dtype %s, now it is %s", before["dtype"], solver.dtype)
    precision = solver.net.backend.precision
    if before.get("precision", "float32") != precision:
        log.warning("the snapshot was written with --precision %s, now it is %s",
                    before.get("precision", "float32"), precision)
    if before.get("dropout", "") != (solver.dropout or ""):
        log.warning("the snapshot was written with --dropout %s, now it is %s", before.get("dropout")
                    or "not given", solver.dropout or "not given")
    elif before.get("net") != str(solver.net.config.message):
        log.warning("the net's description is not what it was when the snapshot was written")
    old, new = (set(str(text).splitlines()) for text in (before.get("solver", ""), solver.settings))
    changed = [line for line in [*sorted(old - new), *sorted(new - old)]
               if not line.startswith("random_seed")]
    if changed:
        log.warning("the solver's settings are not what they were: %s; now %s", ", ".join(sorted(old - new))
                    or "(none)", ", ".join(sorted(new - old)) or "(none)")


def _introduce(solver, folder, device):
    settings = solver.settings
    log.info("%s: training to iteration %d on %s; run folder %s", solver.config.path, settings.max_iter,
             solver.net.backend.describe(), folder.path)
    for line in (*solver.net.plan.lines(), *(reshuffle.line for reshuffle in solver.net.reshuffles)):
        log.info("%s", line)
    if line := training_loss(solver):
        log.info("%s", line)
    if settings.snapshot_best and not settings.test_interval:
        log.warning("%s: snapshot_best has no effect while test_interval is 0: no test is made",
                    solver.config.where("snapshot_best"))
    gpu_wanted = settings.HasField("solver_mode") and settings.solver_mode == settings.GPU
    if device == "auto" and gpu_wanted and (reason := cuda_devices()[1]):
        log.warning("%s: solver_mode is GPU, but there is none (%s): training on the CPU",
                    solver.config.where("solver_mode"), reason)


def training_loss(solver: Solver) -> str:
    """Return what `loss` means in the lines of a training; "" if it is the net's only loss, of that name."""
    losses, over = solver.net.losses, solver.settings.average_loss
    terms = " + ".join(f"{weight:g} {visible_name(ref.name)}" if weight != 1 else visible_name(ref.name)
                       for ref, weight in losses)
    if not losses or (terms == "loss" and over == 1):
        return ""
    mean = f", mean of the last {over} iterations" if over > 1 else ""
    return f"training shows {terms} as its loss, without weight decay{mean}; tests show every output"


def _train(solver, signals, view, narrator, again):
    """Train to the end, a signal or an error; returns the exit code."""
    began, first = time.monotonic(), solver.iteration

    def should_stop(solver):
        if solver.ranks.any(signals.take_snapshot_request()):
            solver.snapshot()
        return signals.stop_requested

    try:
        with view:
            solver.solve(should_stop)
        requested = signals.stop_requested or ""
        if not solver.ranks.alone:      # a launcher sends a signal to all, but maybe not at once
            requested = next(filter(None, solver.ranks.texts(requested)), "")
        if requested:
            path = solver.last_snapshot if solver.is_saved else solver.snapshot()
            log.info("stopped by %s after iteration %d; snapshot %s\ngo on with: %s", requested,
                     solver.iteration, path, again)
            return exit_code_of(requested)
    except (MinidropError, OSError) as error:
        log.debug("error: %s", error)      # for the log file; the command line prints it
        raise
    if narrator is None:        # rank 0 speaks
        return 0
    tests = "; ".join(values.as_text(result) for result in narrator.tests.values())
    log.info("done: %d iterations in %.1f s; %ssnapshots: %s", solver.iteration - first,
             time.monotonic() - began, f"test: {tests}; " if tests else "",
             f"{solver.snapshot_prefix}_iter_*.h5" if solver.last_snapshot else "none")
    return 0
