"""The learner outside any database: python -m pytest in this folder."""

import gzip
import importlib.util
import pathlib

import numpy as np
import onnxruntime
import pytest

HERE = pathlib.Path(__file__).parent
CLASSES = ["malignant", "benign"]
PARAMETERS = {"epochs": 20, "patience": 0, "learning_rate": 0.1, "batch_size": 32, "decay": 0.001, "class_weight": "none", "shard_rate": 1.0}


@pytest.fixture(scope="module")
def learner_type():
    spec = importlib.util.spec_from_file_location("logistic_learner", HERE / "learner.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Learner


@pytest.fixture(scope="module")
def tumours():
    with gzip.open(HERE / "tumours.csv.gz", "rt") as file:
        rows = [line.split(",") for line in file.read().splitlines()[1:]]
    x, y = np.array([row[:-1] for row in rows], np.float32), np.array([CLASSES.index(row[-1]) for row in rows], np.int32)
    order = np.random.default_rng(1).permutation(len(y))
    return x[order], y[order]


def data_of(x, y):
    return {
        "task": "classification", "shape": [30], "dtype": "float32", "classes": CLASSES, "class_counts": np.bincount(y, minlength=2).tolist(),
        "mean": x.mean(axis=0), "std": x.std(axis=0),
    }  # fmt: skip


def trained(learner_type, x, y, epochs=20, **parameters):
    learner = learner_type(dict(PARAMETERS, **parameters), data_of(x, y), 7)
    for epoch in range(1, epochs + 1):
        learner.begin_epoch(epoch, 0, 1)
        for start in range(0, len(y), 256):
            learner.fit(x[start : start + 256], y[start : start + 256])
    return learner


def equal(one, two):
    return set(one) == set(two) and all(np.array_equal(one[name], two[name]) and one[name].dtype == np.float32 for name in one)


def test_the_file_is_the_whole_data_set(tumours):
    x, y = tumours
    assert x.shape == (569, 30)
    assert np.bincount(y).tolist() == [212, 357]


def test_it_learns(learner_type, tumours):
    x, y = tumours
    learner = trained(learner_type, x[:400], y[:400])
    assert (learner.predict(x[400:]).argmax(axis=1) == y[400:]).mean() > 0.94


def test_the_same_seed_gives_the_same_bits(learner_type, tumours):
    assert equal(*(trained(learner_type, *tumours, epochs=2).state() for _ in range(2)))


def test_a_loaded_state_goes_on_as_if_never_saved(learner_type, tumours):
    x, y = tumours
    straight = trained(learner_type, x, y, epochs=2)
    resumed = learner_type(PARAMETERS, data_of(x, y), 7)
    resumed.load(straight.state())
    for learner in (straight, resumed):
        learner.begin_epoch(3, 0, 1)
        learner.fit(x[:256], y[:256])
    assert equal(straight.state(), resumed.state())


def test_balanced_weights_find_more_of_a_rare_class(learner_type, tumours):
    x, y = tumours[0][:, 1:2], tumours[1]  # one column, the texture, tells the classes apart badly
    kept = (y == 1) | (np.cumsum(y == 0) <= 40)
    x, y = np.repeat(x[kept], 30, axis=1), y[kept]
    recall = {}
    for name in ("none", "balanced"):
        found = trained(learner_type, x, y, class_weight=name, learning_rate=0.01).predict(x).argmax(axis=1)
        recall[name] = (found[y == 0] == 0).mean()
    assert recall["balanced"] > recall["none"] + 0.2


@pytest.mark.parametrize(("power", "factor"), [(0, 1), (0.5, 2), (1, 4)])
def test_the_step_size_grows_with_the_shards(learner_type, tumours, power, factor):
    learner = learner_type(dict(PARAMETERS, shard_rate=power), data_of(*tumours), 7)
    learner.begin_epoch(1, 3, 4)
    assert learner.rate == factor * PARAMETERS["learning_rate"]


def test_a_column_that_never_changes_is_harmless(learner_type, tumours):
    x, y = tumours[0].copy(), tumours[1]
    x[:, 3] = 5
    assert np.isfinite(trained(learner_type, x, y, epochs=1).predict(x)).all()


def test_the_onnx_model_agrees_with_numpy(learner_type, tumours):
    learner = trained(learner_type, *tumours)
    session = onnxruntime.InferenceSession(learner.export(), providers=["CPUExecutionProvider"])
    (probabilities,) = session.run(["probabilities"], {"input": tumours[0]})
    assert probabilities.dtype == np.float32
    assert np.abs(probabilities - learner.predict(tumours[0])).max() < 1e-5
