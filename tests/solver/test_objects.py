"""Solver.of: a Solver of Python objects is that of a file, and a loop by hand, to the last bit."""

import numpy as np
import pytest
from cases import in_turn
from object_solvers import (
    BATCH,
    CLASSES,
    INPUTS,
    RECORDS,
    SEED,
    X,
    Y,
    adamw,
    assert_same,
    by_hand,
    groups,
    loader,
    mlp,
    sgd,
    solver_of,
    stream,
)

import minidrop as md
from minidrop import nn, optim
from minidrop.config import parse_net
from minidrop.data import ArrayDataset, DataLoader

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
