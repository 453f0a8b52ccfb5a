"""Timing training steps: comparing several in one run, and profiling where the time of one goes.

Machines change speed during a measurement. So the candidates take turns in short blocks; only then are ratios
meaningful. The device is synchronized before and after each timed step.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.backend import Backend

if TYPE_CHECKING:
    from minidrop.net.net import Net


@dataclass(frozen=True)
class Timing:
    """Seconds per step over `count` steps.

    Use the mean if steps differ by design, as with patterns of several periods; the median is more stable if
    all steps do the same work.
    """

    median: float
    mean: float
    p10: float
    p90: float
    count: int

    @classmethod
    def of(cls, seconds: Any) -> Any:
        """Return the Timing of a list of seconds."""
        p10, median, p90 = np.percentile(seconds, (10, 50, 90)).tolist()
        return cls(median, float(np.mean(seconds)), p10, p90, len(seconds))


def measure_steps(steps: Any, iterations: int = 100, warmup: int = 5, block: int = 5,
                  synchronize: Any = lambda: None) -> Any:
    """Return {name: Timing} of functions without arguments, with `iterations` timed calls of each.

    They take turns in blocks of `block` calls; the order is reversed after each round. With several functions
    an extra call before each block is not timed: it finds the caches full of another function's data.
    `synchronize` waits for the device.
    """
    for step in steps.values():
        for _ in range(warmup):
            step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    order = list(steps)
    left = iterations
    while left > 0:
        for name in order:
            if len(order) > 1:
                steps[name]()
            for _ in range(min(block, left)):
                synchronize()
                start = time.perf_counter()
                steps[name]()
                synchronize()
                seconds[name].append(time.perf_counter() - start)
        left -= block
        order.reverse()
    return {name: Timing.of(values) for name, values in seconds.items()}


@dataclass
class Profile:
    """Where the seconds of a step go: forward, backward and update of each layer, and all matrix products."""

    step: float = 0.0
    gemm: float = 0.0
    layers: dict = field(default_factory=dict)      # {layer: {"forward": s, "backward": s, "update": s}}

    @property
    def gemm_share(self) -> float:
        """The share of the step spent in matrix products."""
        return self.gemm / self.step if self.step else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return plain numbers for JSON, in seconds."""
        return {**asdict(self), "gemm_share": self.gemm_share}


def profile_steps(net: Net, step: Any, iterations: int = 20, rule: Any = None) -> Any:
    """Return the Profile of `iterations` calls of `step`, which runs `net` and perhaps the solver's `rule`.

    Timing every part has a cost of its own: use `measure_steps` to learn how long a step takes.
    """
    clock = Clock(net.backend.synchronize)
    with ExitStack() as stack:
        stack.enter_context(timed_layers(clock, net))
        for name, timed in _timed_products(clock, net.backend):
            stack.enter_context(replaced(net.backend, name, timed))
        if rule is not None:
            stack.enter_context(replaced(rule, "update", clock.timed(
                rule.update, lambda _backend, parameter, *_: ("update", parameter.name.rsplit(".", 1)[0]))))
        run = clock.timed(step, lambda: ("step", ""))
        for _ in range(iterations):
            run()
    parts = {key: value / iterations for key, value in clock.seconds.items()}
    layers = {node.name: {part: parts.get((part, node.name), 0.0)
                          for part in ("forward", "backward", "update")}
              for node in net.graph.nodes}
    return Profile(parts.get(("step", ""), 0.0), parts.get(("gemm", ""), 0.0), layers)


class Clock:
    """Accumulates the seconds that functions take, by key. Waits for the device before and after each."""

    def __init__(self, synchronize: Callable[[], object]):
        self.synchronize = synchronize
        self.seconds: defaultdict[tuple[str, str], float] = defaultdict(float)

    def timed(self, function: Callable, key_of: Callable[..., tuple[str, str]]) -> Callable:
        """Return the function, timed; key_of is called with the same arguments."""
        def timed(*args, **keywords):
            self.synchronize()
            start = time.perf_counter()
            try:
                return function(*args, **keywords)
            finally:
                self.synchronize()
                self.note(key_of(*args, **keywords), start, time.perf_counter())
        return timed

    def note(self, key: tuple[str, str], start: float, end: float) -> None:
        """Take in that something ran from `start` to `end`."""
        self.seconds[key] += end - start


@contextmanager
def timed_layers(clock: Clock, net: Net) -> Iterator[None]:
    """Within this context the passes of a net are timed layer by layer: ("forward" or "backward", layer)."""
    with ExitStack() as stack:
        for node in net.graph.nodes:
            stack.enter_context(replaced(node.layer, "forward", _timed_layer(clock, node)))
        yield


def _timed_products(clock, backend):
    """Yield (name, timed method) of all matrix products of a device; nested calls count once."""
    inside = []

    def once(function):
        timed = clock.timed(function, lambda *_, **__: ("gemm", ""))

        def outermost(*args, **keywords):
            if inside:
                return function(*args, **keywords)
            inside.append(function)
            try:
                return timed(*args, **keywords)
            finally:
                inside.pop()
        return outermost

    yield "gemm", once(backend.gemm)
    # The generic versions are gemm plus other work, which does not count; overrides are products themselves,
    # or those of convolutions together with what gathers their windows.
    for name in ("thin_gemm", "gemms", "block_product", "convolve", "convolve_gradients"):
        if getattr(type(backend), name) is not getattr(Backend, name):
            own = getattr(backend, name)
            yield name, once((lambda products, own=own: list(own(products))) if name == "gemms" else own)


def _timed_layer(clock, node):
    """Return the layer's forward, timed; it also makes every function it called time its backward."""
    forward = clock.timed(node.layer.forward, lambda *_: ("forward", node.name))

    def timed(*bottoms):
        tops = forward(*bottoms)
        below = {id(bottom.creator) for bottom in bottoms if bottom.creator is not None}
        waiting = [top.creator for top in (tops if isinstance(tops, tuple) else (tops,))]
        while waiting:
            function = waiting.pop()
            if function is not None and id(function) not in below:
                below.add(id(function))
                function.watch_backward(
                    lambda backward: clock.timed(backward, lambda *_: ("backward", node.name)))
                waiting += [tensor.creator for tensor in function.inputs or ()]
        return tops
    return timed


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Temporarily shadow a class attribute with the attribute `name` on the instance `owner`."""
    setattr(owner, name, value)
    try:
        yield
    finally:
        delattr(owner, name)
