import pathlib

import pytest

from insitu_runtime import parameters

RULES = {
    "rate": {"type": "float", "default": 0.1, "min": 0, "max": 1},
    "width": {"type": "int", "default": 8, "min": 1},
    "kind": {"type": "string", "default": "relu", "enum": ["relu", "tanh"]},
    "fast": {"type": "bool", "default": False},
}


def test_the_readmes_example_of_a_job_id():
    values = {"activation": "relu <&>", "epochs": 10, "learning_rate": 0.00001, "momentum": 1.0, "nesterov": True, "patience": 0, "weight_decay": 1e-7}
    text = parameters.canonical({"code": "aaaa", "dataset": "bbbb", "rows": "cccc", "spec": {"parameters": values, "seed": 7, "start": "dddd"}})
    readme = (pathlib.Path(__file__).parent.parent / "README.md").read_text("utf-8")
    assert text + "\n" + parameters.job_id("aaaa", "bbbb", "cccc", values, 7, "dddd") + "\n" in readme


@pytest.mark.parametrize(
    ("number", "text"),
    [(0.0, "0"), (-0.0, "0"), (1.0, "1"), (100.0, "100"), (-2.5, "-2.5"), (0.1, "0.1"), (1e-6, "0.000001"), (9.5e-7, "9.5e-7"), (1e-7, "1e-7"), (123456.75, "123456.75"),
     (1e20, "100000000000000000000"), (1e21, "1e+21"), (1.5e300, "1.5e+300"), (5e-324, "5e-324"), (0.000123, "0.000123")],
)  # fmt: skip
def test_numbers_are_written_as_ecmascript_does(number, text):
    assert parameters.decimal(number) == text
    assert float(text) == number


def test_strings_are_escaped_as_go_does():
    assert parameters.canonical({"é": 'a"\\\n<&>\u2028'}) == '{"é":"a\\"\\\\\\n<&>\\u2028"}'


def test_defaults_fill_in_and_types_are_kept():
    values = parameters.resolve(RULES, {"rate": 1, "width": 4.0})
    assert values == {"epochs": 10, "patience": 0, "rate": 1.0, "width": 4, "kind": "relu", "fast": False}
    assert isinstance(values["rate"], float) and isinstance(values["width"], int)


def test_every_problem_is_told_at_once():
    given = {"rate": 2, "width": 1.5, "kind": "sine", "fast": 1, "epochs": True, "depth": 3}
    with pytest.raises(ValueError) as error:
        parameters.resolve(RULES, given)
    assert str(error.value).splitlines() == [
        "parameter 'depth' is not declared; expected one of epochs, fast, kind, patience, rate, width",
        "parameter 'epochs': True is no int",
        "parameter 'fast': 1 is no bool",
        "parameter 'kind': 'sine' is none of ['relu', 'tanh']",
        "parameter 'rate': 2.0 is more than 1",
        "parameter 'width': 1.5 is no int",
    ]
