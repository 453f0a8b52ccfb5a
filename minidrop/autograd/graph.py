"""The backward pass: deliver gradients from results to leaves, newest function first."""

from __future__ import annotations

import functools
import heapq
import inspect
import itertools
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.autograd.block import Block, Blocks
from minidrop.errors import GraphError, MinidropError, ShapeError, in_short, kind_of

if TYPE_CHECKING:
    from minidrop.autograd.function import Function
    from minidrop.autograd.tensor import Tensor


clock = itertools.count(1)      # functions, and changes of parameters, in the order in which they happen


class _State(threading.local):
    recording = True


_state = _State()


def is_recording() -> bool:
    """True if functions remember their inputs for a backward pass."""
    return _state.recording


class no_grad:
    """Within this context nothing is remembered for a backward pass, in this thread.

    As a decorator, `@no_grad()` or `@no_grad`, it holds in each call of a function, and in a generator
    wherever that runs.
    """

    def __new__(cls, function: Callable | None = None) -> Any:
        if function is None:
            return super().__new__(cls)
        if not callable(function):
            raise TypeError(f"no_grad takes a function, as a decorator, or nothing; got {in_short(function)}")
        return cls()(function)

    def __init__(self) -> None:
        self._before: list[bool] = []

    def __enter__(self) -> None:
        self._before.append(_state.recording)
        _state.recording = False

    def __exit__(self, *error: object) -> None:
        _state.recording = self._before.pop()

    def __call__(self, function: Callable) -> Any:
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            with no_grad():
                return function(*args, **kwargs)

        @functools.wraps(function)
        def steps(*args: Any, **kwargs: Any) -> Any:
            return (yield from _without_grad(function(*args, **kwargs)))

        return steps if inspect.isgeneratorfunction(function) else run


def _without_grad(running):
    """Yield what a generator yields, each step of which runs under no_grad."""
    step = functools.partial(next, running)
    while True:
        with no_grad():
            try:
                found = step()
            except StopIteration as end:
                return end.value
        try:
            step = functools.partial(running.send, (yield found))
        except GeneratorExit:
            running.close()
            raise
        except BaseException as error:
            step = functools.partial(running.throw, error)


class Watch:
    """What is told of a backward pass while it runs; does nothing itself."""

    def begin(self, leaves: Iterable[Tensor]) -> None:
        """The pass begins, and may reach these leaves; the gradients of all others stay as they are."""

    def has_run(self) -> None:
        """A function has run backward."""

    def complete(self, leaf: Tensor) -> None:
        """No function that has yet to run reads this leaf: its gradient is complete."""


def backward(seeds: list[tuple[Tensor, np.ndarray]],
             failed: Callable[[Function, Exception], object] = lambda function, error: None,
             watch: Watch | None = None) -> None:
    """Run the backward pass from `seeds`, pairs (tensor, gradient array of the tensor's physical shape).

    A function runs once, after all readers of its outputs: their `rank` is higher, because a rank is one more
    than the highest among the creators of the inputs. Gradients reach the leaves through `accumulate`. The
    graph is taken apart on the way, so that memory is freed early; a second backward needs a second forward.
    Where a function fails for a user's mistake or for want of memory, failed(function, error) may raise
    another error. `watch` is told of what has run, and once of each leaf.
    """
    left = _readers(seeds) if watch is not None else {}
    waiting = {}         # Function -> gradients of its outputs
    # A heap of (-rank, -age, Function): the order of sums must not depend on addresses.
    order: list[tuple[int, int, Function]] = []

    def deliver(tensor, gradient, others):
        """Add a gradient to those of a tensor; others: arrays with which a `grad` may not share memory."""
        function = tensor.creator
        if function is None:
            if tensor.requires_grad:
                tensor.accumulate(_apart(tensor.backend, gradient, others))
            return
        gradient = tensor.as_array(gradient)
        if function not in waiting:
            waiting[function] = [None] * function.outputs_count
            heapq.heappush(order, (-function.rank, -function.age, function))
        gradients, i = waiting[function], tensor.output_index
        gradients[i] = gradient if gradients[i] is None else tensor.backend.add(gradients[i], gradient)

    def run(function):
        gradients = waiting.pop(function)
        inputs = function.inputs
        if inputs is None:
            raise GraphError(f"{type(function).__name__}: backward has already run through this graph; run "
                             f"forward again, or add the losses and run backward once")
        wanted = tuple(tensor.requires_grad for tensor in inputs)
        for tensor in inputs:
            if tensor.changed > function.age:
                _check_unchanged(function, tensor, inputs, wanted)
        gy = tuple(gradients) if function.returns_tuple else gradients[0]
        results = function.run_backward(inputs[0].backend, gy, wanted)
        function.release()
        results = results if isinstance(results, tuple) else (results,)
        if len(results) != len(inputs):
            raise GraphError(f"{type(function).__name__}: backward returned {len(results)} gradients for "
                             f"{len(inputs)} inputs; a tuple has one for each, None where there is none")
        others = list(gradients)
        for tensor, want, gradient in zip(inputs, wanted, results, strict=True):
            if want and gradient is not None:
                data = tensor.data
                if type(gradient) is not type(data) or gradient.shape != data.shape or (
                        gradient.dtype is not data.dtype):
                    _check_gradient(function, tensor, gradient)
                deliver(tensor, gradient, others)
                others.append(gradient)
        return inputs

    def have_read(leaves):
        for leaf in leaves:
            left[id(leaf)][1] -= 1
            if not left[id(leaf)][1]:
                del left[id(leaf)]
                watch.complete(leaf)

    if watch is not None:
        watch.begin([leaf for leaf, _ in left.values()])
    for tensor, gradient in seeds:
        deliver(tensor, gradient, [gradient])
    have_read([leaf for leaf in (whole_of(tensor) for tensor, _ in seeds) if id(leaf) in left])
    while order:
        function = heapq.heappop(order)[2]
        try:
            inputs = run(function)
        except (MinidropError, MemoryError) as error:
            failed(function, error)
            raise
        if watch is not None:       # what it raises is no fault of the function
            have_read([leaf for leaf in map(whole_of, inputs) if id(leaf) in left])
            watch.has_run()
    if watch is not None:
        for leaf, _ in list(left.values()):         # read by functions that no gradient has reached
            watch.complete(leaf)


def _check_gradient(function, tensor, gradient):
    """Raise GraphError for a gradient that is no array of real numbers, ShapeError for one of another shape.

    The array of a Parameter's may be a matrix.
    """
    if isinstance(gradient, Block | Blocks):
        return
    dtype = getattr(gradient, "dtype", None)
    if getattr(dtype, "kind", "") not in ("f", "i", "u", "b") or hasattr(type(gradient), "creator"):
        of = "" if dtype is None else f" of {dtype}"
        raise GraphError(f"{type(function).__name__}: backward returns arrays of real numbers, a tuple of "
                         f"them for several inputs, got {kind_of(gradient)}{of}")
    data, is_parameter = tensor.data, hasattr(tensor, "blocks")
    if gradient.shape == data.shape:
        return
    if not is_parameter or gradient.shape[:1] != data.shape[:1] or gradient.size != data.size:
        raise ShapeError(f"{type(function).__name__}: backward returned a gradient of shape {gradient.shape} "
                         f"for an input of shape {data.shape}; they must be equal")


def _check_unchanged(function, parameter, inputs, wanted):
    """Raise GraphError if a parameter that changed since forward is stored for the gradient of a tensor."""
    asked = any(want and not hasattr(type(tensor), "blocks")
                for tensor, want in zip(inputs, wanted, strict=True))
    if any(begun < function.age < ended for begun, ended in parameter.same):
        return
    if asked and function.holds(parameter.data, parameter.backend):
        name = parameter.name or "a parameter"
        raise GraphError(f"{type(function).__name__}: backward reads {name}, whose values have changed since "
                         f"forward, as a step of an optimizer changes them; run forward again behind the "
                         f"step, or backward before it")


def whole_of(tensor: Any) -> Any:
    """Return the tensor itself; of a ReshapedParameter the Parameter whose array it shares."""
    # Asked of the class: what a tensor lacks it looks for among all names, to say which was meant.
    return tensor.whole if hasattr(type(tensor), "whole") else tensor


def _readers(seeds):
    """Return {id of a leaf: [the leaf, how often the seeds and the functions below them read it]}."""
    found, seen = {}, set()
    waiting = [tensor for tensor, _ in seeds]
    while waiting:
        tensor = waiting.pop()
        function = tensor.creator
        if function is None:
            leaf = whole_of(tensor)
            found.setdefault(id(leaf), [leaf, 0])[1] += 1
        elif function not in seen:
            seen.add(function)
            waiting += [one for one in function.inputs or () if one.requires_grad]
    return found


def _apart(backend, gradient, others):
    """Return a gradient that is an array as one of its own, copied if another one may change with it.

    The derivative of a + b is one array for both; who scales the gradient of a in place means that alone.
    """
    arrays = [one for one in others if hasattr(one, "shape")] if hasattr(gradient, "shape") else []
    return gradient.copy() if any(backend.xp.may_share_memory(gradient, one) for one in arrays) else gradient
