import pytest

from insitu_runtime import task

MANIFEST = {
    "task": "classification", "input": {"shape": [8, 8], "dtype": "uint8", "range": [0, 16]}, "classes": ["0", "1"], "rows": 5,
    "statistics": {"shape": [1, 1], "mean": [4.0], "std": [6.0], "min": 0, "max": 16},
}  # fmt: skip


def test_the_spec_takes_from_the_manifest_what_learners_need():
    assert task.data_of(MANIFEST) == {
        "task": "classification", "shape": [8, 8], "dtype": "uint8", "range": [0, 16], "classes": ["0", "1"], "statistics": {"shape": [1, 1], "mean": [4.0], "std": [6.0]},
    }  # fmt: skip


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
