"""A layer through a Net built from text: its parameters against PyTorch, and what it says of mistakes."""

import re

import pytest
from nets import inputs, numbers


@pytest.fixture
def agrees(make_net, close):
    """agrees(settings, function, *shapes, values=None, tops="y", **options) -> the net: values and all
    gradients are those of a function of torch tensors: the bottoms, then the parameters.

    settings: of a layer, as 'type: "ReLU"'. values: what parameters are set to.
    """
    torch = pytest.importorskip("torch", reason="PyTorch (the extra `peers`) is the reference here")
    from minidrop import Tensor
    from minidrop.autograd import backward

    def check(settings, function, *shapes, values=None, tops="y", **options):
        names = "abcdef"[:len(shapes)]
        blobs = " ".join([f'bottom: "{b}"' for b in names] + [f'top: "{t}"' for t in tops])
        net = make_net(inputs(*shapes) + f'layer {{ name: "l" {blobs} {settings} }}', **options)
        host, on = net.backend.to_host, net.backend.asarray
        for name, value in (values or {}).items():
            net.params["l"][name].data[...] = on(value, net.dtype)
        bottoms = [numbers(*shape, seed=i) for i, shape in enumerate(shapes)]
        ours = [Tensor(on(x, net.dtype), requires_grad=True, backend=net.backend) for x in bottoms]
        parameters = net.params.get("l", {})
        theirs = [torch.tensor(x, requires_grad=True) for x in bottoms]
        theirs += [torch.tensor(p.numpy().astype(float), requires_grad=p.requires_grad)
                   for p in parameters.values()]
        net.forward(**dict(zip(names, ours, strict=True)))
        found, expected = [net.blobs[top] for top in tops], function(*theirs)
        expected = expected if isinstance(expected, tuple) else (expected,)
        seeds = [numbers(*y.shape, seed=5 + i) for i, y in enumerate(found)]
        for y, ref, want in zip(found, net.graph.nodes[-1].tops, expected, strict=True):
            assert y.shape == tuple(want.shape) == net.graph.shapes[ref] and y.dtype == net.dtype
            close(y.numpy(), want.detach().numpy(), "top")
        backward([(y, on(gy, net.dtype)) for y, gy in zip(found, seeds, strict=True)])
        torch.autograd.backward(expected, [torch.tensor(gy) for gy in seeds])
        for i, (x, want) in enumerate(zip([*ours, *parameters.values()], theirs, strict=True)):
            assert x.requires_grad == want.requires_grad
            if x.requires_grad:
                close(host(x.grad), want.grad.numpy(), f"gradient {i}")
        return net
    return check


@pytest.fixture
def F():
    """torch.nn.functional."""
    torch = pytest.importorskip("torch", reason="PyTorch (the extra `peers`) is the reference here")
    return torch.nn.functional


@pytest.fixture
def mistake():
    """mistake(text of layer "l", *shapes) -> what its one mistake is said to be; the layer reads the blobs a,
    b, ..., and the message has its place, name and type before, and the shapes behind."""
    from minidrop import ConfigError, Net
    from minidrop.config import parse_net

    def said(layer, *shapes):
        with pytest.raises(ConfigError) as caught:
            Net(parse_net(inputs(*shapes) + layer, "net.prototxt"), device="cpu")
        kind = re.search(r'type: "(\w+)"', layer)[1]
        bottoms = ", ".join(f"{name} {shape}" for name, shape in zip("abc", shapes, strict=False))
        place, said = str(caught.value).split(f": layer 'l' ({kind}): ")
        assert re.fullmatch(rf"net\.prototxt:{len(shapes) + 1}:\d+", place)
        return said.removesuffix(f" [bottoms: {bottoms}]")
    return said
