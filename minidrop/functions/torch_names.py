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
    **{name: f"x {operator} y" for operator, names in {
        "==": "eq", "!=": "ne", "<": "lt less", "<=": "le less_equal", ">": "gt greater",
        ">=": "ge greater_equal", "&": "logical_and", "|": "logical_or", "^": "logical_xor",
        "+": "", "-": "subtract", "*": "multiply", "/": "divide true_divide", "//": "floor_divide",
        "%": "remainder", "@": "mv"}.items() for name in names.split()},
    "logical_not": "~x", "negative": "-x", "absolute": "x.abs()",
    "reciprocal": "1 / x", "rsqrt": "x ** -0.5", "exp2": "2 ** x", "log2": "x.log() / numpy.log(2)",
    "log10": "x.log() / numpy.log(10)", "logit": "(x / (1 - x)).log()", "tan": "x.sin() / x.cos()",
    "lerp": "x + w * (y - x)", "addcmul": "x + value * y * z", "addcdiv": "x + value * y / z",
    "baddbmm": "x + y @ z", "dist": "(x - y).norm()", "cdist": "(x[:, None] - y[None]).norm(axis=-1)",
    "maximum": "md.functions.maximum(x, y)", "minimum": "md.functions.minimum(x, y)",
    "where": "md.functions.where(condition, x, y)", "take": "x.reshape(-1)[places]",
    "clamp_min": "x.clamp(min=low)", "clamp_max": "x.clamp(max=high)",
    "nan_to_num": "md.functions.where(x == x, x, 0.0)",
    "flip": "x[::-1], or x[:, ::-1]", "roll": "md.functions.cat([x[-n:], x[:-n]])",
    "narrow": "x[:, first:last]", "select": "x[:, place]", "ravel": "x.reshape(-1)",
    "unflatten": "x.reshape(shape)", "movedim": "x.moveaxis(source, destination)",
    "swapdims": "x.transpose(axis, other)", "nonzero": "numpy.nonzero(x.numpy())",
    **dict.fromkeys(("diag", "diagonal"), "x[i, i], with i = numpy.arange(len(x))"),
    "trace": "x[i, i].sum(), with i = numpy.arange(len(x))",
    "tril": "x * numpy.tril(numpy.ones(x.shape, x.dtype))",
    "triu": "x * numpy.triu(numpy.ones(x.shape, x.dtype))",
    "isinf": "numpy.isinf(x.numpy())", "count_nonzero": "(x != 0).sum()",
    "multinomial": "numpy.random.Generator.choice(len(p), p=p), with p = x.numpy()",
    "bernoulli": "numpy.random.Generator.random, and < x.numpy()",
    "new_zeros": "md.tensor(numpy.zeros(shape, x.dtype))",
    "new_ones": "md.tensor(numpy.ones(shape, x.dtype))",
    "new_tensor": "md.tensor(data, dtype=x.dtype)", "type_as": "x.to(other)",
    "bfloat16": "Net(precision='bfloat16') for products on a GPU",
    "byte": "x.astype('uint8')", "char": "x.astype('int8')", "short": "x.astype('int16')",
    "nelement": "x.numel()", "ndimension": "x.ndim", "nbytes": "x.data.nbytes",
    "element_size": "x.dtype.itemsize", "is_floating_point": "x.dtype.kind == 'f'",
    "is_contiguous": "x.data.flags", "pin_memory": "x as it is", "median": "numpy.median(x.numpy(), axis)",
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
    "prod": "F.product for several tensors", "adaptive_max_pool2d": "x.max(axis=(2, 3))",
    "upsample": "nn.ConvTranspose2d with weight_filler={'type': 'bilinear'}", "fold": "nn.ConvTranspose2d",
    "pixel_shuffle": "x.reshape and x.permute", "glu": "a * F.sigmoid(b), with a, b = F.chunk(x, 2, 1)",
    "tanhshrink": "x - F.tanh(x)", "cosine_similarity": "(x * y).sum(1) / (x.norm(axis=1) * y.norm(axis=1))",
    "pairwise_distance": "(x - y).norm(axis=1)",
    "triplet_margin_loss": "F.relu((a - p).norm(axis=1) - (a - n).norm(axis=1) + 1).mean()",
    "margin_ranking_loss": "F.relu(margin - y * (a - b)).mean()", "soft_margin_loss": "F.bnll(-y * x).mean()",
    "multilabel_soft_margin_loss": "F.binary_cross_entropy_with_logits(x, y)",
    "poisson_nll_loss": "(F.exp(x) - y * x).mean()",
    "gaussian_nll_loss": "(F.log(var) + (x - y) ** 2 / var).mean() / 2",
    **{name: HINTS[name] for name in (
        "repeat_interleave gather index_select masked_select topk sort argsort unique isnan isfinite erf eq "
        "ne lt le gt ge logical_and logical_or logical_not reciprocal rsqrt exp2 log2 log10 lerp addmm "
        "baddbmm dist cdist flip roll narrow ravel movedim swapaxes diag diagonal trace tril triu isinf "
        "nonzero outer count_nonzero multinomial bernoulli t floor_divide remainder nan_to_num "
        "median").split()},
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
    "Variable": "md.Tensor(array, requires_grad=True)", "is_tensor": "isinstance(x, md.Tensor)",
    "FloatTensor": "md.tensor(x, dtype='float32')", "LongTensor": "md.tensor(x, dtype='int64')",
    **{name: f"{numpy!r}, or numpy.{numpy}" for name, numpy in {
        "float": "float32", "double": "float64", "long": "int64", "int64": "int64", "int32": "int32",
        "uint8": "uint8"}.items()},
    **dict.fromkeys(("enable_grad", "set_grad_enabled", "inference_mode"), "with md.no_grad(), or nothing"),
    "grad": "loss.backward(), and x.grad", "jit": "nothing: nets are planned",
    **dict.fromkeys(("amp", "autocast"), "model.to(precision='float16'), on a GPU"),
    **dict.fromkeys(("Generator", "seed"), "numpy.random.default_rng(seed)"),
    "randperm": "numpy.random.default_rng(0).permutation(n)",
    "normal": "md.tensor(numpy.random.default_rng(0).normal(mean, deviation, shape))",
    "randn_like": "md.tensor(numpy.random.default_rng(0).standard_normal(x.shape, x.dtype))",
    **dict.fromkeys(("allclose", "equal"), "numpy.allclose(x.numpy(), y.numpy())"), "numel": "x.numel()",
    **dict.fromkeys(("hstack", "vstack"), "md.functions.cat"), "meshgrid": "numpy.meshgrid",
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
    if name.endswith("_") and name[:-1] in known and not name.startswith("_"):
        return f"; use x = x.{name[:-1]}(...): nothing works in place"
    return "" if name.startswith("_") else nearest(name, [one for one in known if not one.startswith("_")])
