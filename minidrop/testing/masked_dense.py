"""The contract of the project as a function: the compacted net equals the dense net with the explicit
mask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from minidrop.net.net import Net


def run_once(net: Net, iteration: int, inputs: Any = None,
             masked: bool = False) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Run one forward and backward pass at fixed data; returns (outputs, gradients), dicts of NumPy arrays.

    Outputs are those of the net and "loss", the weighted sum of its losses; gradients are every parameter's
    and, as "input/NAME", those of the inputs. `masked`: compute everything and multiply by explicit masks.
    """
    from minidrop.autograd import Tensor
    from minidrop.net.given import given_net
    given_net(net)
    inputs = {name: Tensor(net.backend.asarray(x, net.dtype), requires_grad=np.asarray(x).dtype.kind == "f",
                           backend=net.backend)
              for name, x in (inputs or {}).items()}
    positions, states = net.positions, net.states
    statistics = [(parameter, parameter.data.copy()) for parameter in net.statistics()]
    net.run_masked_dense(masked)
    try:
        net.clear_grads()
        net.draw_patterns(iteration)
        results = {name: tensor.numpy() for name, tensor in net.forward(**inputs).items()}
        results["loss"] = np.asarray(net.loss)
        net.backward()
    finally:
        net.run_masked_dense(False)
        net.seek(positions)
        net.set_states(states)
        for parameter, before in statistics:
            parameter.data[...] = before
    gradients = {name: net.backend.to_host(parameter.dense_grad())
                 for name, parameter in net.parameters().items()}
    gradients.update({f"input/{name}": net.backend.to_host(tensor.grad) for name, tensor in inputs.items()
                      if tensor.grad is not None})
    return results, gradients


def assert_matches_masked_dense(net: Net, iteration: int, inputs: dict[str, np.ndarray] | None = None,
                                tolerance: float = 1e-9) -> None:
    """Check outputs, loss and every gradient of `net` at `iteration` against the same net run dense with
    explicit masks.

    `inputs`: arrays for the Input layers; nets with data layers read the same batch in both runs. The largest
    absolute difference may be `tolerance` times the largest value of the dense result (or 1, if that is
    larger). Raises AssertionError naming the array.
    """
    compact_results, compact_gradients = run_once(net, iteration, inputs)
    dense_results, dense_gradients = run_once(net, iteration, inputs, masked=True)
    for kind, compact, dense in (("output", compact_results, dense_results),
                                 ("gradient", compact_gradients, dense_gradients)):
        if set(compact) != set(dense):
            raise AssertionError(f"{kind}s differ: {sorted(compact)} compact, {sorted(dense)} dense")
        for name, expected in dense.items():
            bound = tolerance * max(1.0, float(np.abs(expected).max(initial=0)))
            found = compact[name]
            # What NumPy's assertion says takes it as long as a small net's run.
            if not (found.shape == expected.shape and bound < np.inf
                    and (np.abs(found - expected) <= bound).all()):
                np.testing.assert_allclose(found, expected, rtol=0, atol=bound,
                                           err_msg=f"{kind} {name} at iteration {iteration}")
