"""One training of a recurrent model of bench_models.py, for the reproductions: resumable, with its curve."""

import shutil
import time

from bench_models import MODELS, batches_per_pass, find_model, make_solver
from reproduction import folder_of, keep, resume

import minidrop as md
from minidrop.data import find_source
from minidrop.solver import run_test

# Iterations, where they are not the solver file's.
# The paper's 110000 iterations of caption_lm take days; ptb_medium has a third of its recipe's: 13 epochs.
LENGTHS = {"caption_lm_2": 2000, "caption_lm_3": 2000, "ptb_medium": 17251, "quick_lm": 300}


def default_text(net):
    """Return the text of a model: a known data set if it is there, else what every machine has."""
    settings = MODELS[net].text
    characters = settings.level == settings.CHARACTER
    wanted, name = ("tinyshakespeare/input.txt",) * 2 if characters else ("ptb/train.txt", "ptb")
    try:
        find_source(wanted, kind="text")
    except md.DataError:
        return "python-stdlib"
    return name


def build(key):
    """Return the Solver of a training's key."""
    model, iterations = find_model(key["net"]), key["iterations"]
    net = model.net(key["method"], key["rate"], key.get("text"))
    settings = model.solver_settings(net, iterations, random_seed=key["seed"],
                                     test_iter=[batches_per_pass(net, "TEST")], test_state={"stage": "test"},
                                     snapshot_after_train=False,
                                     average_loss=max(1, iterations // curve_points(iterations)))
    return make_solver(settings, model.parse(key["method"]))


def curve_points(iterations):
    """Return the number of points of a training's curve: of tests, and of snapshots to go on from."""
    return max(1, min(20, iterations // 25))


def train(key, folder=None, more=None):
    """Make one training; returns the test values at its end, None where it diverges, and its curve.

    folder: where snapshots of it go, from which it goes on where it was interrupted. more(solver): values of
    the trained net that no layer of it computes. A point of the curve is (iteration, seconds of training,
    training loss since the last point, test loss, perplexity or F1, accuracy); losses of language and
    translation models are a token's.
    """
    folder = folder and folder_of(key, folder)
    solver = build(key)
    try:
        warm_up(key)
        result = finish(solver, key, folder)
        if more is not None:
            result |= more(solver)
    except md.NonFiniteError as error:
        result = {measure_of(solver): None, "accuracy": None, "seconds": None, "diverged": str(error)}
    finally:
        solver.close()
    if folder:
        shutil.rmtree(folder, ignore_errors=True)
    return result


def measure_of(solver):
    """Return the name of what the test net measures besides loss and accuracy: "f1" or "perplexity"."""
    return "f1" if any(layer.type == "F1" for layer in solver.settings.net_param.layer) else "perplexity"


def warm_up(key):
    """Make two steps that nobody times: what is compiled is then there."""
    solver = build(key)
    solver.step(2)
    solver.close()


def finish(solver, key, folder):
    """Train to the end, from a snapshot in `folder` if there is one; returns the result."""
    curve, iterations, weight = resume(solver, folder), key["iterations"], solver.net.losses[0][1]
    seconds, points, name = curve[-1][1] if curve else 0.0, curve_points(iterations), measure_of(solver)
    for mark in (iterations * point // points for point in range(1, points + 1)):
        if mark <= solver.iteration:
            continue
        begin = time.perf_counter()
        solver.step(mark - solver.iteration)
        seconds += time.perf_counter() - begin
        # Of short trainings, tests on the way see a part of the text.
        test = run_test(solver.test_nets[0], min(solver.settings.test_iter[0], max(1, iterations // points)))
        curve.append([mark, seconds, solver.smoothed_loss / weight, test["loss"], test[name],
                      test["accuracy"]])
        if folder and mark < iterations:
            keep(solver, curve, folder)
    test = solver.test()
    return {name: test[name], "accuracy": test["accuracy"], "seconds": seconds, "curve": curve}
