"""The learner outside any database: python -m pytest in this folder."""

import importlib.util
import pathlib

import numpy as np
import onnxruntime
import pytest

pytest.importorskip("sklearn", reason="the learner needs scikit-learn")

HERE = pathlib.Path(__file__).parent
COLUMNS = ["temperature", "vibration", "pressure", "hours", "load", "age"]
PARAMETERS = {"epochs": 5, "patience": 0, "learning_rate": 0.05, "power": 0.25, "decay": 0.0001, "class_weight": "none", "shard_rate": 1.0}


def table():
    """3,000 made-up pumps: the columns, and whether the pump failed (1) or not (0), as about one in ten did."""
    rng = np.random.default_rng(30)
    n = 3000
    columns = [rng.normal(60, 8, n), rng.gamma(2, 1.5, n), rng.normal(5, 0.7, n), rng.uniform(0, 8000, n), rng.uniform(0.2, 1, n), rng.uniform(0, 20, n)]
    x = np.column_stack(columns).round(3)
    score = (x - x.mean(axis=0)) / x.std(axis=0) @ [1.3, 2.2, -0.8, 1.0, 0.9, 0.7] - 4.8
    return x, (rng.uniform(0, 1, n) < 1 / (1 + np.exp(-score))).astype(int)


@pytest.fixture(scope="module")
def learner_type():
    spec = importlib.util.spec_from_file_location("sklearn_learner", HERE / "learner.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Learner


@pytest.fixture(scope="module")
def pumps():
    rows = np.loadtxt(HERE / "pumps.csv.gz", delimiter=",", skiprows=1, converters={6: lambda text: text in (b"failed", "failed")})
    return rows[:, :6].astype(np.float32), rows[:, 6].astype(np.int32)


def data_of(x, y, classes=("ok", "failed")):
    return {
        "task": "classification", "shape": [6], "dtype": "float32", "classes": list(classes), "class_counts": np.bincount(y, minlength=len(classes)).tolist(),
        "mean": x.mean(axis=0), "std": x.std(axis=0),
    }  # fmt: skip


def trained(learner_type, x, y, epochs=5, data=None, **parameters):
    learner = learner_type(dict(PARAMETERS, **parameters), data or data_of(x, y), 7)
    for epoch in range(1, epochs + 1):
        learner.begin_epoch(epoch, 0, 1)
        for start in range(0, len(y), 256):
            learner.fit(x[start : start + 256], y[start : start + 256])
    return learner


def equal(one, two):
    return set(one) == set(two) and all(np.array_equal(one[name], two[name]) for name in one)


def test_the_file_holds_the_pumps_that_are_made_here(pumps):
    x, failed = table()
    assert np.array_equal(pumps[0], x.astype(np.float32)) and np.array_equal(pumps[1], failed)
    assert 0.08 < failed.mean() < 0.14


def test_it_learns(learner_type, pumps):
    x, y = pumps
    learner = trained(learner_type, x[:2000], y[:2000])
    assert learner.predict(x).dtype == np.float32
    assert (learner.predict(x[2000:]).argmax(axis=1) == y[2000:]).mean() > 0.91


def test_the_same_seed_gives_the_same_bits(learner_type, pumps):
    assert equal(*(trained(learner_type, *pumps, epochs=2).state() for _ in range(2)))


def test_a_loaded_state_goes_on_as_if_never_saved(learner_type, pumps):
    x, y = pumps
    straight = trained(learner_type, x, y, epochs=2)
    kept = {name: array.copy() for name, array in straight.state().items()}
    resumed = learner_type(PARAMETERS, data_of(x, y), 7)
    resumed.load(straight.state())
    for learner in (straight, resumed):
        learner.begin_epoch(3, 0, 1)
        learner.fit(x[:256], y[:256])
    assert equal(straight.state(), resumed.state()) and not equal(straight.state(), kept)


def test_balanced_weights_find_more_of_the_rare_class(learner_type, pumps):
    x, y = pumps
    recall = {}
    for name in ("none", "balanced"):
        found = trained(learner_type, x[:2000], y[:2000], class_weight=name).predict(x[2000:]).argmax(axis=1)
        recall[name] = (found[y[2000:] == 1] == 1).mean()
    assert recall["balanced"] > recall["none"] + 0.15


@pytest.mark.parametrize(("power", "factor"), [(0, 1), (0.5, 2), (1, 4)])
def test_the_step_size_grows_with_the_shards(learner_type, pumps, power, factor):
    learner = learner_type(dict(PARAMETERS, shard_rate=power), data_of(*pumps), 7)
    learner.begin_epoch(1, 3, 4)
    assert learner.model.eta0 == factor * PARAMETERS["learning_rate"]


@pytest.mark.parametrize("classes", [2, 3])
def test_the_onnx_model_agrees_with_scikit_learn(learner_type, pumps, classes):
    x, y = pumps
    if classes == 3:
        y = y + (x[:, 0] > 60)
    learner = trained(learner_type, x, y.astype(np.int32), data=data_of(x, y, range(classes)))
    session = onnxruntime.InferenceSession(learner.export(), providers=["CPUExecutionProvider"])
    assert [(i.name, i.type, i.shape[1:]) for i in session.get_inputs()] == [("input", "tensor(float)", [6])]
    assert [o.name for o in session.get_outputs()] == ["probabilities"]
    (probabilities,) = session.run(["probabilities"], {"input": x})
    assert np.abs(probabilities - learner.predict(x)).max() < 1e-5


def test_pictures_are_refused(learner_type):
    with pytest.raises(ValueError, match="takes tables"):
        learner_type(PARAMETERS, {"shape": [8, 8], "dtype": "uint8"}, 7)
