import pytest

from insitu_runtime import task

MANIFEST = {
    "task": "classification", "input": {"shape": [8, 8], "dtype": "uint8", "range": [0, 16]}, "classes": ["0", "1"], "rows": 5,
    "splits": {"train": {"rows": 3, "packs": 1, "histogram": [2, 1]}, "validation": {"rows": 2, "packs": 1, "histogram": [1, 1]}},
    "statistics": {"shape": [1, 1], "mean": [4.0], "std": [6.0], "min": 0, "max": 16},
}  # fmt: skip


def test_the_spec_takes_from_the_manifest_what_learners_need():
    assert task.data_of(MANIFEST) == {
        "task": "classification", "shape": [8, 8], "dtype": "uint8", "range": [0, 16], "classes": ["0", "1"], "class_counts": [2, 1],
        "statistics": {"shape": [1, 1], "mean": [4.0], "std": [6.0]},
    }  # fmt: skip


def test_a_regression_has_neither_classes_nor_their_counts():
    manifest = {"task": "regression", "input": {"shape": [2], "dtype": "float32"}, "splits": {"train": {"rows": 3, "packs": 1}}}
    assert task.data_of(manifest) == {"task": "regression", "shape": [2], "dtype": "float32"}


@pytest.mark.parametrize(("app", "shards"), [({"name": "a"}, 9), ({"name": "a", "max_shards": 2}, 2)])
def test_a_dataset_with_few_enough_shards_can_be_trained_on(app, shards):
    task.check_shards(app, shards)


def test_a_dataset_with_too_many_shards_is_refused():
    with pytest.raises(ValueError, match="'a' says max_shards: 1, the dataset has 2 shards: upload it again with --shards=1"):
        task.check_shards({"name": "a", "max_shards": 1}, 2)


def test_options_may_be_left_out_or_null():
    assert task.check({}) == {} == task.check({"app": None, "seed": None})


@pytest.mark.parametrize(
    ("options", "message"),
    [([], "expected a JSON object"), ({"epoch": 3}, "option 'epoch' is unknown"), ({"epochs": "3"}, "option 'epochs' is \"3\"; expected int"), ({"seed": True}, "expected int"),
     ({"seed": -1}, "negative"), ({"parameters": [1]}, "expected dict")],
)  # fmt: skip
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        task.check(options)
