"""Copies: what copy.copy and copy.deepcopy make of a tensor, and why it is not pickled."""

from __future__ import annotations

from typing import Any, NoReturn

from minidrop.errors import TensorError


class Copies:
    """The part of Tensor that concerns copies."""

    __slots__ = ()

    def __copy__(self: Any) -> Any:
        """Return another tensor of the same array, as computed as this one."""
        new = type(self)(self.data, self.requires_grad, self.backend, self.kept, self.kept_axis, self.name)
        new.creator, new.output_index = self.creator, self.output_index
        return new

    def __deepcopy__(self: Any, memo: dict) -> Any:
        """Return a leaf with copies of the array and of the gradient; TensorError for what was computed."""
        if self.creator is not None:
            raise TensorError(f"a tensor of shape {self.shape} that was computed is no leaf, and has no copy "
                              f"of its own: copy x.detach(), or call x.clone(), through which gradients flow")
        new = type(self)(self.data.copy(), self.requires_grad, self.backend, self.kept, self.kept_axis,
                         self.name)
        new.grad = None if self.grad is None else self.grad.copy()
        return new

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TensorError(f"a {type(self).__name__} cannot be pickled: it stands for an array on a device, "
                          f"and for how that was computed; pickle x.numpy(), or write that with numpy.save")
