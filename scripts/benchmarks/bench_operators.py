"""What the operators of small tensors cost, in microseconds, beside those of arrays and of PyTorch's tensors.

    python scripts/benchmarks/bench_operators.py [--size 8] [--repeats 20]

Each operator runs on square float32 tensors of which one requires a gradient, so that the graph is recorded:
"forward" is the call alone, "and backward" also the backward pass from the sum of its result. "array" is the
same on NumPy arrays, where it has the operator. All take turns, and the least of the repeats counts. Without
PyTorch its columns are empty.
"""

import argparse
import timeit

import numpy as np

import minidrop as md

try:
    import torch
except ImportError:
    torch = None

CASES = {
    "x + y": lambda T, x, y: x + y,
    "x + row": lambda T, x, y: x + y[0],
    "x * y": lambda T, x, y: x * y,
    "x / y": lambda T, x, y: x / y,
    "x + 2": lambda T, x, y: x + 2,
    "2 - x": lambda T, x, y: 2 - x,
    "x ** 2": lambda T, x, y: x ** 2,
    "-x": lambda T, x, y: -x,
    "abs(x)": lambda T, x, y: abs(x),
    "x > y": lambda T, x, y: x > y,
    "x @ y": lambda T, x, y: x @ y,
    "x[0]": lambda T, x, y: x[0],
    "x[[0, 1, 1]]": lambda T, x, y: x[[0, 1, 1]],
    "x.T": lambda T, x, y: x.T,
    "x.reshape(-1)": lambda T, x, y: x.reshape(-1),
    "x.sum()": lambda T, x, y: x.sum(),
    "x.mean(1)": lambda T, x, y: x.mean(1),
    "exp(x)": lambda T, x, y: T.exp(x),
    "tanh(x)": lambda T, x, y: T.tanh(x),
    "where(x > y, x, y)": lambda T, x, y: T.where(x > y, x, y),
    "softmax(x, 1)": lambda T, x, y: T.softmax(x, 1),
}


def per_call(calls, repeats, number=200):
    """Return {name: microseconds of a call}, the least of `repeats` runs that take turns."""
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(repeats):
        for name, call in calls.items():
            best[name] = min(best[name], timeit.timeit(call, number=number) / number * 1e6)
    return best


def ways(case, size):
    """Return {(library, what): a call} of one operator."""
    a, b = (np.random.default_rng(seed).uniform(0.5, 2, (size, size)).astype(np.float32) for seed in (0, 1))
    x, y = md.Tensor(a, requires_grad=True), md.Tensor(b)
    found = {("minidrop", "forward"): lambda: case(md.functions, x, y),
             ("minidrop", "backward"): lambda: case(md.functions, x, y).sum().backward()}
    if torch:
        p, q = torch.tensor(a, requires_grad=True), torch.tensor(b)
        found |= {("PyTorch", "forward"): lambda: case(torch, p, q),
                  ("PyTorch", "backward"): lambda: case(torch, p, q).sum().backward()}
    try:
        case(np, a, b)
        found["array", "forward"] = lambda: case(np, a, b)
    except AttributeError:          # NumPy has no softmax
        pass
    if not case(md.functions, x, y).requires_grad:
        found = {key: call for key, call in found.items() if key[1] == "forward"}
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=8, help="rows and columns")
    parser.add_argument("--repeats", type=int, default=20, help="runs of 200 calls; the least counts")
    options = parser.parse_args()
    if torch:
        torch.set_num_threads(1)
    columns = [("array", "forward"), ("minidrop", "forward"), ("PyTorch", "forward"),
               ("minidrop", "backward"), ("PyTorch", "backward")]
    print("microseconds | array | minidrop | PyTorch | minidrop and backward | PyTorch and backward")
    print("---|---|---|---|---|---")
    for name, case in CASES.items():
        found = per_call(ways(case, options.size), options.repeats)
        cells = [f"{found[key]:.1f}" if key in found else "-" for key in columns]
        print(" | ".join([name, *cells]), flush=True)


if __name__ == "__main__":
    main()
