"""The learner outside any database: python -m pytest in this folder."""

import importlib.util
import pathlib

import numpy as np
import onnxruntime
import pytest

HERE = pathlib.Path(__file__).parent
COLUMNS = ["area", "people", "age", "wall", "sun"]
PARAMETERS = {"epochs": 10, "patience": 0, "learning_rate": 0.03, "batch_size": 32, "decay": 0.0, "shard_rate": 1.0}


def table():
    """1,200 made-up houses: the columns, and the heat they need in kWh a year, which is linear in them but for noise."""
    rng = np.random.default_rng(20)
    n = 1200
    columns = [rng.uniform(40, 250, n), rng.integers(1, 7, n), rng.uniform(0, 80, n), rng.uniform(0.2, 1.8, n), rng.normal(1600, 150, n)]
    x = np.column_stack(columns).round(2)
    heat = 60 * x[:, 0] - 250 * x[:, 1] + 45 * x[:, 2] + 4200 * x[:, 3] - 3 * x[:, 4] + 8000 + rng.normal(0, 900, n)
    return x, heat.round(1)


@pytest.fixture(scope="module")
def houses():
    return np.loadtxt(HERE / "houses.csv.gz", delimiter=",", skiprows=1)


def data_of(x):
    return {"task": "regression", "shape": [5], "dtype": "float32", "mean": x.mean(axis=0).astype(np.float32), "std": x.std(axis=0).astype(np.float32)}


@pytest.fixture(scope="module")
def learner_type():
    spec = importlib.util.spec_from_file_location("linear_learner", HERE / "learner.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Learner


def trained(learner_type, houses, epochs=10):
    x, y = houses[:, :5].astype(np.float32), houses[:, 5].astype(np.float32)
    learner = learner_type(PARAMETERS, data_of(x), 7)
    for epoch in range(1, epochs + 1):
        learner.begin_epoch(epoch, 0, 1)
        for start in range(0, 1024, 256):
            result = learner.fit(x[start : start + 256], y[start : start + 256])
    return learner, result


def test_the_file_holds_the_houses_that_are_made_here(houses):
    x, heat = table()
    assert np.array_equal(houses, np.column_stack([x, heat]))


def test_it_finds_what_least_squares_finds(learner_type, houses):
    x, y = houses[1024:, :5].astype(np.float32), houses[1024:, 5]
    exact, *_ = np.linalg.lstsq(np.column_stack([houses[:1024, :5], np.ones(1024)]), houses[:1024, 5], rcond=None)
    best = np.square(np.column_stack([x, np.ones(len(x))]) @ exact - y).mean()
    learner, _ = trained(learner_type, houses)
    mine = np.square(learner.predict(x)[:, 0] - y).mean()
    assert mine < 1.02 * best
    assert mine < 0.1 * y.var()


def test_the_loss_is_the_sum_of_squared_errors_before_the_step(learner_type, houses):
    x, y = houses[:32, :5].astype(np.float32), houses[:32, 5].astype(np.float32)
    assert learner_type(PARAMETERS, data_of(x), 7).fit(x, y) == {"loss": pytest.approx(np.square(y).sum(dtype=float), rel=1e-5), "correct": 0}


def test_the_onnx_model_gives_the_value(learner_type, houses):
    learner, _ = trained(learner_type, houses)
    x = houses[:, :5].astype(np.float32)
    session = onnxruntime.InferenceSession(learner.export(), providers=["CPUExecutionProvider"])
    (values,) = session.run(["probabilities"], {"input": x})
    assert values.shape == (1200, 1)
    assert np.allclose(values, learner.predict(x), rtol=1e-5)
