#!/usr/bin/env python
"""minidrop as a library, from the highest floor to the lowest: four short programs on scikit-learn's digits.

    python scripts/train_embedded.py

Each function stands alone and may be copied into a project. Nothing is downloaded; it takes a few seconds.
"""

import minidrop as md

# isort: split
import tempfile
from pathlib import Path

import numpy as np

from minidrop.config import SolverParameter
from minidrop.data.prepare import load_digits, prepare
from minidrop.patterns import NOTHING, DropSite, PatternSettings

MODEL = Path(__file__).resolve().parents[1] / "models" / "digits_mlp"


def net_from_a_file():
    """Run one iteration of a network file, look at what was drawn, and check it against the same net with
    masks."""
    net = md.Net.from_file(MODEL / "train_val.prototxt", phase="TRAIN", device="cpu", dtype="float64", seed=0)
    net.draw_patterns(iteration=0)
    net.forward()
    net.backward()
    loss, gradient = net.loss, net.params["ip2"]["weight"].grad.copy()
    kept = net.blobs["ip1"].kept     # drop1 works in place, on what ip1 and relu1 wrote
    print(f"drop1 keeps {kept.count} of {kept.total} units: physical {net.blobs['ip1'].data.shape}, "
          f"logical {net.blobs['ip1'].numpy().shape}, mask {net.masks()['drop1'].shape}")

    net.run_masked_dense()           # the same patterns as explicit masks, every product whole
    net.clear_grads()
    net.seek(0)                      # the same batch
    net.forward()
    net.backward()
    difference = abs(net.params["ip2"]["weight"].grad - gradient).max()
    print(f"loss {loss:.6f}, with masks {net.loss:.6f}; largest difference of a gradient of ip2 "
          f"{difference:.1e}")
    net.close()
    return difference


def solver_from_a_file():
    """Train with a solver file, listen to it, and go on from a snapshot."""
    overrides = {"max_iter": 200, "display": 50, "test_interval": 100}
    with tempfile.TemporaryDirectory() as folder:
        solver = md.Solver.from_file(MODEL / "solver.prototxt", overrides, dropout="approx:PERIODIC",
                                     device="cpu", snapshot_prefix=f"{folder}/digits")

        @solver.add_callback
        def report(event):
            if event.kind in ("display", "test"):
                values = ", ".join(f"{name} {value:.4f}" for name, value in event.values.items())
                print(f"  {event.kind} at iteration {event.iteration}: {values}")

        solver.step(100)
        half_way = solver.snapshot()
        result = solver.solve()
        weight = solver.net.params["ip3"]["weight"].data.copy()

        solver.callbacks.clear()
        solver.restore(half_way)     # back at iteration 100: the same batches, patterns and history follow
        solver.solve()
        same = np.array_equal(weight, solver.net.params["ip3"]["weight"].data)
        solver.close()
    print(f"test accuracy {result['accuracy']:.4f}; trained again from the snapshot, equal bit for bit: "
          f"{same}")
    return same


def digits_mlp(hidden=256, batch_size=64):
    """Describe a net in Python; the result is what a file would hold."""
    n = md.NetSpec("digits_in_memory")
    n.data, n.label = md.L.MemoryData(ntop=2, batch_size=batch_size, channels=1, height=8, width=8,
                                      transform_param={"scale": 1 / 16})
    bottom = n.data
    for i in (1, 2):
        n[f"ip{i}"] = md.L.InnerProduct(bottom, num_output=hidden, weight_filler={"type": "msra"})
        n[f"relu{i}"] = md.L.ReLU(n[f"ip{i}"], in_place=True)
        bottom = n[f"drop{i}"] = md.L.ApproxDropout(n[f"relu{i}"], dropout_ratio=0.5, in_place=True)
    n.score = md.L.InnerProduct(bottom, num_output=10, weight_filler={"type": "msra"})
    n.accuracy = md.L.Accuracy(n.score, n.label, include=[{"phase": "TEST"}])
    n.loss = md.L.SoftmaxWithLoss(n.score, n.label)
    return n


def net_built_in_python(train, test):
    """Train a net that was never a file, on arrays that were never a file."""
    settings = SolverParameter(net_param=digits_mlp().to_proto(), base_lr=0.02, lr_policy="fixed",
                               momentum=0.9, max_iter=300, test_interval=300, test_iter=[5], random_seed=1,
                               snapshot_after_train=False, test_initialization=False)
    solver = md.Solver(settings, device="cpu")
    solver.net.set_input_arrays(train[0][:, None], train[1])
    solver.test_nets[0].set_input_arrays(test[0][:, None], test[1])
    accuracy = solver.solve()["accuracy"]
    print(f"test accuracy {accuracy:.4f} after {solver.iteration} iterations")
    return accuracy


def no_net_at_all(train, test, hidden=512, batch_size=64, lr=0.1, iterations=400):
    """A training loop on md.Tensor and md.functions alone: compact products without a layer or a file."""
    F, rng = md.functions, np.random.default_rng(0)

    def weights(outputs, inputs):
        scale = np.sqrt(2 / inputs)
        return (md.Parameter((rng.standard_normal((outputs, inputs)) * scale).astype(np.float32)),
                md.Parameter(np.zeros(outputs, np.float32)))

    (W1, b1), (W2, b2) = weights(hidden, 64), weights(10, hidden)
    site = DropSite("drop", PatternSettings(rate=0.5), seed=0, total=hidden)

    def scores(images, drop):
        x = md.Tensor(images.reshape(-1, 64).astype(np.float32) / 16)
        h = F.relu(F.linear(x, W1, b1, outputs=drop.kept))     # computes only the units that live
        return F.linear(F.approx_dropout(h, drop), W2, b2)      # reads only those

    images, labels = train
    for iteration in range(iterations):
        rows = rng.integers(len(images), size=batch_size)
        drop = site.draw(iteration)
        loss = F.softmax_cross_entropy(scores(images[rows], drop), md.Tensor(labels[rows]))
        loss.backward()
        for parameter in (W1, b1, W2, b2):
            parameter.data -= np.float32(lr) * parameter.grad
            parameter.clear_grad()

    with md.no_grad():
        accuracy = float(F.accuracy(scores(test[0], NOTHING), md.Tensor(test[1])))     # as in phase TEST
    print(f"loss {float(loss):.4f}, test accuracy {accuracy:.4f} after {iterations} iterations")
    return accuracy


def main():
    prepare("digits")                # the files that models/digits_mlp names
    digits = load_digits()           # the same records as arrays
    print("\n1. A net from a file")
    net_from_a_file()
    print("\n2. A solver from a file, with a callback and a snapshot")
    solver_from_a_file()
    print("\n3. A net built in Python, on arrays")
    net_built_in_python(digits["train"], digits["test"])
    print("\n4. No net at all: tensors and functions")
    no_net_at_all(digits["train"], digits["test"])


if __name__ == "__main__":
    main()
