import json
import sys

import pytest

from insitu_runtime import boot, learning
from session import LEARNER, SPEC, bundle_of, digest_of, host_of


def load(bundle, module):
    return boot.load(digest_of(bundle), bundle, module)


def test_two_releases_live_in_one_session():
    one, two = (load(bundle_of(learner="from helper import VALUE", helper="VALUE = %d" % n), "learner") for n in (1, 2))
    assert (one.VALUE, two.VALUE) == (1, 2)
    assert "helper" not in sys.modules


def test_loading_again_gives_the_same_module():
    bundle = bundle_of(learner="x = []")
    assert load(bundle, "learner") is load(bundle, "learner")


@pytest.mark.parametrize(
    "statement",
    ["import layers.conv; found = layers.conv.VALUE", "from layers import conv; found = conv.VALUE", "from layers.conv import VALUE as found", "from layers.conv import *; found = VALUE",
     "from __future__ import annotations; from .layers import conv; found = conv.VALUE"],
)  # fmt: skip
def test_the_apps_folders_are_packages(statement):
    bundle = bundle_of(learner=statement, layers__conv="from layers.base import VALUE", layers__base="VALUE = 7")
    assert load(bundle, "learner").found == 7


def test_an_apps_file_may_be_called_like_a_standard_module():
    bundle = bundle_of(learner=LEARNER + "\nimport json\nown = json.OWN", json="OWN = True")
    assert load(bundle, "learner").own
    assert load(bundle, "insitu_runtime.parameters").canonical({"a": 1}) == '{"a":1}'


def test_a_module_that_is_not_there_is_an_import_error():
    with pytest.raises(ImportError, match="no_such_module"):
        load(bundle_of(learner="import no_such_module"), "learner")


def test_tuning_is_done_once_and_keeps_the_users_threads(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("INSITU_TUNED", raising=False)
    boot.tune()
    import os

    assert os.environ["OMP_NUM_THREADS"] == "3"
    assert os.environ["INSITU_TUNED"] == str(os.getpid())


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("class Learner(:\n    pass", r"learner\.py, line 1: SyntaxError"),
        ("import no_such_module", r"learner\.py, line 1, in <module>: ModuleNotFoundError"),
        ("x = 1", "learner.py defines no class Learner"),
    ],
)
def test_a_learner_that_cannot_be_loaded_names_the_line(source, message):
    with pytest.raises(Exception, match=message) as error:
        host_of(bundle_of(learner=source)).init_state(json.dumps(SPEC))
    assert type(error.value).__name__ == learning.LearnerError.__name__


def test_a_session_that_predicts_by_onnx_alone_imports_no_learner():
    assert "learning" not in vars(host_of(bundle_of(learner="import no_such_module")))


def test_an_error_in_a_helper_names_the_helpers_line():
    bundle = bundle_of(learner="from helper import Learner", helper="class Learner:\n    def __init__(self, *a):\n        raise KeyError('width')")
    with pytest.raises(Exception, match=r"helper\.py, line 3, in __init__: KeyError: 'width'"):
        host_of(bundle).init_state(__import__("json").dumps(SPEC))
