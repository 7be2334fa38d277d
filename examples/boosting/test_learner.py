"""The learner outside any database: python -m pytest in this folder."""

import importlib.util
import pathlib

import numpy as np
import onnxruntime
import pytest

pytest.importorskip("lightgbm", reason="the learner needs LightGBM")

HERE = pathlib.Path(__file__).parent
COLUMNS = ["temperature", "water", "light", "acidity", "nitrogen", "height"]
CLASSES = ["poor", "fair", "good"]
PARAMETERS = {"epochs": 10, "patience": 0, "rounds": 5, "learning_rate": 0.1, "leaves": 15, "leaf_rows": 20, "columns": 0.8}


def table():
    """2,400 made-up fields: the columns, and the harvest (0 to 2); each column has a best value, and the worst one counts most."""
    rng = np.random.default_rng(40)
    n = 2400
    columns = [
        rng.uniform(5, 35, n),
        rng.uniform(100, 900, n),
        rng.uniform(4, 14, n),
        rng.uniform(4.5, 8.5, n),
        rng.uniform(0, 200, n),
        rng.uniform(0, 1500, n),
    ]
    x = np.column_stack(columns).round(2)
    growth = np.exp(-((x[:, :4] - [21, 520, 10, 6.4]) ** 2) / (2 * np.square([8, 220, 4, 1.3]))).prod(axis=1) * np.minimum(1, 0.4 + x[:, 4] / 150)
    growth = growth * np.exp(rng.normal(0, 0.12, n))
    return x, np.searchsorted(np.quantile(growth, [0.4, 0.75]), growth)


@pytest.fixture(scope="module")
def learner_type():
    spec = importlib.util.spec_from_file_location("boosting_learner", HERE / "learner.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Learner


@pytest.fixture(scope="module")
def fields():
    rows = np.loadtxt(
        HERE / "fields.csv.gz", delimiter=",", skiprows=1, converters={6: lambda text: CLASSES.index(text if isinstance(text, str) else text.decode())}
    )
    return rows[:, :6].astype(np.float32), rows[:, 6].astype(np.int32)


def data_of(classes=CLASSES):
    return {"task": "classification", "shape": [6], "dtype": "float32", "classes": list(classes)}


REGRESSION = {"task": "regression", "shape": [6], "dtype": "float32"}


def epoch_of(learner, number, x, y):
    """One epoch as the runtime does it: packs, the end; the sums of the epoch."""
    learner.begin_epoch(number, 0, 1)
    losses = [learner.fit(x[start : start + 256], y[start : start + 256])["loss"] for start in range(0, len(y), 256)]
    return dict(learner.end_epoch(), before=sum(losses))


def trained(learner_type, x, y, data, epochs=10):
    """Each epoch is a new learner with the state of the last, as in the database."""
    learner = learner_type(PARAMETERS, data, 7)
    for epoch in range(1, epochs + 1):
        state, learner = learner.state(), learner_type(PARAMETERS, data, 7)
        learner.load(state)
        sums = epoch_of(learner, epoch, x, y)
    return learner, sums


def test_the_file_holds_the_fields_that_are_made_here(fields):
    x, harvest = table()
    assert np.array_equal(fields[0], x.astype(np.float32)) and np.array_equal(fields[1], harvest)


def test_it_learns_what_no_line_can_tell_apart(learner_type, fields):
    x, y = fields
    learner, _ = trained(learner_type, x[:1680], y[:1680], data_of())
    right = (learner.predict(x[1680:]).argmax(axis=1) == y[1680:]).mean()
    flat = np.column_stack([(x - x.mean(axis=0)) / x.std(axis=0), np.ones(len(x))])
    line, *_ = np.linalg.lstsq(flat[:1680], np.eye(3)[y[:1680]], rcond=None)
    assert right > 0.78
    assert right > ((flat[1680:] @ line).argmax(axis=1) == y[1680:]).mean() + 0.2


def test_each_epoch_adds_its_trees_and_lowers_the_loss(learner_type, fields):
    (one, first), (two, second) = (trained(learner_type, *fields, data_of(), epochs=n) for n in (1, 2))
    assert (one.booster().num_trees(), two.booster().num_trees()) == (15, 30)
    assert second["loss"] < first["loss"] and second["correct"] >= first["correct"] and first["before"] == 0


def test_an_epochs_sums_are_those_of_the_rows_after_it(learner_type, fields):
    x, y = fields
    learner, sums = trained(learner_type, x, y, data_of(), epochs=2)
    p = learner.predict(x)
    assert sums["correct"] == (p.argmax(axis=1) == y).sum()
    assert sums["loss"] == pytest.approx(-np.log(p[np.arange(len(y)), y]).sum(), rel=1e-5)


def test_the_same_seed_gives_the_same_bits(learner_type, fields):
    one, two = (trained(learner_type, *fields, data_of(), epochs=2)[0].state()["model"] for _ in range(2))
    assert np.array_equal(one, two) and one.dtype == np.uint8


def test_a_learner_that_was_never_saved_ends_with_the_same_bits(learner_type, fields):
    straight = learner_type(PARAMETERS, data_of(), 7)
    for epoch in (1, 2):
        straight.rows, straight.labels = [], []
        epoch_of(straight, epoch, *fields)
    assert np.array_equal(straight.state()["model"], trained(learner_type, *fields, data_of(), epochs=2)[0].state()["model"])


def test_before_the_first_epoch_all_classes_are_as_likely(learner_type, fields):
    learner = learner_type(PARAMETERS, data_of(), 7)
    learner.load(learner.state())
    assert np.allclose(learner.predict(fields[0][:5]), 1 / 3)


def test_more_than_one_shard_is_refused(learner_type):
    with pytest.raises(ValueError, match="2 shards, expected 1"):
        learner_type(PARAMETERS, data_of(), 7).begin_epoch(1, 0, 2)


@pytest.mark.parametrize("outputs", [1, 2, 3])
def test_the_onnx_model_agrees_with_lightgbm(learner_type, fields, outputs):
    x, y = fields
    y = {1: (x[:, 0] * x[:, 1]).astype(np.float32), 2: y // 2, 3: y}[outputs]
    learner, _ = trained(learner_type, x, y, REGRESSION if outputs == 1 else data_of(range(outputs)), epochs=3)
    session = onnxruntime.InferenceSession(learner.export(), providers=["CPUExecutionProvider"])
    assert [(i.name, i.type, i.shape[1:]) for i in session.get_inputs()] == [("input", "tensor(float)", [6])]
    assert [o.name for o in session.get_outputs()] == ["probabilities"]
    (given,) = session.run(["probabilities"], {"input": x})
    assert given.shape == (len(x), outputs)
    assert np.allclose(given, learner.predict(x), rtol=1e-5, atol=1e-5)


def test_the_onnx_model_sends_no_row_another_way(learner_type, fields):
    x, y = fields
    learner, _ = trained(learner_type, x[:1680], y[:1680], data_of(), epochs=20)
    session = onnxruntime.InferenceSession(learner.export(), providers=["CPUExecutionProvider"])
    (given,) = session.run(["probabilities"], {"input": x})
    assert np.abs(given - learner.predict(x)).max() < 1e-5


def test_a_regression_learns(learner_type, fields):
    x, y = fields[0], (fields[0][:, 0] * fields[0][:, 1]).astype(np.float32)
    learner, sums = trained(learner_type, x[:1680], y[:1680], REGRESSION)
    assert np.square(learner.predict(x[1680:])[:, 0] - y[1680:]).mean() < 0.1 * y.var()
    assert sums.get("correct", 0) == 0
