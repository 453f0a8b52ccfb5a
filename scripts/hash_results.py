#!/usr/bin/env python
"""Prove that a change leaves the results of the CPU the same to the last bit.

    python scripts/hash_results.py --out before.json            # with the old version
    python scripts/hash_results.py --compare before.json        # with the new one

Trains hundreds of small nets with fixed seeds and prints a hash for each: of losses, test results and all
that training leaves, of a pass with explicit masks, and of Monte-Carlo dropout. Only the public interface is
used, so PYTHONPATH may name versions whose modules lie elsewhere. Hashes are comparable on one processor with
one NumPy and BLAS; unless the environment says otherwise BLAS has one thread, and minidrop's kernels two.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("MINIDROP_THREADS", "2")

import minidrop as md

# isort: split
import argparse
import hashlib
import json
import multiprocessing
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from itertools import permutations, product
from pathlib import Path

import h5py
import numpy as np

from minidrop.testing import run_once

FAMILIES = ("PERIODIC", "ROW", "UNIT", "SLICE", "TILE", "BLOCK")
KINDS = (*FAMILIES, "Dropout")
SMALL = {"TILE": {"tile_size": 2}, "BLOCK": {"block_samples": 4, "block_units": 2}}    # several pieces
LARGE = {"TILE": {"tile_size": 16}, "BLOCK": {"block_samples": 32, "block_units": 64}}
CLASSES, WORDS = 5, 22
SOLVER = {"base_lr": 0.02, "lr_policy": "fixed", "momentum": 0.9, "max_iter": 20, "random_seed": 3,
          "average_loss": 99, "test_iter": [2], "test_interval": 3, "test_compute_loss": True}
MSRA = {"weight_filler": {"type": "msra"}, "bias_filler": {"type": "uniform", "min": -0.5, "max": 0.5}}
UNIFORM = {name: {"type": "uniform", "min": -0.4, "max": 0.4} for name in ("weight_filler", "bias_filler")}


def write_data(folder):
    """Write the data sets that the nets read: small, wide and tall records, and a text."""
    rng = np.random.default_rng(0)
    for name, counts, size in (("small", (50, 46), 24), ("wide", (160,), 1024), ("tall", (2048,), 64)):
        for part, count in enumerate(counts):
            with h5py.File(folder / f"{name}{part}.h5", "w") as file:
                file["data"] = rng.standard_normal((count, size)).astype(np.float32)
                file["label"], file["target"] = rng.integers(0, CLASSES, count), rng.random((count, CLASSES))
        (folder / f"{name}.txt").write_text("".join(f"{name}{part}.h5\n" for part in range(len(counts))))
    words, ends = rng.integers(0, WORDS - 2, 6000), rng.choice([*"    ", "\n"], 6000)
    (folder / "words.txt").write_text("".join(f"w{word}{end}" for word, end in zip(words, ends, strict=True)))


def layer(kind, name, bottoms="", tops=None, **settings):
    """Describe a layer; blobs are names with spaces between, the top has the layer's name unless given."""
    return kind, name, bottoms.split(), (name if tops is None else tops).split(), settings


def ip(name, bottom, outputs=24, **settings):
    return layer("InnerProduct", name, bottom, num_output=outputs, **MSRA | settings)


def drop(name, bottom, kind="PERIODIC", rate=0.5, top=None, **settings):
    """Describe a drop by a pattern family, or a drop layer of another type; in place unless it has a top."""
    if kind in FAMILIES:
        kind, settings = "ApproxDropout", {"pattern": kind} | SMALL.get(kind, {}) | settings
    return layer(kind, name, bottom, top or bottom, dropout_ratio=rate, **settings)


PARTS = {"leaky": ("ReLU", {"negative_slope": 0.1}), "shift": ("Power", {"scale": 0.5, "shift": 0.2}),
         "square": ("Power", {"power": 2, "scale": 0.3}), "image": ("Reshape", {"shape": [0, 6, 2, 2]}),
         "sequence": ("Reshape", {"shape": [0, 4, -1]}), "connect": ("DropConnect", MSRA | {"num_output": 9})}


def chain(parts, *kinds, apart=False, of_product=None, bottom="data", **settings):
    """Describe layers one below the other, such as "ip29 ReLU drop": a product of 29 units, ReLU and a drop.

    Kinds of drops take turns; `settings` are of every drop. Layers work in place, if not `apart`.
    """
    layers, kinds = [], list(kinds or ["PERIODIC"])
    for number, part in enumerate(parts.split()):
        name, (kind, own) = f"{part}_{number}", PARTS.get(part, (part, {}))
        top = name if apart or part.startswith(("ip", "connect")) else bottom
        if part.startswith("ip"):
            layers.append(ip(name, bottom, int(part[2:]), **of_product or {}))
        elif part == "drop":
            layers.append(drop(name, bottom, kinds[0], top=top, **settings))
            kinds.append(kinds.pop(0))
        else:
            layers.append(layer(kind, name, bottom, top, **own))
        bottom = top
    return layers


def records(tops="data label", source="small", batch_size=16, **settings):
    return layer("HDF5Data", "records", "", tops, source=f"{source}.txt", batch_size=batch_size, **settings)


def text(batch_size=4, steps=5, **settings):
    settings |= {"source": "words.txt", "batch_size": batch_size, "steps": steps}
    return layer("TextData", "text", "", "data label cont", **settings)


def net(*layers):
    """Return the NetParameter of some layers."""
    spec = md.NetSpec("hashed")
    for kind, name, bottoms, tops, settings in layers:
        spec.add(kind, name, bottoms, tops, **settings)
    return spec.to_proto()


RECORDS, TEXT = records(), text()
LOSSES = (layer("SoftmaxWithLoss", "loss", "scores label"),
          layer("Accuracy", "right", "scores label", "right each"))


def classifier(*layers, data=RECORDS, losses=LOSSES):
    """Return a net of data, some layers, a product that makes scores of the last one's top, and losses."""
    return net(data, *layers, ip("scores", layers[-1][3][0], CLASSES), *losses)


def mlp(*kinds, parts="ip29 ReLU drop ip32 ReLU drop", data=RECORDS, losses=LOSSES, **options):
    return classifier(*chain(parts, *kinds, **options), data=data, losses=losses)


def language(kind, around=None, inside=None, more=(), blobs="", tops="r", data=TEXT, units=12, **settings):
    """Return a language model: a recurrent layer, with drops around it and inside, of its state, if given."""
    settings = UNIFORM | ({} if inside is None else {"hidden_dropout": inside}) | settings
    if kind == "RNN":
        settings = {"output_product": False} | settings
    drops = [] if around is None else [drop("drop0", "embed", **around), drop("drop1", "r", **around)]
    judge = {"bottoms": "scores label", "axis": 2, "loss_param": {"ignore_label": -1}}
    return net(data, *more, layer("Embed", "embed", "data", num_output=10, input_dim=WORDS, **UNIFORM),
               *drops[:1], layer(kind, "r", f"embed cont {blobs}", tops, num_output=units, **settings),
               *drops[1:], ip("scores", "r", WORDS, axis=2, **UNIFORM),
               layer("SoftmaxWithLoss", "loss", **judge), layer("Perplexity", "perplexity", **judge))


def left_by(solver):
    """Return everything that training has changed, and the last masks and outputs."""
    trained = solver.net
    return {"weights": {name: parameter.data for name, parameter in trained.parameters().items()},
            "history": solver.updater.history, "states": trained.states, "positions": trained.positions,
            "outputs": {name: trained.blobs[name].numpy() for name in trained.outputs},
            "masks": trained.masks(), "losses": list(solver.losses), "tests": solver.test_all()}


def results(folder, message, arrays=(), inputs=None, prompt="", dtype="float32", dropout=None, **more):
    """Yield (part, value) for all that is hashed; `arrays`: for MemoryData, `prompt`: for a text to write."""
    settings, options = SOLVER | more, {"dropout": dropout, "device": "cpu", "dtype": dtype}
    path = folder / "net.prototxt"      # the whole of it: the working folder may have a file of that name
    path.write_text(str(message))
    (folder / "solver.prototxt").write_text(str(md.SolverParameter(net=str(path), **settings)))
    whole = md.Solver.from_file(folder / "solver.prototxt", **options)
    other = md.Solver(md.SolverParameter(net_param=message, **settings), **options)
    for used in (whole.net, other.net, *whole.test_nets, *other.test_nets):
        if arrays:
            used.set_input_arrays(*arrays)
        if inputs:
            used.set_inputs(**inputs)
    whole.step(4)
    snapshot = whole.snapshot(folder / "half.h5")
    whole.step(4)
    yield from left_by(whole).items()
    other.restore(snapshot)
    other.step(4)
    if fingerprint(left_by(other)) != fingerprint(left_by(whole)):
        raise AssertionError("a run resumed from a snapshot differs from one that was never stopped")
    for masked in (False, True):
        yield f"masked {masked}", run_once(whole.net, 50, inputs, masked)
    found = md.monte_carlo(whole.net, passes=3, start=60)
    for part, values in (("blobs", found.blobs), ("predictions", found.predictions)):
        yield part, {name: asdict(value) for name, value in values.items()}
    yield "evaluation", md.evaluate_monte_carlo(whole.net, iterations=2, passes=2).as_dict() | {"seconds": 0}
    if prompt:
        model = md.TextModel(folder / "net.prototxt", snapshot, device="cpu")
        yield "text", [model.generate(prompt, 20, temperature, seed=2) for temperature in (0, 0.7)]
    whole.close()
    other.close()


def drops():
    """Yield (name, net, options of `results`) for drops: rates, products, settings, sizes, what is around."""
    for kind, rate, dtype in product((*KINDS, "GaussianDropout"), (0.3, 0.5, 0.7), ("float32", "float64")):
        yield f"rate/{kind}/{rate}/{dtype}", mlp(kind, rate=rate), {"dtype": dtype}
    for pair in permutations(KINDS, 2):
        yield f"pair/{'+'.join(pair)}", mlp(*pair), {"dtype": "float64"}
    chains = ("drop", "ReLU drop", "TanH drop", "Sigmoid drop", "leaky drop", "shift drop", "square drop",
              "drop ReLU", "drop Sigmoid", "ReLU TanH drop", "drop drop", "ReLU drop TanH drop",
              "Split drop Softmax", "image drop ReLU", "sequence drop Flatten", "connect ReLU drop")
    for parts, kind, apart in product(chains, KINDS, (False, True)):
        yield f"chain/{parts}/{kind}{'/apart' * apart}", mlp(kind, apart=apart, parts=f"ip24 {parts}"), {}
    products = ({"transpose": True}, {"bias_term": False}, {"axis": 2}, {"propagate_down": [False]},
                {"param": [{"lr_mult": 0}, {"decay_mult": 2}]}, {"param": [{"name": "W"}, {"lr_mult": 2}]})
    for kind, settings in product(KINDS, products):
        parts = "sequence ip6 ReLU drop ip6 drop" if "axis" in settings else "ip24 ReLU drop ip24 TanH drop"
        yield f"product/{settings}/{kind}", mlp(kind, parts=parts, of_product=settings), {"weight_decay": 0.1}
    for kind, dropout in product(KINDS, ("conventional", "approx", "approx:ROW")):
        yield f"converted/{kind}/{dropout}", mlp(kind), {"dropout": dropout}
    distance = layer("EuclideanLoss", "distance", "scores target", loss_weight=0.2)
    several = {"data": records("data label target"), "losses": (*LOSSES, distance)}
    # No blob here has three readers: their gradients may add up in another order in every run.
    sums = ("one two", "SUM", [1, -2]), ("one two", "PROD", []), ("ip one", "MAX", [])
    for kind, (bottoms, operation, coeff) in product(KINDS, sums):
        yield f"graph/{operation} of {bottoms}/{kind}", classifier(
            ip("ip", "data"), drop("drop", "ip", kind, top="drop"), ip("one", "drop"), ip("two", "drop"),
            layer("Eltwise", "sum", bottoms, operation=operation, coeff=coeff),
            layer("Concat", "both", "sum data"), layer("Slice", "cut", "both", "a b c"),
            layer("Silence", "quiet", "b", ""), layer("Concat", "last", "c a"), **several), {"base_lr": 1e-4}
    for kind, settings in (
            ("PERIODIC", {"step": 6}), ("PERIODIC", {"step": 4, "rate": 0.3, "scale": "PATTERN"}),
            ("UNIT", {"reshuffle_interval": 3}), ("ROW", {"max_period": 4}), ("ROW", {"scale": "PATTERN"}),
            ("ROW", {"search": "SGD"}), ("TILE", {"tile_size": 4}), ("BLOCK", {"block_samples": 5}),
            ("BLOCK", {"block_samples": 0, "block_units": 0}), ("Dropout", {"shared": True}),
            ("Dropout", {"axes": [1]}), ("Dropout", {"axes": [2, 3], "shared": True})):
        parts = "image drop" if "axes" in settings else "ip29 ReLU drop ip32 ReLU drop"
        yield f"setting/{kind}/{settings}", mlp(kind, parts=parts, **settings), {}
    sizes = ("tall", 128, 512), ("tall", 2048, 1280), ("wide", 64, 2560)       # the last two use all threads
    for kind, (source, rows, units) in product((*KINDS, "GaussianDropout"), sizes):
        options = {"data": records(source=source, batch_size=rows), "rate": 0.3, **LARGE.get(kind, {})}
        yield f"large/{units}/{kind}", mlp(kind, parts=f"ip{units} ReLU drop", **options), {}


def layers_and_solvers():
    """Yield the same for losses, fillers, data layers, update rules, and other settings of a solver."""
    for mode, (kind, label) in product(("FULL", "VALID", "BATCH_SIZE", "NONE"), (
            ("SoftmaxWithLoss", "label"), ("SigmoidCrossEntropyLoss", "target"))):
        loss = layer(kind, "loss", f"scores {label}", loss_param={"normalization": mode, "ignore_label": 1})
        yield f"loss/{kind}/{mode}", mlp(data=records(f"data {label}"), losses=[loss]), {"base_lr": 0.002}
    for filler in ("constant", "uniform", "gaussian", "positive_unitball", "xavier", "msra"):
        fillers = {"type": filler, "value": 0.1, "max": 0.3, "variance_norm": "AVERAGE"}, {"value": 2}
        data = layer("DummyData", "dummy", "", "data label", shape=[[8, 24], [8]], data_filler=fillers)
        message = mlp(data=data, of_product={"weight_filler": fillers[0]})
        yield f"data/DummyData/{filler}", message, {"base_lr": 1e-4}
    images, labels = np.random.default_rng(8).uniform(0, 16, (40, 2, 3, 4)), np.arange(40) * 7 % CLASSES
    for transform in ({}, {"scale": 0.0625, "mean_value": [3, 5]}, {"crop_size": 2, "mirror": True}):
        settings = {"batch_size": 12, "channels": 2, "height": 3, "width": 4, "transform_param": transform}
        data = layer("MemoryData", "memory", "", "data label", **settings)
        yield f"data/MemoryData/{transform}", mlp(data=data), {"arrays": (images, labels), "base_lr": 0.002}
    for settings in ({"batch_size": 60, "shuffle": True, "prefetch": 1}, {"transform_param": {"scale": 0.5}}):
        yield f"data/HDF5Data/{settings}", mlp(data=records(**settings)), {}
    data = layer("Input", "in", "", "data label", shape=[[6, 24], [6]])
    inputs = {"data": images[:6].reshape(6, 24) / 8 - 1, "label": labels[:6]}
    for kind in KINDS:
        yield f"data/Input/{kind}", mlp(kind, data=data), {"inputs": inputs}
    rules = ({"type": "SGD"}, {"type": "Nesterov"}, {"type": "AdaGrad", "momentum": 0}, {"type": "Adam"},
             {"type": "RMSProp", "momentum": 0, "rms_decay": 0.9}, {"type": "AdaDelta", "delta": 1e-6})
    extras = ({}, {"weight_decay": 0.1}, {"weight_decay": 0.1, "regularization_type": "L1"}, {"iter_size": 2},
              {"clip_gradients": 0.5}, {"iter_size": 2, "clip_gradients": 0.5, "weight_decay": 0.1})
    for rule, extra, kind in product(rules, extras, ("UNIT", "TILE", "BLOCK")):
        reshuffle = {"reshuffle_interval": 3} if kind == "UNIT" else {}
        yield f"solver/{rule['type']}/{extra}/{kind}", mlp(kind, **reshuffle), rule | extra
    for settings in ({"momentum": 0}, {"lr_policy": "step", "gamma": 0.5, "stepsize": 2},
                     {"lr_policy": "exp", "gamma": 0.9}, {"lr_policy": "inv", "gamma": 0.1, "power": 0.75},
                     {"lr_policy": "poly", "power": 2}, {"lr_policy": "sigmoid", "gamma": -1, "stepsize": 4},
                     {"lr_policy": "multistep", "gamma": 0.3, "stepvalue": [2, 5]}):
        yield f"solver/{settings}", mlp(*KINDS), settings


def sequences():
    """Yield the same for recurrent layers: drops of inputs and states, directions, further bottoms, texts."""
    noise = layer("DummyData", "noise", "", "static h0 c0", shape=[[4, 3], [1, 4, 12], [1, 4, 12]],
                  data_filler={"type": "gaussian"})
    states = (None, {}, {"time": "STEP"}, {"pattern": "UNIT"}, {"pattern": "ROW", "time": "STEP"})
    for kind in ("LSTM", "GRU", "RNN"):
        exposed = {"blobs": "h0", "tops": "r h1", "loss_weight": [0, 0.1]}
        if kind == "LSTM":
            exposed = {"blobs": "h0 c0", "tops": "r h1 c1", "loss_weight": [0, 0.1, 0.2]}
        nets = {"plain": {}, "both": {"bidirectional": True}, "static": {"more": [noise], "blobs": "static"},
                "exposed": {"more": [noise], "expose_hidden": True} | exposed,
                "conventional": {"hidden_dropout_type": "CONVENTIONAL"}, "many": {"data": text(64, 16)}}
        for state, (name, settings) in product(states, nets.items()):
            if name != "conventional" or state is not None:
                around = {"time": "STEP", "step": 2} if name == "many" else {"kind": "UNIT", "rate": 0.3}
                yield f"{kind}/{name}/{state}", language(kind, around, state, **settings), {}
        for family, at in product(FAMILIES, ("SEQUENCE", "STEP")):
            if at == "SEQUENCE" or family not in SMALL:
                message = language(kind, {"kind": family, "time": at}, {"pattern": "SLICE"})
                yield f"{kind}/inputs/{family}/{at}", message, {"dtype": "float64"}
        if kind == "RNN":
            nets = {"output": {}, "output both": {"bidirectional": True}}
            for state, (name, more) in product(states, nets.items()):
                message = language(kind, {"kind": "UNIT"}, state, output_product=True, **more)
                yield f"RNN/{name}/{state}", message, {}
        for settings in ({}, {"sentences": True, "shuffle": True, "vocabulary_size": 15},
                         {"level": "CHARACTER", "begin": 0.1, "end": 0.8}):
            message = language(kind, {}, {"time": "STEP"}, data=text(4, 7, **settings))
            yield f"{kind}/text/{settings}", message, {"prompt": "w1 w2"}
    yield "large/LSTM", language("LSTM", {}, {}, data=text(64, 12), units=256), {}


CASES = {name: rest for part in (drops, layers_and_solvers, sequences) for name, *rest in part()}


def fingerprint(value):
    """Return a hash of a number, a text or an array, or of a list or dict of such."""
    if isinstance(value, dict):
        value = [(str(key), value[key]) for key in sorted(value, key=str)]
    if isinstance(value, list | tuple):
        content = " ".join(map(fingerprint, value)).encode()
    else:
        array = np.asarray("None" if value is None else value)
        content = f"{array.dtype.str} {array.shape} ".encode() + array.tobytes()
    return hashlib.sha256(content).hexdigest()[:16]


def run_case(name):
    """Return {part: hash} of a configuration, or {"failed": what went wrong}."""
    message, options = CASES[name]
    try:
        with tempfile.TemporaryDirectory() as folder:
            return {part: fingerprint(value) for part, value in results(Path(folder), message, **options)}
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {error}"}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", help="write the hashes to a file")
    parser.add_argument("--compare", help="compare with the hashes in a file; exit with 1 if any differs")
    parser.add_argument("--filter", default="", help="only configurations whose name contains this")
    parser.add_argument("--jobs", type=int, default=1, help="number of processes")
    options = parser.parse_args()
    print(f"minidrop {md.__version__} from {md.__file__}", file=sys.stderr)
    begin, found, wrong = time.perf_counter(), {}, []
    with tempfile.TemporaryDirectory() as folder:
        write_data(Path(folder))
        os.environ["MINIDROP_CACHE"] = folder       # where the sources that nets name are looked for
        with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
            names = [name for name in CASES if options.filter in name]
            for name, parts in zip(names, pool.map(run_case, names), strict=True):
                found[name] = parts
                print(f"{name}  {parts.get('failed') or fingerprint(parts)}", flush=True)
                wrong += [f"failed: {name}"] if "failed" in parts else []
    print(f"{len(found)} configurations in {time.perf_counter() - begin:.0f} s", file=sys.stderr)
    if options.out:
        Path(options.out).write_text(json.dumps(found, indent=1))
    before = json.loads(Path(options.compare).read_text()) if options.compare else found
    for name in sorted(name for name in before.keys() | found.keys() if options.filter in name):
        old, new = before.get(name, {}), found.get(name, {})
        parts = [part for part in old | new if old.get(part) != new.get(part)]
        if parts:
            wrong.append(f"differs: {name}: {', '.join(parts)}" if old and new else f"missing: {name}")
    print(*wrong, sep="\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
