"""Convolution, Deconvolution and Im2col: against PyTorch, and what they say of mistakes."""

import pytest
from cases import every_pair, in_turn
from nets import inputs, numbers

from minidrop import Tensor

FILLERS = 'weight_filler { type: "uniform" min: -1 max: 1 } bias_filler { type: "uniform" min: -1 max: 1 }'
LINES, IMAGES, VOLUMES = (2, 4, 9), (2, 4, 7, 6), (2, 4, 4, 5, 3)


def text(kind, settings="", bottoms="a", tops="y"):
    blobs = " ".join([f'bottom: "{b}"' for b in bottoms] + [f'top: "{t}"' for t in tops])
    return f'layer {{ name: "l" type: "{kind}" {blobs} convolution_param {{ {settings} }} }}'


def of_torch(F, kind, spatial):
    return getattr(F, ("conv{}d" if kind == "Convolution" else "conv_transpose{}d").format(spatial))


# -- Convolution, Deconvolution ------------------------------------------------------------------------------
# (shape of the bottom, settings, what PyTorch calls them, axis of the channels)
WINDOWS = {
    "one number": (IMAGES, "kernel_size: 3", {}, 1),
    "point": (IMAGES, "kernel_size: 1", {}, 1),
    "everything": (IMAGES, "kernel_size: 3 stride: 2 pad: 2 dilation: 2",
                   {"stride": 2, "padding": 2, "dilation": 2}, 1),
    "numbers of each axis": (IMAGES, "kernel_size: [3, 2] stride: [1, 2] pad: [2, 1] dilation: [2, 1]",
                             {"stride": (1, 2), "padding": (2, 1), "dilation": (2, 1)}, 1),
    "height and width": (IMAGES, "kernel_h: 3 kernel_w: 2 stride_h: 2 stride_w: 1 pad_h: 1 pad_w: 0",
                         {"stride": (2, 1), "padding": (1, 0)}, 1),
    "height alone": (IMAGES, "kernel_size: 3 stride_h: 2 pad_w: 1", {"stride": (2, 1), "padding": (0, 1)}, 1),
    "groups": (IMAGES, "kernel_size: 3 group: 2 pad: 1", {"groups": 2, "padding": 1}, 1),
    "each channel": (IMAGES, "kernel_size: 3 group: 4 stride: 2 pad: 1",
                     {"groups": 4, "stride": 2, "padding": 1}, 1),
    "engine and Caffe's other ways": (IMAGES, "kernel_size: 2 engine: CUDNN force_nd_im2col: true", {}, 1),
    "lines": (LINES, "kernel_size: 3 stride: 2 pad: 1", {"stride": 2, "padding": 1}, 1),
    "volumes": (VOLUMES, "kernel_size: [2, 3, 2] pad: [0, 1, 1]", {"padding": (0, 1, 1)}, 1),
    "groups of volumes": (VOLUMES, "kernel_size: 2 group: 2 stride: 2", {"groups": 2, "stride": 2}, 1),
    "channels on a later axis": ((2, 3, 4, 5, 6), "axis: 2 kernel_size: 2", {}, 2),
    "lines of a later axis, counted from the end": (IMAGES, "axis: -2 kernel_size: 2 pad: 1", {"padding": 1},
                                                    2),
    "one image": ((1, 3, 5, 5), "kernel_size: 5", {}, 1),
}


@every_pair(("kind", ["Convolution", "Deconvolution"]), ("window", list(WINDOWS)), ("bias", [True, False]),
            ("dtype", ["float32", "float64"]))
def test_products_of_windows(agrees, F, kind, window, bias):
    shape, settings, named, axis = WINDOWS[window]
    if kind == "Deconvolution" and "2 dilation" in settings:
        settings, named = settings.replace("pad: 2", "pad: 1"), named | {"padding": 1}
    function, outputs = of_torch(F, kind, len(shape) - axis - 1), 8

    def reference(x, W, *bias):
        y = function(x.flatten(0, axis - 1), W, *bias, **named)
        return y.reshape(*shape[:axis], *y.shape[1:])

    net = agrees(f'type: "{kind}" convolution_param {{ num_output: {outputs} {settings} {FILLERS} '
                 f'{"" if bias else "bias_term: false"} }}', reference, shape)
    parameters, per_group = net.params["l"], named.get("groups", 1)
    sides = (outputs, shape[axis]) if kind == "Convolution" else (shape[axis], outputs)
    assert parameters["weight"].shape[:2] == (sides[0], sides[1] // per_group)
    assert list(parameters) == ["weight", "bias"][:1 + bias]


@in_turn("kind", ["Convolution", "Deconvolution"])
@in_turn("settings, named", [("", {}), ("group: 2", {"groups": 2}),
                             ("group: 4", {"groups": 4})])
def test_several_bottoms_share_the_weights(agrees, F, kind, settings, named):
    function = of_torch(F, kind, 2)
    agrees(f'type: "{kind}" convolution_param {{ num_output: 4 kernel_size: 3 {settings} {FILLERS} }}',
           lambda a, b, W, bias: (function(a, W, bias, **named), function(b, W, bias, **named)),
           IMAGES, IMAGES, tops="yz")


def test_an_activation_in_place_is_applied_by_the_layer(make_net, close, F):
    """And its gradient is right."""
    import torch
    for kind in ("Convolution", "Deconvolution"):
        for activation, function in (("ReLU", F.relu), ("TanH", F.tanh)):
            net = make_net(inputs(IMAGES) + text(kind, f"num_output: 4 kernel_size: 3 {FILLERS}") +
                           f'layer {{ name: "act" type: "{activation}" bottom: "y" top: "y" }}')
            assert [one.line for one in net.plan.epilogues] == ["l applies act"]
            x = Tensor(net.backend.asarray(numbers(*IMAGES), net.dtype), True, net.backend)
            y = net.forward(a=x)["y"]
            own = [torch.tensor(a, requires_grad=True) for a in (numbers(*IMAGES), *(
                p.numpy().astype(float) for p in net.params["l"].values()))]
            expected = function(of_torch(F, kind, 2)(*own))
            close(y.numpy(), expected.detach().numpy())
            gy = numbers(*y.shape, seed=5)
            y.backward(net.backend.asarray(gy, net.dtype))
            expected.backward(torch.tensor(gy))
            for tensor, want in zip([x, *net.params["l"].values()], own, strict=True):
                close(net.backend.to_host(tensor.grad), want.grad.numpy())


# -- Im2col --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("settings, named", [
    ("kernel_size: 3", {"kernel_size": 3}),
    ("kernel_size: [3, 2] stride: [2, 1] pad: 1 dilation: [1, 2]",
     {"kernel_size": (3, 2), "stride": (2, 1), "padding": 1, "dilation": (1, 2)}),
    ("kernel_h: 1 kernel_w: 4 pad_w: 2", {"kernel_size": (1, 4), "padding": (0, 2)}),
])
def test_im2col(agrees, F, settings, named):
    def reference(x):
        size = named["kernel_size"] if isinstance(named["kernel_size"], tuple) else (3, 3)
        places = F.conv2d(x[:1, :1], x.new_zeros(1, 1, *size), **{
            key: value for key, value in named.items() if key != "kernel_size"}).shape[2:]
        return F.unfold(x, **named).reshape(len(x), -1, *places)

    agrees(f'type: "Im2col" convolution_param {{ {settings} }}', reference, IMAGES)
    agrees(f'type: "Im2col" convolution_param {{ axis: 2 {settings} }}',
           lambda x: reference(x.flatten(0, 1)).unflatten(0, x.shape[:2]), (2, 3, 4, 7, 6))


def test_im2col_of_lines_and_volumes(agrees):
    agrees('type: "Im2col" convolution_param { kernel_size: 3 stride: 2 }',
           lambda x: x.unfold(2, 3, 2).permute(0, 1, 3, 2).flatten(1, 2), LINES)
    agrees('type: "Im2col" convolution_param { kernel_size: 2 }',
           lambda x: x.unfold(2, 2, 1).unfold(3, 2, 1).unfold(4, 2, 1).permute(0, 1, 5, 6, 7, 2, 3, 4)
           .flatten(1, 4), VOLUMES)


# -- mistakes ------------------------------------------------------------------------------------------------
OF_BOTH = [             # (settings, shape, message), the same for Convolution and Deconvolution
    ("kernel_size: 3", IMAGES, "convolution_param needs num_output, at least 1"),
    ("num_output: 4", IMAGES, "convolution_param needs kernel_size, at least 1"),
    ("num_output: 4 kernel_size: 0", IMAGES, "kernel_size must be at least 1 on every axis, got [0, 0]"),
    ("num_output: 4 kernel_size: [3, 0]", IMAGES, "kernel_size must be at least 1 on every axis, got [3, 0]"),
    ("num_output: 4 kernel_size: 3 stride: 0", IMAGES, "stride must be at least 1 on every axis, got [0, 0]"),
    ("num_output: 4 kernel_size: 3 stride_h: 0", IMAGES,
     "stride must be at least 1 on every axis, got [0, 1]"),
    ("num_output: 4 kernel_size: 3 dilation: 0", IMAGES,
     "dilation must be at least 1 on every axis, got [0, 0]"),
    ("num_output: 4 kernel_h: 3", IMAGES, "kernel_h is given without kernel_w; give both, or kernel_size"),
    ("num_output: 4 kernel_w: 3", IMAGES, "kernel_w is given without kernel_h; give both, or kernel_size"),
    ("num_output: 4 kernel_size: 3 kernel_h: 3", IMAGES, "kernel_size and kernel_h are both given; keep one"),
    ("num_output: 4 kernel_size: 3 stride: 2 stride_w: 2", IMAGES,
     "stride and stride_w are both given; keep one"),
    ("num_output: 4 kernel_size: 3 pad: 2 pad_h: 2", IMAGES, "pad and pad_h are both given; keep one"),
    ("num_output: 4 kernel_h: 3 kernel_w: 3", LINES, "kernel_h and kernel_w are for images with two spatial "
     "axes, and these have 1; use kernel_size"),
    ("num_output: 4 kernel_size: 3 pad_w: 3", VOLUMES, "pad_h and pad_w are for images with two spatial "
     "axes, and these have 3; use pad"),
    ("num_output: 4 kernel_size: [3, 3]", VOLUMES, "kernel_size is given 2 times; expected once, or once for "
     "each of the 3 spatial axes"),
    ("num_output: 4 kernel_size: 3 dilation: [1, 1, 1]", IMAGES, "dilation is given 3 times; expected once, "
     "or once for each of the 2 spatial axes"),
    ("num_output: 4 kernel_size: 3 group: 3", IMAGES, "group 3 divides the channels into equal runs, but "
     "there are 4 inputs and 4 outputs; it has to divide both"),
    ("num_output: 3 kernel_size: 3 group: 2", IMAGES, "group 2 divides the channels into equal runs, but "
     "there are 4 inputs and 3 outputs; it has to divide both"),
    ("num_output: 4 kernel_size: 3 group: 0", IMAGES, "group 0 divides the channels into equal runs, but "
     "there are 4 inputs and 4 outputs; it has to divide both"),
    ("num_output: 4 kernel_size: 3 axis: 0", IMAGES, "axis 0 is the batch; expected 1 or more"),
    ("num_output: 4 kernel_size: 3 axis: -4", IMAGES, "axis 0 is the batch; expected 1 or more"),
    ("num_output: 4 kernel_size: 3 axis: 4", IMAGES, "axis 4 does not exist: the bottom has 4 axes"),
    ("num_output: 4 kernel_size: 3", (2, 4), "bottom of shape (2, 4) has no axis behind that of the "
     "channels, 1, that a window could slide over"),
    ("num_output: 4 kernel_size: 3", (2, 0, 5, 5), "bottom of shape (2, 0, 5, 5) has no channels on axis 1"),
    ('num_output: 4 kernel_size: 3 weight_filler { type: "xaver" }', IMAGES,
     "weight_filler: unknown filler 'xaver'; did you mean 'xavier'? (known fillers: bilinear, constant, "
     "gaussian, msra, positive_unitball, uniform, xavier)"),
]
MISTAKES = [(text(kind, settings), [shape], message) for settings, shape, message in OF_BOTH
            for kind in ("Convolution", "Deconvolution")] + [
    (text("Convolution", "num_output: 4 kernel_size: 8"), [IMAGES], "a window of 8 x 8 does not fit into the "
     "bottom of shape (2, 4, 7, 6), whose padded images are 7 x 6; make kernel_size or dilation smaller, or "
     "pad larger"),
    (text("Convolution", "num_output: 4 kernel_size: 3 dilation: [1, 4] pad: 1"), [IMAGES], "a window of 3 x "
     "9 does not fit into the bottom of shape (2, 4, 7, 6), whose padded images are 9 x 8; make kernel_size "
     "or dilation smaller, or pad larger"),
    (text("Im2col", "kernel_size: 10"), [LINES], "a window of 10 does not fit into the bottom of shape (2, "
     "4, 9), whose padded images are 9; make kernel_size or dilation smaller, or pad larger"),
    (text("Im2col"), [IMAGES], "convolution_param needs kernel_size, at least 1"),
    (text("Im2col", "kernel_size: 3 axis: 0"), [IMAGES], "axis 0 is the batch; expected 1 or more"),
    (text("Deconvolution", "num_output: 4 kernel_size: 3 pad: 4"), [IMAGES], "a bottom of shape (2, 4, 7, 6) "
     "becomes images of (1, 0): pad takes all of it; make pad smaller"),
    (text("Deconvolution", "num_output: 4 kernel_size: 3"), [(2, 4, 0, 6)],
     "bottom of shape (2, 4, 0, 6) has an axis without entries"),
    (text("Convolution", "num_output: 4 kernel_size: 3", "ab", "yz"), [IMAGES, VOLUMES],
     "bottoms of one shape expected, got (2, 4, 7, 6), (2, 4, 4, 5, 3)"),
]


@in_turn("layer, shapes, message", MISTAKES, ids=[layer for layer, _, _ in MISTAKES])
def test_mistake(mistake, layer, shapes, message):
    assert mistake(layer, *shapes) == message
