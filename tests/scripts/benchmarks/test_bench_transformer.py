"""bench_transformer.py and torch_transformer.py: nets that compute the same in PyTorch, and short runs."""

import json
from dataclasses import replace

import numpy as np
import pytest
from cases import in_turn
from programs import run_here

import minidrop as md
from minidrop.config.transformer import PLACES, Transformer

SHAPES = {
    "gpt": Transformer(16, 2, 2, causal=True),
    "bias": Transformer(16, 2, 2, causal=True, bias=False, norm_first=False, activation="ReLU"),
    "turned": Transformer(16, 2, 1, hidden=24, causal=True, rotary=True, norm="RMSNorm", activation="SiLU"),
    "apart": Transformer(16, 2, 1, causal=True, tied=False)}


def check(scripts, shape, model="gpt_shakespeare", batch=3):
    """Loss and every gradient agree between a net of a model's kind and PyTorch's, in float64."""
    torch = pytest.importorskip("torch", reason="PyTorch (the extra `peers`) is the other side here")
    kind = replace(scripts.transformer_nets.NETS["gpt_tiny"], model=model, batch=batch, small=shape)
    net = md.Net(kind.net("none"), "TRAIN", "cpu", dtype="float64", seed=1)
    rng = np.random.default_rng(0)
    for parameter in net.parameters().values():
        parameter.data[...] = rng.uniform(-0.7, 0.7, parameter.shape)
    theirs = kind.torch_net("none").double()
    scripts.torch_transformer.copy_weights(theirs, net)
    data = {name: array.astype(np.float64 if array.dtype.kind == "f" else np.int64)
            for name, array in kind.batches()[0].items()}
    net.forward(**data)
    net.backward()
    x, label = (torch.from_numpy(data[name]) for name in ("data", "label"))
    loss = theirs.loss(*((x.T, label.T) if kind.is_text else (x, label)))
    loss.backward()
    assert net.loss == pytest.approx(loss.item(), rel=1e-9)
    for name, expected in scripts.torch_transformer.views(theirs, gradients=True).items():
        expected = expected.numpy()
        np.testing.assert_allclose(net.parameters()[name].dense_grad().reshape(expected.shape), expected,
                                   rtol=0, atol=1e-9 * max(1, np.abs(expected).max()), err_msg=name)


@in_turn("name", SHAPES)
def test_a_gpt_is_that_of_pytorch(scripts, name):
    check(scripts, SHAPES[name])


@in_turn("model, batch, bias", [("vit_sparsedrop", 2, False), ("vit_cifar10", 1, True)])
def test_a_vision_transformer_is_that_of_pytorch(scripts, model, batch, bias):
    check(scripts, Transformer(16, 2, 1, bias=bias), model, batch)


def test_products_of_attention_stand_apart_where_their_inputs_drop(scripts):
    """With the same weights the net of one product and that of three compute the same, in tests."""
    torch = pytest.importorskip("torch")
    one, three = (scripts.torch_transformer.gpt(Transformer(16, 2, 1, causal=True, drops=drops), 9, 5).eval()
                  for drops in ({}, {"q": 0.5, "k": {"dropout_ratio": 0.5}, "v": 0.5}))
    views = scripts.torch_transformer.views
    assert {name for name, _ in three.named_parameters()} - {name for name, _ in one.named_parameters()} == {
        f"block1.attention.{part}.{own}" for part in "qkv" for own in ("weight", "bias")}
    for name, tensor in views(three).items():
        tensor.copy_(views(one)[name])
    tokens = torch.arange(10).reshape(2, 5) % 9
    torch.testing.assert_close(one(tokens), three(tokens))


@in_turn("place", PLACES)
def test_every_place_drops_in_pytorch(scripts, place):
    """In training nothing repeats itself where something is dropped, and in tests everything does."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    net = scripts.torch_transformer.gpt(Transformer(16, 4, 1, causal=True, drops={place: 0.5}, deviation=0.5),
                                        9, 5)
    tokens = torch.arange(10).reshape(2, 5) % 9
    assert len({float(net(tokens).detach().sum()) for _ in range(8)}) > 1
    net.eval()
    assert len({float(net(tokens).detach().sum()) for _ in range(3)}) == 1


def test_what_has_no_translation_is_refused(scripts):
    pytest.importorskip("torch")
    with pytest.raises(md.ConfigError, match="activation 'GELUU' has no translation .*did you mean 'GELU'"):
        scripts.torch_transformer.gpt(Transformer(16, 2, activation="GELUU"), 9, 5)
    shape = scripts.transformer_nets.TINY
    with pytest.raises(md.ConfigError, match="different parameters: norm/weight"):
        scripts.torch_transformer.copy_weights(
            scripts.torch_transformer.gpt(replace(shape, norm_first=False), 66, 8),
            md.Net(scripts.transformer_nets.NETS["gpt_tiny"].net("none"), "TRAIN", "cpu"))


# -- methods -------------------------------------------------------------------------------------------------
@in_turn("name, places", [("gpt_1024", 6), ("vit_1024", 4)])
def test_methods_drop_in_the_places_of_their_own(scripts, name, places):
    model = scripts.transformer_nets.find_net(name)
    blocks = scripts.transformer_nets.MODELS[model.model][2].blocks

    def drops(method):
        found = [layer for layer in model.net(method, 0.3).layer if "Drop" in layer.type]
        return {(layer.type, layer.approx_dropout_param.pattern if layer.type != "Dropout" else "")
                for layer in found}, len(found) // blocks
    assert drops("none") == (set(), 0)
    assert drops("conventional") == ({("Dropout", "")}, 4) and drops("inputs") == ({("Dropout", "")}, places)
    assert drops("approx") == ({("ApproxDropout", "PERIODIC")}, 4)
    assert drops("BLOCK") == ({("ApproxDropout", "BLOCK")}, places)


def test_what_the_products_of_methods_cost(scripts):
    own = {method: scripts.transformer_nets.find_net("gpt_tiny").operations(method, 0.5)
           for method in scripts.transformer_nets.METHODS}
    dense = own["none"][0]
    assert all(operations[0] == dense for operations in own.values())
    assert own["none"][1] == own["conventional"][1] == own["inputs"][1] == dense
    assert max(own["approx"][1], own["BLOCK"][1]) < dense


# -- the command ---------------------------------------------------------------------------------------------
SHORT = ("--blocks", "1", "--block-seconds", "0.01", "--threads", "1", "--rates", "0.5")


def run(scripts, path, *arguments):
    done = run_here(scripts.folder / "bench_transformer.py", *arguments, *SHORT, "--json", path)
    assert done.returncode == 0, done.stderr
    return json.loads(path.read_text()), done.stdout.splitlines()


def test_steps_of_a_net(scripts, tmp_path):
    pytest.importorskip("torch")
    result, lines = run(scripts, tmp_path / "steps.json", "--peer", "torch", "--no-compile", "--parts",
                        "nets", "--nets", "gpt_tiny:3", "--methods", "BLOCK")
    assert lines[-1].split()[:4] == ["gpt_tiny", "3", "0.5", "BLOCK"]
    [cell] = result["cells"]
    assert (cell["net"], cell["batch"], cell["rate"]) == ("gpt_tiny", 3, 0.5)
    [block] = cell["methods"].values()
    assert block["to_torch"] == pytest.approx(block["torch"]["ms"] / block["ms"])
    assert 1 < block["bound"] == pytest.approx(block["gflop_dense"] / block["gflop"])
    assert block["bound_ms"] == pytest.approx(1e3 * block["gflop"] / cell["gflop_per_second"])


@pytest.mark.full
def test_attention_and_a_product(scripts, tmp_path):
    pytest.importorskip("torch")
    result, _ = run(scripts, tmp_path / "parts.json", "--peer", "torch", "--parts", "attention", "product",
                    "--steps", "3", "--batch", "1", "--size", "64")
    attention, product = result["cells"]
    assert attention["methods"]["minidrop"]["torch"]["ms"] > 0
    assert list(product["methods"]) == ["dense", "Dropout", "PERIODIC", "BLOCK"]
    assert [own["bound"] for own in product["methods"].values()] == [1, 1, 2, 2]
    dense, block = product["methods"]["dense"], product["methods"]["BLOCK"]
    assert block["to_none"] == pytest.approx(dense["ms"] / block["ms"])


def test_what_a_method_is_compared_with(scripts):
    own = {"ms": 2.0, "bound_ms": 1.0, "torch": {"ms": 3.0}, "compiled": {"ms": 5.0}}
    scripts.bench_transformer.compare(own, {"ms": 6.0})
    assert [own[name] for name in ("to_torch", "to_compiled", "to_none", "of_bound")] == [1.5, 2.5, 3, 0.5]


def test_attention_alone_has_the_same_gradients(scripts):
    pytest.importorskip("torch")
    worker = scripts.transformer_worker
    sides = [kind(worker.AttentionCase(9), 2) for kind in (worker.MinidropAttention, worker.TorchAttention)]
    sides[1].gy = sides[1].to_own(sides[0].gy.transpose(1, 0, 2).copy())        # (streams, steps) there
    for side in sides:
        side.step()
    for a, b in zip(*(side.gradients() for side in sides), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(b).max())


@in_turn("method", ["dense", "Dropout", "PERIODIC", "BLOCK"])
def test_a_product_drops_its_share(scripts, method):
    steps = scripts.transformer_worker.ProductSteps(method, 256, 0.5)
    steps.step()
    share = float((np.asarray(steps.x.grad) == 0).mean())
    assert share == 0 if method == "dense" else 0.2 < share < 0.8


@pytest.mark.full
def test_torch_compile_works_or_says_why(scripts):
    """Takes a minute, of the compiler."""
    pytest.importorskip("torch")
    reason = scripts.bench_transformer.why_not_compiled()
    assert reason == "" or (len(reason) > 10 and "\n" not in reason)


@in_turn("arguments, expected", [
    (["--nets", "gpt_smal"], "unknown net 'gpt_smal'; did you mean 'gpt_small'?"),
    (["--nets", "gpt_small:0"], "expected NAME or NAME:BATCH, got the batch '0'"),
    (["--methods", "block"], "argument --methods: unknown 'block'"),
    (["--rates", "1"], "expected numbers above 0 and below 1, got 1"),
    (["--steps", "0"], "argument --steps: expected at least 1, got 0"),
    (["--threads", "0"], "argument --threads: expected at least 1, got 0")])
def test_mistakes_are_one_clear_message(scripts, arguments, expected):
    done = run_here(scripts.folder / "bench_transformer.py", *arguments)
    assert done.returncode == 2
    assert expected in done.stderr and "Traceback" not in done.stderr
