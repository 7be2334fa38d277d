"""The learner outside any database: python -m pytest examples/digits."""

import importlib.util
import pathlib

import numpy as np
import onnxruntime
import pytest

HERE = pathlib.Path(__file__).parent
PARAMETERS = {"epochs": 4, "patience": 0, "hidden": 32, "learning_rate": 0.01, "batch_size": 32, "shift": 0.33, "class_weight": "none", "shard_rate": 0.0}
DATA = {"task": "classification", "shape": [8, 8], "dtype": "uint8", "range": [0, 16], "classes": list("0123456789")}


@pytest.fixture(scope="module")
def learner_type():
    spec = importlib.util.spec_from_file_location("digits_learner", HERE / "learner.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Learner


@pytest.fixture(scope="module")
def digits():
    table = np.loadtxt(HERE / "digits.csv.gz", delimiter=",", skiprows=1, dtype=np.int32)
    return table[:, :64].astype(np.uint8).reshape(-1, 8, 8), table[:, 64]


def trained(learner_type, digits, epochs=4):
    learner = learner_type(PARAMETERS, DATA, 7)
    x, y = digits
    for epoch in range(1, epochs + 1):
        learner.begin_epoch(epoch, 0, 1)
        for start in range(0, 1024, 256):
            learner.fit(x[start : start + 256], y[start : start + 256])
    return learner


def test_the_file_is_the_whole_data_set(digits):
    x, y = digits
    assert x.shape == (1797, 8, 8)
    assert x.max() == 16
    assert np.bincount(y).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_it_learns(learner_type, digits):
    x, y = digits[0][1024:], digits[1][1024:]
    assert (trained(learner_type, digits).predict(x).argmax(axis=1) == y).mean() > 0.8


def test_the_same_seed_gives_the_same_bits(learner_type, digits):
    one, two = (trained(learner_type, digits).state() for _ in range(2))
    assert all(np.array_equal(one[name], two[name]) for name in one)


def test_a_loaded_state_goes_on_as_if_never_saved(learner_type, digits):
    straight = trained(learner_type, digits, 2)
    resumed = learner_type(PARAMETERS, DATA, 7)
    resumed.load(straight.state())
    for learner in (straight, resumed):
        learner.begin_epoch(3, 0, 1)
        learner.fit(digits[0][:256], digits[1][:256])
    assert all(np.array_equal(straight.state()[name], resumed.state()[name]) for name in straight.state())


def test_balanced_weights_find_more_of_a_rare_class(learner_type, digits):
    x, y = digits[0][:1024], digits[1][:1024]
    kept = (y != 8) | (np.cumsum(y == 8) <= 6)
    x, y = x[kept], y[kept]
    data = dict(DATA, class_counts=np.bincount(y).tolist())
    recall = {}
    for name in ("none", "balanced"):
        learner = learner_type(dict(PARAMETERS, class_weight=name), data, 7)
        for epoch in range(1, 5):
            learner.begin_epoch(epoch, 0, 1)
            for start in range(0, len(y), 256):
                learner.fit(x[start : start + 256], y[start : start + 256])
        rare = digits[0][1024:][digits[1][1024:] == 8]
        recall[name] = (learner.predict(rare).argmax(axis=1) == 8).mean()
    assert recall["balanced"] > recall["none"] + 0.2


@pytest.mark.parametrize(("power", "factor"), [(0, 1), (0.5, 2), (1, 4)])
def test_the_step_size_grows_with_the_shards(learner_type, power, factor):
    learner = learner_type(dict(PARAMETERS, shard_rate=power), DATA, 7)
    learner.begin_epoch(1, 3, 4)
    assert learner.rate == factor * PARAMETERS["learning_rate"]


def test_all_numbers_stay_float32(learner_type, digits):
    state = trained(learner_type, digits, 1).state()
    assert {name for name, array in state.items() if array.dtype != np.float32} == {"steps"}


def test_the_onnx_model_agrees_with_numpy(learner_type, digits):
    learner = trained(learner_type, digits)
    session = onnxruntime.InferenceSession(learner.export(), providers=["CPUExecutionProvider"])
    (probabilities,) = session.run(["probabilities"], {"input": digits[0]})
    assert probabilities.dtype == np.float32
    assert np.abs(probabilities - learner.predict(digits[0])).max() < 1e-5


@pytest.mark.parametrize("rows", [1, 5, 33])
def test_packs_of_any_size_do(learner_type, digits, rows):
    learner = learner_type(PARAMETERS, DATA, 1)
    learner.begin_epoch(1, 0, 1)
    result = learner.fit(digits[0][:rows], digits[1][:rows])
    assert result["loss"] > 0 and 0 <= result["correct"] <= rows
