"""PyTorch's names for what minidrop does in another way: each with what to write."""

from __future__ import annotations

from collections.abc import Iterable

from minidrop.errors import nearest

HINTS = {
    "expand": "x.broadcast_to(shape); md.functions.expand restores what a kept set drops",
    "expand_as": "x.broadcast_to(other.shape)",
    "view_as": "x.reshape(other.shape)",
    "reshape_as": "x.reshape(other.shape)",
    "repeat": "md.functions.tile(x, copies, axis)",
    "repeat_interleave": "x[numpy.repeat(range(len(x)), copies)]",
    "tile": "md.functions.tile(x, copies, axis)",
    "gather": "x[rows, columns] with index arrays",
    "index_select": "x[index], or x[:, index]",
    "masked_select": "x[mask]",
    "scatter": "md.functions.where, or x.data of a tensor that nothing was computed from",
    "scatter_add": "indexing: its backward pass adds up what a repeated index reads",
    "topk": "x.numpy().argpartition, and x[...] with the places that it finds",
    "sort": "x.numpy().argsort(axis), and x[...] with the order",
    "argsort": "x.numpy().argsort(axis)",
    "unique": "numpy.unique(x.numpy())",
    "prod": "md.functions.product for several tensors, or (x.log().sum(axis)).exp() for positive entries",
    "dot": "x @ y",
    "outer": "x[:, None] * y",
    "t": "x.T",
    "mT": "x.transpose(-1, -2)",
    "swapaxes": "x.transpose(axis, other)",
    "half": "x.astype('float16') for storage; Net(precision='float16') for products on a GPU",
    "grad_fn": "x.creator",
    "retain_grad": "net.blobs, or backward from x itself: only leaves keep a gradient",
    "register_hook": "Solver.after_backward, or the gradient of a leaf after backward()",
    "is_cuda": "x.device != 'cpu'",
    "stride": "x.data.strides",
    "type": "x.dtype, or x.astype(dtype)",
    "copy_": "x.data[...] = array",
    "fill_": "x.data[...] = value",
    "zero_": "x.data[...] = 0, or x.clear_grad() for the gradient",
    "add_": "x = x + y, or x.data += array",
    "sub_": "x = x - y, or x.data -= array",
    "mul_": "x = x * y, or x.data *= array",
    "div_": "x = x / y, or x.data /= array",
    "clamp_": "x = x.clip(low, high)",
    "detach_": "x = x.detach()",
    "uniform_": "numpy.random.Generator.uniform, and md.tensor of what it draws",
    "normal_": "numpy.random.Generator.normal, and md.tensor of what it draws",
    "addmm": "bias + x @ W, or md.functions.linear(x, W, bias)",
    "einsum": "md.functions.einsum(equation, x, y)",
    "isnan": "x != x",
    "isfinite": "numpy.isfinite(x.numpy())",
    "erf": "md.functions.gelu, for which it is used most",
    "gelu": "md.functions.gelu(x)",
}


def hint(name: str, known: Iterable[str]) -> str:
    """Return "; use ..." for a name of PyTorch's, else the nearest known names, or ''."""
    if name in HINTS:
        return f"; use {HINTS[name]}"
    return "" if name.startswith("_") else nearest(name, [one for one in known if not one.startswith("_")])
