"""EMA: exponential moving averages of weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from minidrop.autograd import Parameter
from minidrop.config.numbers import real_number
from minidrop.errors import ConfigError, SnapshotError, fits_into_memory
from minidrop.solver.named import Parameters, check_unmoved, checked_state, named_parameters


class EMA:
    """Exponential moving averages of parameters, which often test better than the weights themselves.

        average += (1 - d) * (w - average)
        d = decay,  with warmup: d = min(decay, (1 + t) / (10 + t)),  t = updates before this one

    The averages begin as the weights at the time of construction. With warmup the first updates forget them
    quickly: without it they weigh decay**t after t updates.

    params: {name: Parameter}, pairs or Parameters. decay: 0 <= decay < 1, such as 0.999. `averages[name]` is
    an array on the parameter's device, in its dtype. Raises ConfigError for another decay.

    Source: Polyak and Juditsky 1992 for averages of weights; this form, and the warm-up, as
    tf.train.ExponentialMovingAverage has them.
    """

    def __init__(self, params: Parameters, decay: float, warmup: bool = False):
        self.decay = decay
        self.parameters, self.warmup = named_parameters(params), warmup
        self.updates = 0
        with fits_into_memory("EMA: the averages of the weights"):
            self.averages = {name: self._copy(p) for name, p in self.parameters.items()}
        self._weights: dict[str, np.ndarray] | None = None      # while the averages are applied

    @property
    def decay(self) -> float:
        """The decay of the next updates; it may be set at any time. Raises ConfigError."""
        return self._decay

    @decay.setter
    def decay(self, value: float) -> None:
        self._decay = real_number("EMA: decay", value, "a number from 0 to below 1", lambda d: 0 <= d < 1)

    @property
    def rate(self) -> float:
        """1 - d of the next update: the share of the weights in the new averages."""
        d = min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.warmup else self.decay
        return 1 - d

    @property
    def is_applied(self) -> bool:
        """Whether the parameters hold the averages now, see `applied`."""
        return self._weights is not None

    def update(self) -> None:
        """Take the present weights into the averages.

        Raises ConfigError while the averages are applied, and if the weights are in another dtype now.
        """
        self._refuse_applied("update")
        check_unmoved("EMA", self.parameters, {name: [average] for name, average in self.averages.items()})
        rate = self.rate
        for average, parameter, backend in self._pairs():
            with backend.active():
                change = parameter.data - average
                change *= average.dtype.type(rate)
                average += change
        self.updates += 1

    def update_on_device(self, rate: np.ndarray) -> None:
        """Update as `update` does, without counting, for captured steps: not after an error on the device.

        rate: a float64 array (1,) on the device, see `rate`.
        """
        for average, parameter, backend in self._pairs():
            change = parameter.data - average
            change *= rate.astype(average.dtype)
            change += average
            backend.keep_if_well(average, change)

    def _pairs(self):
        """Yield (average, parameter, backend)."""
        return ((self.averages[name], parameter, parameter.backend)
                for name, parameter in self.parameters.items())

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within this context the parameters hold the averages; then they hold their weights again.

        The arrays stay the same, so that nets that share them see the averages too. What is written to the
        parameters within the context is lost. Raises ConfigError if they are applied already.
        """
        self._refuse_applied("applied")
        with fits_into_memory("EMA: a copy of the weights"):
            self._weights = {name: self._copy(p) for name, p in self.parameters.items()}
        with Parameter.other_values(self.parameters.values()):
            try:
                self._write(self.averages)
                yield
            finally:
                self._write(self._weights)
                self._weights = None

    @contextmanager
    def withheld(self) -> Iterator[None]:
        """Within this context the parameters hold their weights, even if it is entered within `applied`."""
        if self._weights is None:
            yield
            return
        weights, self._weights = self._weights, None
        with Parameter.other_values(self.parameters.values()):
            try:
                self._write(weights)
                yield
            finally:
                self._write(self.averages)
                self._weights = weights

    def copy_to_parameters(self) -> None:
        """Replace the weights by the averages, for good. Raises ConfigError within `applied`."""
        self._refuse_applied("copy_to_parameters")
        self._write(self.averages)
        for parameter in self.parameters.values():
            parameter.note_change()

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return {"updates": (1,) int64, "average/NAME": array} as host arrays of their own."""
        averages = {f"average/{name}": np.array(self.parameters[name].backend.to_host(average))
                    for name, average in self.averages.items()}
        return {"updates": np.array([self.updates], np.int64), **averages}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned, bit for bit; decay and warmup stay those of this object.

        Raises SnapshotError, with nothing changed, if it is not the state of these parameters.
        """
        expected = {"updates": np.zeros(1, np.int64),
                    **{f"average/{name}": average for name, average in self.averages.items()}}
        found = checked_state("EMA", state, expected)
        if (updates := int(found["updates"][0])) < 0:
            raise SnapshotError(f"EMA: 'updates': expected a number >= 0, got {updates}")
        self.updates = updates
        for name, average in self.averages.items():
            backend = self.parameters[name].backend
            with backend.active():
                average[...] = backend.asarray(found[f"average/{name}"], average.dtype)

    def __repr__(self):
        count = len(self.parameters)
        return (f"EMA({count} parameter{'s' * (count != 1)}, decay={self.decay:g}"
                f"{', warmup=True' if self.warmup else ''}, updates={self.updates})")

    def _refuse_applied(self, what):
        if self.is_applied:
            raise ConfigError(f"EMA.{what}: the parameters hold the averages now; leave `with "
                              f"ema.applied():` first")

    def _write(self, arrays):
        for name, parameter in self.parameters.items():
            with parameter.backend.active():
                parameter.data[...] = arrays[name]

    @staticmethod
    def _copy(parameter):
        with parameter.backend.active():
            return parameter.data.copy()
