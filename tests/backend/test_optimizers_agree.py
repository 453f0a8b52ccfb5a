"""Optimizers, clipping and averages on a device whose arrays never become NumPy's by themselves."""

import nets
import numpy as np
import pytest

from minidrop import optim

LAYERS = (nets.IMAGES, nets.ip("ip1", "data", 24), nets.drop("drop1", "ip1", "PERIODIC groups: 3"),
          nets.ip("ip2", "drop1", 7), nets.LOSS % "ip2")


def train(device, make, steps=4):
    """Return weights, averages, what the optimizer keeps, and the norms of gradients, as host arrays."""
    net = nets.net_of(*LAYERS, device=device, seed=3)
    net.set_inputs(**nets.images())
    optimizer, norms = make(net.parameters()), []
    ema, schedule = optim.EMA(net.parameters(), 0.8), optim.schedulers.cosine(optimizer, 9, warmup_iter=2)
    for i in range(steps):
        net.draw_patterns(i)
        net.forward()
        net.backward()
        norms.append(optim.clip_grad_norm(optimizer.parameters, 0.7))
        optimizer.step()
        schedule.step()
        ema.update()
    found = {name: p.numpy().copy() for name, p in net.parameters().items()}
    with ema.applied():
        found |= {f"applied {name}": p.numpy().copy() for name, p in net.parameters().items()}
    with optimizer.restored():
        net.forward()
        net.backward()
        optimizer.step()
    other = make(net.parameters())
    other.load_state_dict(optimizer.state_dict())
    ema.load_state_dict(ema.state_dict())
    found |= {f"restored {name}": p.numpy().copy() for name, p in net.parameters().items()}
    return {**found, **other.state_dict(), **ema.state_dict(), "norms": np.array(norms)}


@pytest.mark.parametrize("make", [
    lambda params: optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.01),
    lambda params: optim.Nesterov(params, lr=0.1, form="pytorch", weight_decay=0.01, l1=True),
    lambda params: optim.Adam(params, lr=0.02, form="pytorch"),
    lambda params: optim.AdamW([{"params": [(name, p) for name, p in params.items() if p.ndim == axes],
                                 "weight_decay": 0.01 * axes} for axes in (1, 2)]),
], ids=["SGD", "Nesterov", "Adam", "AdamW"])
def test_they_give_what_the_cpu_gives(recorded_cuda, make):
    expected, found = train("cpu", make), train(recorded_cuda(), make)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert type(found[name]) is np.ndarray
        np.testing.assert_allclose(found[name], value, rtol=1e-9, atol=1e-12, err_msg=name)
    assert max(expected["norms"]) > 0.7
