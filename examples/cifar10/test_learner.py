"""The learner outside any database, on a generated file of CIFAR-10's binary format."""

import importlib.util
import io
import pathlib
import tarfile

import numpy as np
import onnxruntime
import pytest

pytest.importorskip("torch", reason="the learner needs PyTorch")

HERE = pathlib.Path(__file__).parent
PARAMETERS = {"epochs": 2, "patience": 0, "learning_rate": 0.001, "filters": 32, "batch_size": 16, "class_weight": "none", "shard_rate": 0.0}
DATA = {"task": "classification", "shape": [3, 32, 32], "dtype": "uint8", "range": [0, 255], "classes": [str(i) for i in range(10)]}
RECORD = 1 + 3 * 32 * 32


@pytest.fixture(scope="module")
def learner_type():
    spec = importlib.util.spec_from_file_location("cifar10_learner", HERE / "learner.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Learner


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """64 pictures whose brightness tells their class, written and read as the real file is."""
    rng = np.random.default_rng(1)
    labels = np.arange(64) % 10
    records = np.empty((64, RECORD), np.uint8)
    records[:, 0] = labels
    records[:, 1:] = np.clip(labels[:, None] * 25 + rng.integers(0, 25, (64, RECORD - 1)), 0, 255)
    file = tmp_path_factory.mktemp("cifar") / "cifar-10-binary.tar.gz"
    with tarfile.open(file, "w:gz") as archive:
        member = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
        member.size = records.nbytes
        archive.addfile(member, io.BytesIO(records.tobytes()))
    with tarfile.open(file) as archive:
        raw = np.frombuffer(archive.extractfile("cifar-10-batches-bin/data_batch_1.bin").read(), np.uint8).reshape(-1, RECORD)
    return raw[:, 1:].reshape(-1, 3, 32, 32), raw[:, 0].astype(np.int32)


def trained(learner_type, pictures, epochs):
    learner = learner_type(PARAMETERS, DATA, 7)
    for epoch in range(1, epochs + 1):
        learner.begin_epoch(epoch, 0, 1)
        result = learner.fit(*pictures)
    return learner, result


def equal(one, two):
    return set(one) == set(two) and all(np.array_equal(one[name], two[name]) for name in one)


def test_the_loss_falls(learner_type, pictures):
    _, first = trained(learner_type, pictures, 1)
    _, later = trained(learner_type, pictures, 12)
    assert later["loss"] < first["loss"]


def test_the_same_seed_gives_the_same_bits(learner_type, pictures):
    assert equal(*(trained(learner_type, pictures, 2)[0].state() for _ in range(2)))


def test_the_initial_state_is_complete(learner_type, pictures):
    fresh = learner_type(PARAMETERS, DATA, 7).state()
    assert set(fresh) == set(trained(learner_type, pictures, 1)[0].state())
    assert sum(array.size for name, array in fresh.items() if "/" not in name and name != "steps") == 122570


def test_a_loaded_state_goes_on_as_if_never_saved(learner_type, pictures):
    straight, _ = trained(learner_type, pictures, 2)
    resumed = learner_type(PARAMETERS, DATA, 7)
    resumed.load(straight.state())
    for learner in (straight, resumed):
        learner.begin_epoch(3, 0, 1)
        learner.fit(*pictures)
    assert equal(straight.state(), resumed.state())


def test_balanced_weights_find_more_of_a_rare_class(learner_type):
    rng = np.random.default_rng(3)
    y = (np.arange(160) % 16 == 0).astype(np.int32)
    x = np.clip(110 + 20 * y[:, None] + rng.normal(0, 120, (160, 3 * 32 * 32)), 0, 255).astype(np.uint8).reshape(-1, 3, 32, 32)
    data = dict(DATA, classes=["many", "few"], class_counts=np.bincount(y).tolist())
    recall = {}
    for name in ("none", "balanced"):
        learner = learner_type(dict(PARAMETERS, class_weight=name), data, 7)
        learner.begin_epoch(1, 0, 1)
        for _ in range(2):
            learner.fit(x, y)
        recall[name] = learner.predict(x)[y == 1, 1].mean()
    assert recall["balanced"] > recall["none"] + 0.2


@pytest.mark.parametrize(("power", "factor"), [(0, 1), (0.5, 2), (1, 4)])
def test_the_step_size_grows_with_the_shards(learner_type, power, factor):
    learner = learner_type(dict(PARAMETERS, shard_rate=power), DATA, 7)
    learner.begin_epoch(1, 3, 4)
    assert learner.adam.param_groups[0]["lr"] == factor * PARAMETERS["learning_rate"]


def test_the_onnx_model_agrees_with_torch(learner_type, pictures):
    learner, _ = trained(learner_type, pictures, 2)
    session = onnxruntime.InferenceSession(learner.export(), providers=["CPUExecutionProvider"])
    assert [(i.name, i.type, i.shape[1:]) for i in session.get_inputs()] == [("input", "tensor(uint8)", [3, 32, 32])]
    for rows in (1, 64):
        (probabilities,) = session.run(["probabilities"], {"input": pictures[0][:rows]})
        assert np.abs(probabilities - learner.predict(pictures[0][:rows])).max() < 1e-5
