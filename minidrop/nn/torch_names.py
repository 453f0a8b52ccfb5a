"""PyTorch's and Keras's names of modules that have another one here, or are none: each with what to write."""

from minidrop.functions.torch_names import FUNCTIONS

_LOSSES = ("NLLLoss", "SmoothL1Loss", "HuberLoss", "KLDivLoss", "BCELoss")
_MEAN = "x.mean((2, 3)) in forward for one number a channel, nn.AvgPool2d for others"

HINTS = {
    **dict.fromkeys(("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm", "BatchNormalization"),
                    "nn.BatchNorm(channels)"),
    **dict.fromkeys(("Dropout1d", "Dropout2d", "Dropout3d", "SpatialDropout2D"),
                    "nn.ApproxDropout(0.5) behind images, or nn.Dropout with the axes of the places"),
    **dict.fromkeys(("AdaptiveAvgPool2d", "AdaptiveAvgPool1d", "GlobalAveragePooling2D"), _MEAN),
    "AdaptiveMaxPool2d": "x.max(axis=(2, 3)) in forward, or nn.MaxPool2d",
    "LeakyReLU": "nn.ReLU(negative_slope=0.01)", "ReLU6": "F.clip(x, 0, 6) in forward",
    "Hardtanh": "F.clip(x, -1, 1) in forward", "Hardsigmoid": "F.clip(x / 6 + 0.5, 0, 1) in forward",
    "Hardswish": "x * F.clip(x / 6 + 0.5, 0, 1) in forward", "Mish": "x * F.tanh(F.bnll(x)) in forward",
    "LogSigmoid": "-F.bnll(-x) in forward", "LogSoftmax": "F.log_softmax(x, 1) in forward",
    "Softmin": "F.softmax(-x, 1) in forward", "Softsign": "x / (abs(x) + 1) in forward",
    **dict.fromkeys(_LOSSES, "the function of md.functions, such as F.nll_loss or F.smooth_l1_loss"),
    "Parameter": "nn.Weight(*shape, filler=...)", "ParameterList": "nn.ModuleList of nn.Weight modules",
    "ParameterDict": "nn.ModuleDict of nn.Weight modules",
    "functional": "md.functions", "init": "a filler: nn.Linear(4, 2, weight_filler={'type': 'xavier'})",
    "utils": "md.optim.clip_grad_norm, md.data.pad_sequences",
    "Unflatten": "x.reshape(...) in forward", "Unfold": "F.im2col", "Fold": "nn.ConvTranspose2d",
    "Upsample": "nn.ConvTranspose2d with weight_filler={'type': 'bilinear'}",
    "UpsamplingBilinear2d": "nn.ConvTranspose2d with weight_filler={'type': 'bilinear'}",
    "Conv3d": "nn.Layer('Convolution', num_output=8, kernel_size=3) on (N, C, D, H, W)",
    "ZeroPad2d": "the padding of nn.Conv2d", "LocalResponseNorm": "nn.LRN",
    "InstanceNorm2d": "nn.Layer('MVN')", "LSTMCell": "nn.LSTM on one step, or nn.Recurrent",
    "GRUCell": "nn.GRU on one step", "RNNCell": "nn.RNN on one step",
    "MultiheadAttention": "nn.MultiHeadAttention", "Bilinear": "F.einsum",
    "PixelShuffle": "x.reshape and x.permute in forward", "GLU": f"{FUNCTIONS['glu']}, in forward",
    **{module: f"{FUNCTIONS[function]}, a function of tensors" for module, function in {
        "CosineSimilarity": "cosine_similarity", "PairwiseDistance": "pairwise_distance",
        "TripletMarginLoss": "triplet_margin_loss", "MarginRankingLoss": "margin_ranking_loss",
        "SoftMarginLoss": "soft_margin_loss", "PoissonNLLLoss": "poisson_nll_loss",
        "MultiLabelSoftMarginLoss": "multilabel_soft_margin_loss",
        "GaussianNLLLoss": "gaussian_nll_loss"}.items()},
    "Tanhshrink": "x - F.tanh(x) in forward", "Softmax2d": "nn.Softmax(1)",
    **dict.fromkeys(("AlphaDropout", "FeatureAlphaDropout"), "nn.Dropout"),
    "MaxPool1d": "nn.MaxPool2d((1, 2)) on (N, C, 1, L)", "AvgPool1d": "nn.AvgPool2d((1, 2)) on (N, C, 1, L)",
    "ConvTranspose1d": "nn.Layer('Deconvolution', num_output=8, kernel_size=3) on (N, C, L)",
    "ConvTranspose3d": "nn.Layer('Deconvolution', num_output=8, kernel_size=3) on (N, C, D, H, W)",
    "InstanceNorm1d": "nn.Layer('MVN')", "LazyLinear": "nn.Linear(inputs, outputs)",
    "LazyConv2d": "nn.Conv2d", "EmbeddingBag": "nn.Embedding, and x.mean(0) in forward",
    "Buffer": "nn.Weight(*shape, filler=...).requires_grad_(False)",
    **dict.fromkeys(("Transformer", "TransformerEncoder", "TransformerEncoderLayer", "TransformerDecoder",
                     "TransformerDecoderLayer"), "a module of nn.MultiHeadAttention, nn.LayerNorm and "
                    "nn.Linear (docs/transformers.md)"),
    **dict.fromkeys(("DataParallel", "parallel"), "md.Solver.of(..., communicator=world()) under mpiexec "
                    "(docs/how_to/several_machines.md)"),
    "Dense": "nn.Linear(inputs, outputs)", "Conv2D": "nn.Conv2d", "Conv1D": "nn.Conv1d",
    "MaxPooling2D": "nn.MaxPool2d", "AveragePooling2D": "nn.AvgPool2d",
    "Activation": "nn.ReLU(), nn.Tanh(), ...",
    "LayerNormalization": "nn.LayerNorm", "Concatenate": "nn.concat([a, b]) in forward",
    "Add": "a + b in forward",
}

METHODS = {     # of a module
    "cuda": "to('cuda:0')", "cpu": "to('cpu')", "double": "to(dtype='float64')",
    "float": "to(dtype='float32')",
    "half": "to(precision='float16')", "bfloat16": "to(precision='bfloat16')",
    "register_buffer": "nn.Weight(*shape, filler=...).requires_grad_(False) as an attribute",
    **dict.fromkeys(("register_parameter", "parameter"), "nn.Weight(*shape, filler=...) as an attribute"),
    "buffers": "named_buffers()",
    **dict.fromkeys(("register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook",
                     "register_hook"), "a call in the forward of your own module"),
    **dict.fromkeys(("register_module",), "add_module(name, module), or an attribute"),
    "extend": "append(module) for each",
    **dict.fromkeys(("insert", "pop"), "nn.Sequential(*modules) of a list"),
    "get_submodule": "dict(module.named_modules())[path]", "get_buffer": "dict(module.named_buffers())[path]",
    "get_parameter": "dict(module.named_parameters())[path]",
    "compile": "it as it is: nets are planned", "device": "backend.name",
    "save": "state_dict() with numpy.savez", "load": "load_state_dict",
    "fit": "md.Solver.of(module, loss, optimizer, train)", "predict": "module.eval()(x)",
    "summary": "print(module.net_for(x))",
    "share_memory": "mpiexec -n 2 minidrop train (docs/parallel.md)",
}
