"""torch_text.py: PyTorch's translation and tagging nets are those of models/, batch by batch."""

import numpy as np
import pytest
from programs import run_here

import minidrop as md
from minidrop.net.torch_modules import form_of

RATE = 0.3
NAMES = {"embed_words": "words", "embed_characters": "letters"}       # where the module is called otherwise


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="PyTorch (the extra `peers`) is the other side here")


def gates(rows):
    """The rows of gates i, f, o, g in PyTorch's order, i, f, g, o."""
    i, f, o, g = np.split(rows, 4)
    return np.concatenate([i, f, g, o])


def in_torchs_names(net, arrays):
    """{PyTorch's name: array} of arrays with minidrop's names, weights or gradients."""
    found = {}
    for name, layer in net.layers.items():
        own = {key: arrays[f"{name}/{key}"] for key in layer.params}
        if layer.type == "AttentionDecoder":
            found |= {"cell.weight_ih": gates(np.concatenate([own["weight"], own["feeding_weight"]], 1)),
                      "cell.weight_hh": gates(own["recurrent_weight"]), "cell.bias_ih": gates(own["bias"]),
                      "result.weight": np.concatenate([own["context_weight"], own["output_weight"]], 1),
                      "keys.weight": own["memory_weight"],
                      **{f"bridge_{state}.{kind}": own[f"bridge_{state}_{kind}"]
                         for state in "hc" for kind in ("weight", "bias")}}
        elif layer.type == "CRF":
            found |= own
        elif own:
            written = form_of(layer.type).write(layer, own)
            found |= {f"{NAMES.get(name, name)}.{key}": array for key, array in written.items()}
    return found


@pytest.mark.parametrize("name", ["nmt_tiny", "ner_tiny"])
def test_losses_and_gradients_are_minidrops(scripts, torch, name):
    model = scripts.bench_models.find_model(name)
    peer = scripts.peers.peer_steps("torch", model, RATE)
    assert peer.module.drop.p == RATE
    net = md.Net(model.net("Dropout", RATE), "TRAIN", "cpu", dtype="float64", seed=0)
    net.set_dropping(False)
    peer.module.double().eval()
    parameters = dict(peer.module.named_parameters())
    weights = in_torchs_names(net, {key: one.numpy() for key, one in net.parameters().items()})
    assert {key for key in parameters if "bias_hh" not in key} <= set(weights)
    with torch.no_grad():
        for key, parameter in parameters.items():       # minidrop has one bias
            given = weights.get(key) if "bias_hh" not in key else None
            parameter.copy_(torch.zeros(()) if given is None else torch.from_numpy(np.array(given)))
    for _ in range(3):                                  # batches of several lengths
        net.clear_grads()
        net.forward()
        net.backward()
        peer.optimizer.zero_grad()
        loss = peer.loss(*peer.batch())
        loss.backward()
        assert net.loss == pytest.approx(loss.item(), rel=1e-10)
        gradients = in_torchs_names(net, {key: one.dense_grad() for key, one in net.parameters().items()})
        for key, parameter in parameters.items():
            if "bias_hh" not in key:
                np.testing.assert_allclose(parameter.grad.numpy(), gradients[key], rtol=1e-7, atol=1e-12,
                                           err_msg=key)


@pytest.mark.parametrize("name", ["nmt_tiny", "ner_tiny"])
def test_a_step_drops_and_updates(scripts, torch, name):
    peer = scripts.peers.peer_steps("torch fused", scripts.bench_models.find_model(name), RATE)
    before = [parameter.detach().clone() for parameter in peer.parameters]
    assert peer.step() == "" and peer.module.training and peer.optimizer.defaults["fused"]
    assert all(not torch.equal(own, was) for own, was in zip(peer.parameters, before, strict=True))


def test_other_peers_of_sentences_are_refused(scripts):
    result = run_here(scripts.folder / "bench_lstm.py", "--models", "ner_tiny", "--peer", "handmade")
    assert result.returncode == 2
    assert "argument --peer: ner_tiny reads sentences, and has the peer torch alone" in result.stderr


def test_sentences_that_are_not_there_end_in_one_line(scripts, tmp_path, monkeypatch):
    monkeypatch.setenv("MINIDROP_CACHE", str(tmp_path))
    result = run_here(scripts.folder / "bench_lstm.py", "--models", "nmt_multi30k", folder=tmp_path)
    assert result.returncode == 1 and result.stdout == ""
    assert "layer 'pairs' (ParallelTextData): source 'multi30k/train" in result.stderr
    assert result.stderr.startswith("error: ") and len(result.stderr.strip().splitlines()) == 1
