"""The learner outside any database: python -m pytest in this folder."""

import importlib.util
import io
import pathlib
import zipfile

import numpy as np
import onnxruntime
import pytest
from PIL import Image

pytest.importorskip("torch", reason="the learner needs PyTorch")

HERE = pathlib.Path(__file__).parent
CLASSES = ["circle", "cross", "square", "triangle"]
SIZE, EACH = 24, 150
PARAMETERS = {"epochs": 5, "patience": 0, "learning_rate": 0.002, "filters": 32, "batch_size": 16, "class_weight": "none", "shard_rate": 0.0}
DATA = {"task": "classification", "shape": [3, SIZE, SIZE], "dtype": "uint8", "range": [0, 255], "classes": CLASSES}


def shapes():
    """150 made-up pictures of each class: a shape of one colour, somewhere on a ground of another."""
    rng = np.random.default_rng(50)
    down, right = np.mgrid[:SIZE, :SIZE]
    for number, name in enumerate(CLASSES):
        for index in range(EACH):
            radius = rng.integers(5, 9)
            y, x = rng.integers(radius, SIZE - radius, 2)
            ground, colour = rng.integers(0, 110, 3), rng.integers(130, 256, 3)
            if rng.integers(2):
                ground, colour = colour, ground
            dy, dx = down - y, right - x
            inside = np.maximum(abs(dy), abs(dx)) <= radius
            mask = [
                dy**2 + dx**2 <= radius**2,
                inside & (np.minimum(abs(dy), abs(dx)) <= radius // 4),
                inside,
                inside & (2 * abs(dx) <= dy + radius),
            ][number]
            yield "%s/%03d.png" % (name, index), np.where(mask[..., None], colour, ground).astype(np.uint8)


@pytest.fixture(scope="module")
def learner_type():
    spec = importlib.util.spec_from_file_location("shapes_learner", HERE / "learner.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Learner


@pytest.fixture(scope="module")
def pictures():
    """The file's pictures as the pipeline reads them, in an order of their own."""
    with zipfile.ZipFile(HERE / "shapes.zip") as archive:
        names = archive.namelist()
        x = np.stack([np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB")).transpose(2, 0, 1) for name in names])
    y = np.array([CLASSES.index(name.split("/")[0]) for name in names], np.int32)
    order = np.random.default_rng(1).permutation(len(y))
    return x[order], y[order]


def trained(learner_type, x, y, epochs):
    learner = learner_type(PARAMETERS, DATA, 7)
    for epoch in range(1, epochs + 1):
        learner.begin_epoch(epoch, 0, 1)
        for start in range(0, len(y), 256):
            learner.fit(x[start : start + 256], y[start : start + 256])
    return learner


def test_the_file_holds_the_shapes_that_are_made_here():
    with zipfile.ZipFile(HERE / "shapes.zip") as archive:
        found = {name: np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB")) for name in archive.namelist()}
    made = dict(shapes())
    assert set(found) == set(made)
    assert all(np.array_equal(found[name], made[name]) for name in made)


def test_it_learns(learner_type, pictures):
    x, y = pictures
    learner = trained(learner_type, x[:450], y[:450], epochs=10)
    assert (learner.predict(x[450:]).argmax(axis=1) == y[450:]).mean() > 0.9


def test_the_same_seed_gives_the_same_bits(learner_type, pictures):
    one, two = (trained(learner_type, *pictures, epochs=1).state() for _ in range(2))
    assert set(one) == set(two) and all(np.array_equal(one[name], two[name]) for name in one)


def test_a_loaded_state_goes_on_as_if_never_saved(learner_type, pictures):
    x, y = pictures
    straight = trained(learner_type, x[:64], y[:64], epochs=1)
    resumed = learner_type(PARAMETERS, DATA, 7)
    resumed.load(straight.state())
    for learner in (straight, resumed):
        learner.begin_epoch(2, 0, 1)
        learner.fit(x[:64], y[:64])
    assert all(np.array_equal(straight.state()[name], resumed.state()[name]) for name in straight.state())


def test_the_onnx_model_agrees_with_torch(learner_type, pictures):
    learner = trained(learner_type, *pictures, epochs=1)
    session = onnxruntime.InferenceSession(learner.export(), providers=["CPUExecutionProvider"])
    assert [(i.name, i.type, i.shape[1:]) for i in session.get_inputs()] == [("input", "tensor(uint8)", [3, SIZE, SIZE])]
    (probabilities,) = session.run(["probabilities"], {"input": pictures[0]})
    assert np.abs(probabilities - learner.predict(pictures[0])).max() < 1e-5
