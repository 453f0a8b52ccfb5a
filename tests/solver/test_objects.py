"""Solver.of: a Solver of Python objects is that of a file, and a loop by hand, to the last bit."""

import numpy as np
import pytest
from cases import in_turn

import minidrop as md
from minidrop import nn, optim
from minidrop.config import parse_net
from minidrop.data import ArrayDataset, DataLoader, GeneratorDataset

RECORDS, INPUTS, CLASSES, BATCH, SEED = 50, 12, 4, 16, 5     # four batches an epoch, the last of 2 records
rng = np.random.default_rng(0)
X = rng.standard_normal((RECORDS, INPUTS)).astype("f")
Y = rng.integers(0, CLASSES, RECORDS)


def mlp(rate=0.5, dtype="float32", seed=SEED, **settings):
    return nn.Sequential(nn.Linear(INPUTS, 32), nn.ReLU(), nn.ApproxDropout(rate, **settings),
                         nn.Linear(32, CLASSES)).to("cpu", dtype).set_seed(seed)


def loader(shuffle=True, size=BATCH, records=RECORDS, **options):
    return DataLoader(ArrayDataset(X[:records], Y[:records]), size, shuffle=shuffle, seed=2, **options)


def sgd(model):
    return optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)


def solver_of(model, optimizer, train=None, **options):
    return md.Solver.of(model, nn.CrossEntropyLoss(), optimizer, loader() if train is None else train,
                        **{"max_iter": 10, **options})


def by_hand(model, optimizer, batches, iterations, scheduler=None, loss=None):
    """The loop that a Solver of objects does in place of a user."""
    loss = loss or nn.CrossEntropyLoss().to("cpu", model.dtype)
    while iterations:
        for *x, y in batches:
            loss(model(*x), y).backward()
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
            iterations -= 1
            if not iterations:
                return


def assert_same(state, other):
    assert state.keys() == other.keys()
    for name, array in state.items():
        np.testing.assert_array_equal(array, other[name], err_msg=name)


FILE = f"""
    layer {{ name: "data" type: "MemoryData" top: "x" top: "label"
             memory_data_param {{ batch_size: {BATCH} channels: {INPUTS} height: 1 width: 1 }} }}
    layer {{ name: "0" type: "InnerProduct" bottom: "x" top: "ip1"
             inner_product_param {{ num_output: 32 weight_filler {{ type: "msra" }} }} }}
    layer {{ name: "1" type: "ReLU" bottom: "ip1" top: "ip1" }}
    layer {{ name: "2" type: "ApproxDropout" bottom: "ip1" top: "ip1" approx_dropout_param {{ %s }} }}
    layer {{ name: "3" type: "InnerProduct" bottom: "ip1" top: "ip2"
             inner_product_param {{ num_output: {CLASSES} weight_filler {{ type: "msra" }} }} }}
    layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }}
    layer {{ name: "accuracy" type: "Accuracy" bottom: "ip2" bottom: "label" top: "accuracy"
             include {{ phase: TEST }} }}"""


@in_turn("drop", [{}, {"pattern": "ROW", "reshuffle_interval": 3}, {"dropout_ratio": 0.3, "groups": 4}])
def test_it_equals_the_solver_of_a_file(drop):
    """Weights, histories, averages, tests, display and gradient norms of a run with all of them."""
    text = FILE % " ".join(f"{name}: {value!r}" for name, value in drop.items())
    records = 3 * BATCH         # MemoryData goes on into the next epoch with a batch that is not full
    settings = {"test_interval": 4, "display": 3, "clip_gradients": 0.9, "ema_decay": 0.9, "average_loss": 2,
                "log_gradient_norm": True, "max_iter": 10}
    file = md.Solver(md.SolverParameter(
        net_param=parse_net(text).message, base_lr=0.1, lr_policy="poly", power=2, momentum=0.9,
        weight_decay=0.01, random_seed=SEED, test_iter=[-1], **settings), device="cpu")
    for net in (file.net, *file.test_nets):
        net.set_input_arrays(X[:records].reshape(records, INPUTS, 1, 1), Y[:records])
    model = mlp(drop.get("dropout_ratio", 0.5), **{name: value for name, value in drop.items()
                                                   if name != "dropout_ratio"})
    optimizer = sgd(model)
    objects = solver_of(model, optimizer, loader(shuffle=False, records=records),
                        test=loader(False, 20, records),
                        scheduler=optim.schedulers.poly(optimizer, 10, power=2),
                        metrics={"accuracy": nn.Accuracy()}, **settings)
    told = []
    for solver in (file, objects):
        told.append([])
        solver.add_callback(lambda event, said=told[-1]: said.append(
            (event.kind, event.iteration, {**event.values, "accuracy": None, "loss": None}
             if event.kind == "test" else event.values)))
    values = [solver.solve() for solver in (file, objects)]
    assert told[0] == told[1] and len(told[0]) == 10 + 4 + 5
    assert values[0]["accuracy"] == pytest.approx(values[1]["accuracy"], abs=1e-6)     # other batches
    for of_file, own in ((file.net.parameters(), objects.net.parameters()),
                         (file.ema.averages, objects.ema.averages)):
        assert_same({name: getattr(p, "data", p) for name, p in of_file.items()},
                    {name: getattr(p, "data", p) for name, p in own.items()})
    for name, history in file.updater.history.items():
        np.testing.assert_array_equal(history, objects.updater.history[name])
    assert objects.net.parameters()["0/weight"] is model[0].weight


@in_turn("named", (True, False))
def test_several_tests_equal_the_test_nets_of_a_file(named):
    """Each with its own records and outputs, also told in their order; batches of 20, the last smaller."""
    text = FILE % "" + """
        layer { name: "two" type: "Accuracy" bottom: "ip2" bottom: "label" top: "two"
                accuracy_param { top_k: 2 } include { phase: TEST stage: "second" } }"""
    second = {"phase": "TEST", "stage": ["second"]}
    nets = [parse_net(text.replace(f"batch_size: {BATCH}", f"batch_size: {size}")).message
            for size in (BATCH, 20, 20)]
    settings = {"test_interval": 2, "ema_decay": 0.9, "max_iter": 6, "random_seed": SEED}
    file = md.Solver(md.SolverParameter(
        train_net_param=nets[0], test_net_param=nets[1:], test_state=[{}, second], base_lr=0.1,
        lr_policy="fixed", momentum=0.9, weight_decay=0.01, test_iter=[-1, -1], **settings), device="cpu")
    data = (X[:48], Y[:48]), (X[:30], Y[:30]), (X[7:], Y[7:])
    for net, (x, y) in zip((file.net, *file.test_nets), data, strict=True):
        net.set_input_arrays(x.reshape(len(x), INPUTS, 1, 1), y)
    model = mlp()
    train, *tests = (DataLoader(ArrayDataset(*own), size, shuffle=False)
                     for own, size in zip(data, (BATCH, 20, 20), strict=True))
    metrics = [{"accuracy": nn.Accuracy()}, {"accuracy": nn.Accuracy(), "two": nn.Accuracy(top_k=2)}]
    del settings["random_seed"]
    if named:
        tests, metrics = (dict(zip("ab", own, strict=True)) for own in (tests, metrics))
    objects = solver_of(model, sgd(model), train, test=tests, metrics=metrics, **settings)
    told = []
    for solver in (file, objects):
        told.append([])
        solver.add_callback(lambda event, said=told[-1]: said.append(
            (event.kind, event.iteration, event.net, event.values)))
    values = [solver.solve() for solver in (file, objects)]
    assert told[0] == told[1] and values[0] == values[1]
    assert [(net, sorted(means)) for kind, at, net, means in told[1] if kind == "test" and at == 2] == [
        (0, ["accuracy", "loss"]), (1, ["accuracy", "loss", "two"])]
    if named:
        assert [net.config.message.name for net in objects.test_nets] == ["a", "b"]


def test_metrics_of_all_tests_and_of_one():
    tests = {"a": loader(False, 20), "b": loader(False, 10, 30)}
    for metrics, outputs in (({"right": nn.Accuracy()}, [["loss", "right"], ["loss", "right"]]),
                             ({"b": {"right": nn.Accuracy()}}, [["loss"], ["loss", "right"]]),
                             (None, [["loss"], ["loss"]])):
        model = mlp()
        solver = solver_of(model, sgd(model), test=tests, metrics=metrics)
        assert [sorted(net.outputs) for net in solver.test_nets] == outputs
        # Each is the test of a Solver that has it alone.
        for i, (name, one) in enumerate(tests.items()):
            alone = solver_of(model, sgd(model), test=one, metrics={"right": nn.Accuracy()}).test()
            found = solver.test(i)
            assert found == {key: alone[key] for key in found}, name


def reshuffled(path=None):
    model = mlp(pattern="ROW", reshuffle_interval=3)
    return solver_of(model, sgd(model), snapshot_prefix=path, ema_decay=0.9)


def test_a_drop_that_reshuffles_is_trained_by_a_solver(tmp_path):
    """A resumed run permutes as the uninterrupted one; evaluation goes on, a loop by hand is refused."""
    solver = reshuffled(tmp_path / "run")
    model = solver.source.model
    before = model[0].weight.data.copy()
    [*moves] = solver.net.due_permutations(3)
    assert any(parameter is model[0].weight for parameter, *_ in moves) and len(moves) == 3
    solver.step(5)
    path = solver.snapshot()
    scores = model.eval()(X).numpy()
    assert not np.array_equal(before, model[0].weight.data)
    solver.step(5)
    other = reshuffled()
    other.restore(path)
    np.testing.assert_array_equal(other.source.model.eval()(X).numpy(), scores)
    other.step(5)
    for ours, theirs in zip(model.parameters(), other.source.model.parameters(), strict=True):
        np.testing.assert_array_equal(ours.data, theirs.data)
    assert_same(solver.ema.averages, other.ema.averages)
    with pytest.raises(md.ConfigError, match="a Solver does and a loop by hand cannot; train with Solver.of"):
        model.train()(X)
    assert model.net_for(X).reshuffles


def groups(kind, **options):
    def make(model):
        return kind([{"params": model[0].parameters(), "lr": 0.02, "weight_decay": 0.1},
                     {"params": model[3].parameters()}], lr=0.01, **options)
    return make


def adamw(model):
    return optim.AdamW(model.parameters(), lr=0.01)


@in_turn("make, schedule", [
    (sgd, None),
    (adamw, lambda one: optim.schedulers.cosine(one, 8, warmup_iter=3)),
    (lambda model: optim.Nesterov(model.parameters(), lr=1 / 30, form="pytorch"), None),
    (groups(optim.Adam), lambda one: optim.schedulers.cosine(one, 9, min_lr=0.005)),
    (groups(optim.SGD, momentum=0.9, form="pytorch"),
     lambda one: optim.schedulers.onecycle(one, 0.05, 10, momenta=(0.8, 0.95))),
    (lambda model: optim.SGD([{"params": model[0].parameters(), "momentum": 0.5, "l1": True},
                              {"params": model[3].parameters()}], lr=0.1, momentum=0.9), None),
    (lambda model: optim.RMSProp(model[3].parameters()), None)])
def test_it_equals_a_loop_by_hand(make, schedule):
    """Shuffled, with a smaller last batch; optimizer, scheduler, loader and model stand where theirs do."""
    ends = []
    for trains in ("solver", "loop"):
        model, batches = mlp(), loader(workers=2 if trains == "solver" else 0)
        optimizer = make(model)
        scheduler = schedule and schedule(optimizer)
        if trains == "solver":
            solver = solver_of(model, optimizer, batches, scheduler=scheduler)
            solver.solve()
            solver.close()
        else:
            by_hand(model, optimizer, batches, 10, scheduler)
        ends.append([model.state_dict(), model.run_state(), optimizer.state_dict(), batches.state_dict(),
                     scheduler.state_dict() if scheduler else {}])
    for one, other in zip(*ends, strict=True):
        assert_same(one, other)


def test_clipping_and_passes_of_several_batches_equal_a_loop_up_to_rounding():
    model, other, loss = mlp(), mlp(), nn.CrossEntropyLoss()
    solver_of(model, sgd(model), loader(False, 10), clip_gradients=0.3, max_iter=5).solve()
    optimizer = sgd(other)
    for x, y in loader(False, 10):
        loss(other(x), y).backward()
        assert optim.clip_grad_norm(other.parameters(), 0.3) > 0.3
        optimizer.step()
    for name, array in other.state_dict().items():
        np.testing.assert_allclose(model.state_dict()[name], array, rtol=1e-4, atol=1e-6)
    model, other = mlp(), mlp()
    batches = loader(False, 10)
    solver_of(model, sgd(model), batches, iter_size=2, max_iter=5).solve()
    assert model.iteration == 10 and batches.epoch == 2
    optimizer = sgd(other)
    for i, (x, y) in enumerate([*loader(False, 10), *loader(False, 10)]):
        loss(other(x), y).backward(0.5)
        if i % 2:
            optimizer.step()
    for name, array in other.state_dict().items():
        np.testing.assert_allclose(model.state_dict()[name], array, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("first", ["solver", "loop"])
def test_a_loop_by_hand_goes_on_from_a_solver_and_the_other_way_round(first):
    ends = []
    for change in (None, first):
        model, batches = mlp(), loader()
        optimizer = sgd(model)
        if change is None:
            by_hand(model, optimizer, batches, 13)
        elif first == "solver":
            solver_of(model, optimizer, batches).step(6)
            by_hand(model, optimizer, batches, 7)
        else:
            by_hand(model, optimizer, batches, 6)
            batches.load_state_dict(batches.state_dict())       # as after an interruption
            solver = solver_of(model, optimizer, batches, max_iter=13)
            assert solver.iteration == 6
            solver.solve()
        ends.append({**model.state_dict(), **optimizer.state_dict()})
    assert_same(*ends)


class Run:
    """All that a solver of objects has, made anew as a script does that resumes."""

    def __init__(self, prefix, batches=None, **options):
        self.model, self.batches = mlp(), loader() if batches is None else batches()
        self.optimizer = optim.AdamW(self.model.parameters(), lr=0.02)
        self.scheduler = optim.schedulers.cosine(self.optimizer, 12)
        self.stopping = md.EarlyStopping("accuracy", "max", patience=50)
        self.solver = solver_of(
            self.model, self.optimizer, self.batches, test=loader(False, 20), scheduler=self.scheduler,
            metrics={"accuracy": nn.Accuracy()}, early_stopping=self.stopping, ema_decay=0.9, max_iter=12,
            **{"test_interval": 3, "snapshot_prefix": prefix, **options})

    @property
    def end(self):
        loss = {} if self.solver.ema is None else self.solver.ema.state_dict()
        return {**self.model.state_dict(), **self.optimizer.state_dict(), **loss,
                **self.scheduler.state_dict(), **self.stopping.state_dict(), **self.batches.state_dict()}


def stream(length=None):
    def numbers(epoch):
        order = np.random.default_rng(epoch).permutation(RECORDS - epoch if length is None else RECORDS)
        yield from zip(X[order], Y[order], strict=True)
    return lambda: DataLoader(GeneratorDataset(numbers, length, buffer=9, per_epoch=True), BATCH,
                              shuffle=True, drop_last=length is None)


@in_turn("batches, part, options", [
    (None, 6, {}),
    (lambda: loader(workers=1, augment=lambda rng, x, y: (x + rng.random(), y)), 5, {"iter_size": 2}),
    (stream(RECORDS), 6, {}), (stream(), 7, {})])
def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path, batches, part, options):
    """In the middle of an epoch, with shuffling, averages, early stopping, AdamW and a cosine."""
    whole = Run(tmp_path / "whole", batches, **options)
    values = whole.solver.solve()
    assert whole.solver.iteration == 12
    stopped = Run(tmp_path / "part", batches, **options)
    stopped.solver.step(part)
    assert stopped.batches.state_dict()["batch"] in (1, 2)      # of 3 or 4
    stopped.solver.snapshot()
    resumed = Run(tmp_path / "part", batches, **options)
    resumed.solver.restore(tmp_path / f"part_iter_{part}.h5")
    assert_same(resumed.end, stopped.end)
    assert resumed.solver.solve() == values
    assert_same(resumed.end, whole.end)
    assert list(resumed.solver.losses) == list(whole.solver.losses)
    for run in (whole, stopped, resumed):
        run.solver.close()


def test_a_rate_set_in_a_callback_is_resumed(tmp_path):
    ends = []
    for parts in ([9], [5, 4]):
        for i, steps in enumerate(parts):
            model = mlp()
            optimizer = sgd(model)
            solver = solver_of(model, optimizer, snapshot_prefix=tmp_path / "s")

            @solver.add_callback
            def halve(event, optimizer=optimizer):
                if event.kind == "step":
                    optimizer.lr = optimizer.lr * 0.5
            if i:
                solver.restore(tmp_path / "s_iter_5.h5")
                assert optimizer.lr == solver.learning_rate == 0.1 / 2 ** 5
            solver.step(steps)
            solver.snapshot()
        ends.append({**model.state_dict(), **optimizer.state_dict()})
    assert_same(*ends)


def test_batches_with_the_steps_first():
    """(steps, records, inputs); a smaller last batch needs another net."""
    def collate(records):
        x, y = zip(*records, strict=True)
        return np.stack(x, axis=1), np.array(y)

    class Last(nn.Module):
        def __init__(self):
            self.lstm, self.scores = nn.LSTM(3, 5), nn.Linear(5, CLASSES)

        def forward(self, x, cont=None):
            return self.scores(self.lstm(x)[-1])
    sequences, ends = ArrayDataset(X.reshape(RECORDS, 4, 3), Y), []
    for trains in ("solver", "loop"):
        model = Last().to("cpu")
        optimizer, batches = sgd(model), DataLoader(sequences, 16, collate=collate, drop_last=True)
        if trains == "solver":
            solver_of(model, optimizer, batches).solve()
        else:
            by_hand(model, optimizer, batches, 10)
        ends.append(model.state_dict())
    assert_same(*ends)
    model = Last().to("cpu")
    with pytest.raises(md.ConfigError, match="the last batch of an epoch has 2 records in place of 16, and "
                       "for it the forward of Last describes no net: .* let the loader drop_last"):
        solver_of(model, sgd(model), DataLoader(sequences, 16, collate=collate))


# -- losses and metrics --------------------------------------------------------------------------------------
def squares(scores, labels):
    labels = labels.numpy() if isinstance(labels, md.Tensor) else labels
    hot = md.tensor(np.eye(CLASSES, dtype="f")[labels.astype(int)])
    return ((scores - hot) ** 2).mean()


class Two(nn.Module):
    """A sum of losses, each of which is one by itself."""

    def __init__(self):
        self.entropy, self.smooth = nn.CrossEntropyLoss(), nn.CrossEntropyLoss(label_smoothing=0.2)

    def forward(self, scores, labels):
        return self.entropy(scores, labels) * 0.25 + self.smooth(scores, labels)


class Untraced(nn.Module):
    traced = False

    def forward(self, scores, labels):
        return squares(scores, labels) * (2.0 if float(scores.numpy()[0, 0]) > 0 else 1.0)


class Weighted(nn.Module):
    """A loss with a parameter of its own."""

    def __init__(self):
        self.scale, self.entropy = nn.Weight(CLASSES, filler={"type": "constant", "value": 1}), \
            nn.CrossEntropyLoss()

    def forward(self, scores, labels):
        return self.entropy(scores * self.scale(), labels)


@in_turn("make", [lambda: squares, Two, Untraced, Weighted, lambda: nn.CrossEntropyLoss(reduction="sum")])
def test_losses(make):
    """Functions of Tensors and modules, each as in a loop by hand."""
    ends = []
    for trains in ("solver", "loop"):
        model, loss, batches = mlp(), make(), loader()
        parameters = [*model.parameters(), *(loss.parameters() if isinstance(loss, nn.Module) else [])]
        optimizer = optim.Adam(parameters, lr=0.01)
        if trains == "solver":
            solver = md.Solver.of(model, loss, optimizer, batches, max_iter=7)
            solver.solve()
            assert solver.net.outputs == ["loss"]
        else:
            by_hand(model, optimizer, batches, 7, loss=loss)
        ends.append({**model.state_dict(), **optimizer.state_dict()})
    assert_same(*ends)


def test_metrics_are_means_over_the_records():
    """Of batches of 20, 20 and 10 records; functions may give Tensors or floats."""
    model = mlp()
    solver = solver_of(model, sgd(model), test=loader(False, 20), metrics={
        "accuracy": nn.Accuracy(), "top2": nn.Accuracy(top_k=2), "squares": squares,
        "largest": lambda scores, labels: float(scores.numpy().max(axis=1).mean())})
    solver.solve()
    values = solver.test()
    assert list(values) == ["loss", "accuracy", "top2", "squares", "largest"]
    assert model.training and model[2].training
    scores = model.eval()(X)
    order = np.argsort(-scores.numpy(), axis=1)
    assert values == pytest.approx({
        "loss": float(nn.CrossEntropyLoss()(scores, Y)), "squares": float(squares(scores, md.tensor(Y))),
        "accuracy": (order[:, 0] == Y).mean(), "top2": (order[:, :2] == Y[:, None]).any(axis=1).mean(),
        "largest": scores.numpy().max(axis=1).mean()}, rel=1e-6)


class Both(nn.Module):
    """Two inputs, two outputs; a layer is called as an output is, another as an argument."""

    def __init__(self):
        self.loss, self.x = nn.Linear(INPUTS, 8), nn.Linear(INPUTS, 8)
        self.drop, self.scores = nn.ApproxDropout(0.5), nn.Linear(8, CLASSES)

    def forward(self, x, other):
        hidden = self.drop(self.loss(x) + self.x(other))
        return {"scores": self.scores(hidden), "hidden": hidden}


def test_several_inputs_outputs_and_targets():
    def loss(outputs, labels, weights):
        return (nn.CrossEntropyLoss()(outputs["scores"], labels)
                + (outputs["hidden"] ** 2).mean() * weights.mean())
    ends, weights = [], np.linspace(0, 1, RECORDS, dtype="f")
    for trains in ("solver", "loop"):
        model = Both().to("cpu").set_seed(1)
        optimizer, batches = sgd(model), DataLoader(ArrayDataset(X, X[::-1].copy(), Y, weights), BATCH)
        if trains == "solver":
            solver = md.Solver.of(model, loss, optimizer, batches, inputs=2, max_iter=6, test=batches,
                                  metrics={"hidden": lambda outputs, *_: outputs["hidden"].mean()})
            assert list(solver.test()) == ["loss", "hidden"]
            solver.solve()
        else:
            done = 0
            while done < 6:
                for x, other, y, weight in batches:
                    if done < 6:
                        loss(model(x, other), md.tensor(y), md.tensor(weight)).backward()
                        optimizer.step()
                        done += 1
        ends.append({**model.state_dict(), **optimizer.state_dict()})
    assert_same(*ends)


# -- what else a solver does ---------------------------------------------------------------------------------
class Sequences(nn.Module):
    """A recurrent model of (records, steps, inputs); what it calls begins anew in each batch, or goes on."""

    def __init__(self, stateful):
        self.lstm, self.scores = nn.LSTM(3, 6, stateful=stateful), nn.Linear(6, CLASSES)

    def forward(self, x):
        return self.scores(self.lstm(x.permute(1, 0, 2))[-1])


@in_turn("stateful", [False, True])
def test_recurrent_states_begin_anew_or_go_on(tmp_path, stateful):
    def parts():
        model = Sequences(stateful).to("cpu").set_seed(1)
        batches = DataLoader(ArrayDataset(X[:48].reshape(48, 4, 3), Y[:48]), BATCH, shuffle=True, seed=3)
        return model, sgd(model), batches
    model, optimizer, batches = parts()
    by_hand(model, optimizer, batches, 8)
    end = {**model.state_dict(), **optimizer.state_dict(), **model.run_state()}
    model, optimizer, batches = parts()
    solver_of(model, optimizer, batches, snapshot_prefix=tmp_path / "s").step(3)
    by_hand(model, optimizer, batches, 5)
    assert_same(end, {**model.state_dict(), **optimizer.state_dict(), **model.run_state()})
    model, optimizer, batches = parts()
    solver = solver_of(model, optimizer, batches, snapshot_prefix=tmp_path / "s")
    solver.step(5)
    path = solver.snapshot()
    model, optimizer, batches = parts()
    solver = solver_of(model, optimizer, batches)
    solver.restore(path)
    solver.step(3)
    assert_same(end, {**model.state_dict(), **optimizer.state_dict(), **model.run_state()})


@in_turn("frozen", [False, True])
def test_statistics_of_norms_are_those_of_the_model(frozen):
    """Also where a norm alone is in eval mode, and its layer is not trained."""
    ends = []
    for trains in ("solver", "loop"):
        model = nn.Sequential(nn.Linear(INPUTS, 8), nn.BatchNorm(8), nn.Linear(8, CLASSES)).to("cpu")
        if frozen:
            by_hand(model, sgd(model), loader(), 2)
            model[1].eval()
            model[0].requires_grad_(False)
        model.draw_from(0)
        optimizer = sgd(model)
        if trains == "solver":
            solver_of(model, optimizer, test=loader(False, 20), ema_decay=0.5).solve()
        else:
            by_hand(model, optimizer, loader(), 10)
        ends.append(model.state_dict())
    assert_same(*ends)


def test_drops_can_be_converted_and_learning_rates_found():
    model = mlp()
    solver = solver_of(model, sgd(model), dropout="conventional")
    assert solver.net.layers["2"].type == "Dropout"
    solver = solver_of(model, sgd(model), loader(drop_last=True))
    before = {**model.state_dict(), **solver.source.optimizer.state_dict()}
    rates = md.find_learning_rate(solver, 1e-3, 1.0, 20)
    assert rates.rates[-1] == pytest.approx(1) and solver.iteration == 0
    assert_same(before, {**model.state_dict(), **solver.source.optimizer.state_dict()})


def test_callbacks_stop_and_break_off_a_run():
    """Whatever ends it, the objects stand where the solver does, and it can go on."""
    model, batches = mlp(), loader()
    optimizer = sgd(model)
    solver = solver_of(model, optimizer, batches, max_iter=9)
    seen = []

    @solver.add_callback
    def look(event):
        seen.append((event.kind, event.iteration, model.iteration, optimizer.param_groups[0].iteration,
                     batches.state_dict()["batch"]))
        if event.iteration == 3:
            solver.stop()
        if event.iteration == 6:
            raise KeyError("mine")
    assert solver.solve() == {} and solver.iteration == 3
    assert seen == [("step", n, n, n, n) for n in (1, 2, 3)]
    with pytest.raises(KeyError, match="mine"):
        solver.solve()
    assert solver.iteration == model.iteration == 6
    solver.solve()
    other = mlp()
    by_hand(other, sgd(other), loader(), 9)
    assert_same(model.state_dict(), other.state_dict())


def test_a_solver_does_not_go_on_where_a_loop_by_hand_did():
    model, batches = mlp(), loader()
    optimizer = sgd(model)
    solver = solver_of(model, optimizer, batches)
    solver.step(2)
    by_hand(model, optimizer, batches, 1)
    with pytest.raises(md.ConfigError, match="the optimizer took 3 steps and the solver 2: a loop by hand"):
        solver.step()
    assert solver_of(model, optimizer, batches).iteration == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_a_record_that_cannot_be_read_is_named_and_costs_nothing(workers):
    def fragile(x, y):
        if np.array_equal(x, X[17]) and fails:
            fails.clear()
            raise OSError("gone")
        return x, y
    fails = []
    model, other = mlp(), mlp()
    batches = DataLoader(ArrayDataset(X, Y).map(fragile), BATCH, shuffle=True, seed=2, workers=workers)
    optimizer = sgd(model)
    solver = solver_of(model, optimizer, batches)
    solver.step(2)
    fails.append(1)
    with pytest.raises(md.DataError, match="record 17 of .*OSError: gone"):
        solver.solve()
    assert model.iteration == optimizer.param_groups[0].iteration == solver.iteration < 10
    solver.solve()
    solver.close()
    by_hand(other, sgd(other), loader(), 10)
    assert_same(model.state_dict(), other.state_dict())


def test_early_stopping_ends_it():
    model = mlp()
    stopping = md.EarlyStopping("loss", "min", patience=1, min_delta=100)
    solver = solver_of(model, sgd(model), test=loader(False, 20), early_stopping=stopping, max_iter=40)
    solver.solve()
    assert solver.early_stopping is stopping and stopping.waited == 1
    assert solver.iteration == 4 == solver.settings.test_interval      # an epoch


def test_a_loss_that_is_not_finite_names_the_record():
    x = X.copy()
    x[7, 3] = np.nan
    model = mlp()
    solver = solver_of(model, sgd(model), DataLoader(ArrayDataset(x, Y), 5, shuffle=True, seed=2))
    with pytest.raises(md.NonFiniteError, match=r"because the data hold a NaN or infinity: record 7 of .*"
                       r"\(blob 'x' of layer 'data/loader'\)"):
        solver.solve()
    assert np.isfinite(model[0].weight.data).all() and model.iteration == solver.iteration


def test_what_it_shows_of_itself():
    model = mlp()
    solver = solver_of(model, sgd(model), test=loader(False, 20), epochs=3, max_iter=None)
    assert repr(solver) == ("Solver(SGD, iteration 0 of 12, lr 0.1, 1 test net, trains 'Sequential', phase "
                            "TRAIN, float32, cpu: 6 layers, 548 parameters)")
    assert solver.settings.weight_decay == pytest.approx(0.01) and solver.settings.random_seed == SEED
    own = {name: p for name, p in solver.net.parameters().items()}
    assert own["3/bias"] is model[3].bias and solver.test_nets[0].params["3"]["bias"] is model[3].bias


def test_what_a_smaller_last_batch_may_do():
    """A number that float64 has exactly only by a function, an nn.Lambda, -1 in a reshape, a tied layer."""
    class Free(nn.Module):
        def __init__(self):
            self.one, self.two = nn.Linear(INPUTS, INPUTS), nn.Linear(INPUTS, INPUTS)
            self.two.tie("weight", self.one)
            self.half, self.scores = nn.Lambda(lambda x: x * 0.5), nn.Linear(INPUTS, CLASSES)

        def forward(self, x):
            return self.scores(self.half(self.two(self.one(x) * (1 / 3))).reshape(-1, 3, 4).reshape(-1, 12))
    ends = []
    for trains in ("solver", "loop"):
        model = Free().to("cpu", "float64").set_seed(2)
        optimizer = sgd(model)
        if trains == "solver":
            solver_of(model, optimizer).solve()
        else:
            by_hand(model, optimizer, loader(), 10)
        ends.append({**model.state_dict(), **optimizer.state_dict()})
    assert_same(*ends)


# -- mistakes ------------------------------------------------------------------------------------------------
class Reshaped(nn.Module):
    def __init__(self, how):
        self.scores, self.how = nn.Linear(INPUTS, CLASSES), how

    def forward(self, x):
        return self.how(self.scores(x), x)


def broken(model=None, loss=None, optimizer=None, train=None, **options):
    model = mlp() if model is None else model
    optimizer = sgd(model) if optimizer is None else optimizer(model)
    loss = nn.CrossEntropyLoss() if loss is None else loss
    return md.Solver.of(model, loss, optimizer, loader() if train is None else train,
                        **{"max_iter": 10, **options})


def other_scheduler():
    return optim.schedulers.fixed(sgd(mlp()))


def stepped(model):
    optimizer = groups(optim.Adam)(model)
    optimizer.param_groups[0].set_state(3, 0.1, 0.0)
    return optimizer


MISTAKES = [
    (lambda: md.Solver.of(mlp, nn.CrossEntropyLoss(), None, loader()), "model: expected a Module, got "),
    (lambda: broken(optimizer=lambda _: "sgd"), "optimizer: expected one of md.optim, got str"),
    (lambda: broken(train=[(X, Y)]), "train: expected a DataLoader, got list"),
    (lambda: broken(test=X), "test: expected a DataLoader or None, got ndarray"),
    (lambda: broken(test=[]), "test: expected one or more loaders, got an empty list; None is for no test"),
    (lambda: broken(test=[loader(), X]), "test 1: expected a DataLoader, got ndarray"),
    (lambda: broken(test={"": loader()}), "test: expected names of loaders, got ''"),
    (lambda: broken(test=[loader()], metrics=[{}, {}]), "metrics: expected those of each test, 0, got 0, 1"),
    (lambda: broken(test={"a": loader()}, metrics={"b": {}}), "expected those of each test, 'a', got 'b'"),
    (lambda: broken(test={"a": loader(), "b": loader()}, metrics={"a": {}, "b": squares}),
     "metrics: expected {name: function} for test 'b', got function"),
    (lambda: broken(test=loader(), metrics=3), "metrics: expected {name: function}, got int"),
    (lambda: broken(scheduler="cosine"), "scheduler: expected one of md.optim.schedulers, got str"),
    (lambda: broken(scheduler=other_scheduler()), "scheduler: it is that of another optimizer"),
    (lambda: broken(loss="mse"), "loss: expected a module or a function, got str"),
    (lambda: broken(early_stopping="loss"), "early_stopping: expected an EarlyStopping, got str"),
    (lambda: broken(early_stopping=md.EarlyStopping("los", "min"), test=loader(False, 20)),
     "early_stopping: the test nets have no output 'los'; did you mean 'loss'"),
    (lambda: broken(early_stopping=md.EarlyStopping("loss", "min")), "there is no test net"),
    (lambda: broken(metrics={"accuracy": nn.Accuracy()}), "metrics: tests compute them; give a test loader"),
    (lambda: broken(metrics={"loss": squares}, test=loader()), "metrics: expected names other than 'loss'"),
    (lambda: broken(mlp().eval()), "Sequential is in eval mode; call its method train"),
    (lambda: broken(max_iter=None), "give either max_iter or epochs"),
    (lambda: broken(epochs=2), "give either max_iter or epochs"),
    (lambda: broken(max_iter=0), "max_iter must be at least 1, got 0"),
    (lambda: broken(max_iter=None, epochs=1, train=stream()()), "not know how many batches an epoch has"),
    (lambda: broken(test=loader(), train=stream()()), "say by test_interval"),
    (lambda: broken(base_lr=0.1), "base_lr is no setting here; the optimizer says it"),
    (lambda: broken(random_seed=1), "random_seed is no setting here; the model's method set_seed"),
    (lambda: broken(seed=1), "seed is no setting here; the model's method set_seed, called before"),
    (lambda: broken(test_intervall=1), "has no field 'test_intervall'; did you mean 'test_interval'"),
    (lambda: broken(clip_gradients="much"), "Solver.of: 'clip_gradients' takes a number, got 'much'"),
    (lambda: broken(inputs=3), "inputs: expected a number of the 2 arrays of a batch, got 3"),
    (lambda: broken(inputs=2), "its forward cannot be called with 2 of the 2 arrays of a batch"),
    (lambda: broken(nn.Sequential(nn.Linear(INPUTS, CLASSES), Untraced())),
     "Untraced '1' has traced = False, and a Solver needs one net"),
    (lambda: broken(optimizer=lambda _: sgd(mlp())), "parameter .* is none that Sequential and the loss use"),
    (lambda: broken(optimizer=stepped), "its groups took different numbers of steps"),
    (lambda: broken(optimizer=lambda model: optim.SGD(
        [{"params": model[0].parameters(), "nesterov": True}, {"params": model[3].parameters()}], lr=0.1)),
     "a Solver has one rule, the groups have Nesterov, SGD"),
    (lambda: broken(loss=lambda scores, labels: scores), r"the loss: expected one number for a batch, "
                                                         r"got shape \(16, 4\); take its mean"),
    (lambda: broken(loss=lambda scores, labels: 1.0), "the loss should return a Tensor, .* got float"),
    (lambda: broken(metrics={"m": lambda scores, _: scores.numpy()}, test=loader()), "'m': expected one n"),
    (lambda: broken(loss=nn.Layer("SoftmaxWithLoss", loss_weight=0.5)), "loss_weight has no effect on a m"),
    (lambda: broken(Reshaped(lambda y, x: y.reshape(x.shape[0], CLASSES))),
     r"the last batch of an epoch has 2 records in place of 16, and for it the forward of Reshaped describes "
     r"another net, from layer 'reshape' .* on: .* or let the loader drop_last"),
    (lambda: broken(Reshaped(lambda y, x: y * (1 / x.shape[0]))), "another net, from layer 'power'"),
    (lambda: broken(Reshaped(lambda y, x: nn.Lambda(lambda z, n=x.shape[0]: z * n)(y))),
     "describes another function in layer 'lambda'"),
    (lambda: broken(Reshaped(lambda y, x: y.reshape(BATCH, CLASSES))), "describes no net: "),
    (lambda: broken(train=DataLoader(ArrayDataset(X, Y), BATCH, collate=lambda records: {"x": X})),
     "expected a batch as a tuple of arrays, first the inputs of the model, .* got dict"),
]


@in_turn("make, message", MISTAKES)
def test_mistakes(make, message):
    with pytest.raises((md.ConfigError, md.DataError), match=message):
        make()


def test_no_batch_of_another_shape_is_trained_with():
    sizes = iter([6] * 3 + [7])
    batches = DataLoader(ArrayDataset(X, Y), BATCH, collate=lambda records: (
        np.zeros((8, next(sizes)), "f"), np.zeros(8)))
    model = nn.Sequential(nn.Linear(6, CLASSES)).to("cpu")
    solver = solver_of(model, sgd(model), batches)
    with pytest.raises(md.DataError, match=r"layer 'data/loader' .* batch 2 of epoch 0: expected x of shape "
                       r"\(8, 6\), as in the first batch .* got \(8, 7\)\. A Solver trains one net"):
        solver.solve()


def test_a_layer_that_tests_alone_use_is_refused():
    class Switched(nn.Module):
        def __init__(self):
            self.one, self.two = nn.Linear(INPUTS, CLASSES), nn.Linear(INPUTS, CLASSES)

        def forward(self, x):
            return self.one(x) if self.training else self.two(x)
    model = Switched().to("cpu")
    with pytest.raises(md.ConfigError, match="test: two reads weight, which is no parameter of that layer in "
                       "training"):
        md.Solver.of(model, nn.CrossEntropyLoss(), sgd(model.one), loader(), loader(), max_iter=1)


@in_turn("change, message", [
    ({"seed": SEED + 1}, "was written with random_seed 5, this solver says 6"),
    ({"optimizer": adamw}, "was written by solver type 'SGD', this one is 'AdamW'"),
    ({"optimizer": lambda model: optim.SGD(model.parameters(), lr=0.1, momentum=0.9, form="pytorch")},
     "the optimizer: has no 'groups/0/GradientMomentum/lr'")])
def test_a_snapshot_of_other_objects_is_refused(tmp_path, change, message):
    model = mlp()
    path = solver_of(model, sgd(model)).snapshot(tmp_path / "s.h5")
    model = mlp(seed=change.get("seed", SEED))
    solver = solver_of(model, change.get("optimizer", sgd)(model))
    with pytest.raises(md.SnapshotError, match=message):
        solver.restore(path)


def test_another_loader_is_warned_of(tmp_path, caplog):
    model = mlp()
    path = solver_of(model, sgd(model)).snapshot(tmp_path / "s.h5")
    model = mlp()
    solver_of(model, sgd(model), loader(size=10)).restore(path)
    assert "was written when data/loader had batch_size: 16; now it has batch_size: 10" in caplog.text
