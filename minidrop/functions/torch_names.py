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


FUNCTIONS = {       # of torch, torch.nn.functional and NumPy
    "max_pool2d": "nn.MaxPool2d(2)(x), or F.max_pooling(x, window)",
    "avg_pool2d": "nn.AvgPool2d(2)(x), or F.mean_pooling(x, window)",
    "adaptive_avg_pool2d": "x.mean((2, 3)) for one number a channel",
    "conv1d": "nn.Conv1d, or F.convolution", "conv2d": "nn.Conv2d, or F.convolution",
    "conv_transpose2d": "nn.ConvTranspose2d, or F.deconvolution",
    "leaky_relu": "F.relu(x, 0.01)", "relu6": "F.clip(x, 0, 6)", "hardtanh": "F.clip(x, -1, 1)",
    "hardsigmoid": "F.clip(x / 6 + 0.5, 0, 1)", "hardswish": "x * F.clip(x / 6 + 0.5, 0, 1)",
    "mish": "x * F.tanh(F.bnll(x))", "softplus": "F.bnll(x)", "logsigmoid": "-F.bnll(-x)",
    "silu": "F.swish(x)", "softmin": "F.softmax(-x, 1)", "softsign": "x / (abs(x) + 1)",
    **dict.fromkeys(("dropout1d", "dropout2d", "dropout3d"),
                    "nn.ApproxDropout, or nn.Dropout with the axes of the places"),
    "alpha_dropout": "nn.Dropout", "embedding": "nn.Embedding, or F.embed(ids, W)",
    "one_hot": "numpy.eye(classes)[ids]", "normalize": "x / x.norm(axis=1, keepdims=True)",
    "scaled_dot_product_attention": "F.attention(q, k, v, heads)",
    "multi_head_attention_forward": "nn.MultiHeadAttention", "pad": "numpy.pad of data, or padding=...",
    "unfold": "F.im2col", "interpolate": "nn.ConvTranspose2d with weight_filler={'type': 'bilinear'}",
    "instance_norm": "F.mvn(x)", "local_response_norm": "F.lrn(x)",
    "bmm": "F.matmul", "mm": "F.matmul", "dot": "F.matmul", "masked_fill": "F.where(mask, value, x)",
    "prod": "F.product for several tensors",
    **{name: HINTS[name] for name in ("repeat_interleave", "gather", "index_select", "masked_select", "topk",
                                      "sort", "argsort", "unique", "isnan", "isfinite", "erf")},
}


TOP = {         # of torch itself
    **{name: f"md.tensor(numpy.{numpy})" for name, numpy in {
        "zeros": "zeros(shape, 'float32')", "ones": "ones(shape, 'float32')",
        "full": "full(shape, 1.0, 'float32')",
        "eye": "eye(n, dtype='float32')", "arange": "arange(n)", "linspace": "linspace(0, 1, n)",
        "empty": "empty(shape, 'float32')", "zeros_like": "zeros_like(x.numpy())",
        "ones_like": "ones_like(x.numpy())", "rand": "random.default_rng(0).random(shape, 'float32')",
        "randn": "random.default_rng(0).standard_normal(shape, 'float32')",
        "randint": "random.default_rng(0).integers(0, n, shape)"}.items()},
    "from_numpy": "md.Tensor(array), which shares its memory, or md.tensor(array)",
    "as_tensor": "md.tensor(x)",
    "save": "net.save(path), module.state_dict(), or the snapshots of a Solver",
    "manual_seed": "model.set_seed(0), md.data.DataLoader(seed=0)", "compile": "nothing: nets are planned",
    "cuda": "model.to('cuda:0'), `minidrop devices`", "device": "model.to('cuda:0'), a text",
    "utils": "md.data.DataLoader and md.data.Dataset",
    "float32": "'float32', or numpy.float32", "float64": "'float64', or numpy.float64",
    "set_num_threads": "the environment variable MINIDROP_THREADS",
    "distributed": "mpiexec -n 2 minidrop train (docs/parallel.md)", "onnx": "md.export_onnx(net, path)",
    "Variable": "md.Tensor(array, requires_grad=True)",
}


KEYWORDS = {    # arguments of modules, functions, optimizers and loaders
    "inplace": "leave it out: nets work in place where they can",
    "p": "the rate is the first argument",
    "batch_first": "sequences are (steps, records, ...): x.permute(1, 0, 2) in forward turns others round",
    "num_layers": "write a module for each layer, as in nn.Sequential",
    "padding_mode": "images are padded with zeros", "padding_idx": "let the loss ignore such labels",
    "unbiased": "correction=0 stands for unbiased=False",
    "weight": "F.cross_entropy takes weights of classes",
    "set_to_none": "leave it out: a gradient that is cleared is None",
    "sampler": "md.data.Subset(dataset, indices) has these records in this order",
    "generator": "seed=0 decides what is drawn", "last_epoch": "scheduler.seek(iteration) goes there",
    "norm_type": "the norm is the L2 norm",
    **{theirs: f"it is {own} here" for own, names in {
        "axis": "dim start_dim", "end_axis": "end_dim", "keepdims": "keepdim", "ignore_label": "ignore_index",
        "affine": "elementwise_affine", "reduction": "size_average reduce", "correction": "ddof",
        "channels": "num_features", "shape": "normalized_shape", "width": "embed_dim", "heads": "num_heads",
        "workers": "num_workers", "collate": "collate_fn", "prefetch": "prefetch_factor",
        "stepsize": "step_size", "stepvalues": "milestones", "max_iter": "T_max total_steps total_iters",
        "min_lr": "eta_min", "most": "max_norm"}.items() for theirs in names.split()},
    **dict.fromkeys(("pin_memory", "persistent_workers", "worker_init_fn", "multiprocessing_context",
                     "pin_memory_device"), "leave it out: workers are threads"),
    **dict.fromkeys(("foreach", "fused", "capturable"), "leave it out: it changes no result"),
    **dict.fromkeys(("device", "dtype"), "module.to(device, dtype) moves it"),
}


def keyword_hint(name: str, known: Iterable[str]) -> str:
    """Return "; ..." for a keyword of PyTorch's, else the nearest known ones, or ''."""
    return f"; {KEYWORDS[name]}" if name in KEYWORDS else nearest(name, sorted(known))


def hint(name: str, known: Iterable[str]) -> str:
    """Return "; use ..." for a name of PyTorch's, else the nearest known names, or ''."""
    if name in HINTS:
        return f"; use {HINTS[name]}"
    return "" if name.startswith("_") else nearest(name, [one for one in known if not one.startswith("_")])
