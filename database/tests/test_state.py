import io
import pickle
import zipfile

import numpy as np
import pytest

from insitu_runtime import state

ARRAYS = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "file": np.array(3), "a/b": np.zeros(0, np.float64)}


def test_states_come_back_as_they_were():
    back = state.decode(state.encode(ARRAYS))
    assert set(back) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert back[name].dtype == array.dtype and back[name].shape == array.shape and np.array_equal(back[name], array)


def test_the_same_arrays_give_the_same_bytes_in_any_order():
    assert state.encode(ARRAYS) == state.encode(dict(reversed(list(ARRAYS.items()))))


def test_numpy_reads_the_bytes():
    with np.load(io.BytesIO(state.encode(ARRAYS))) as back:
        assert back["w"].tolist() == ARRAYS["w"].tolist()


def test_python_objects_are_refused():
    with pytest.raises(TypeError, match="Python objects"):
        state.encode({"w": np.array([object()])})


def pickled():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        member = io.BytesIO()
        np.lib.format.write_array(member, np.array([{}], dtype=object), allow_pickle=True)
        archive.writestr("w.npy", member.getvalue())
    return out.getvalue()


@pytest.mark.parametrize(
    "raw", [b"", b"no zip", pickle.dumps({"w": 1}), state.encode(ARRAYS)[:100], pickled()], ids=["empty", "text", "pickle", "cut", "objects"]
)
def test_other_bytes_are_refused(raw):
    with pytest.raises(ValueError):
        state.decode(raw)


def test_the_average_is_weighted_by_rows():
    merged = state.average([{"w": np.float32([0, 10])}, {"w": np.float32([4, 30])}], [1, 3])
    assert merged["w"].tolist() == [3, 25] and merged["w"].dtype == np.float32


def test_whole_numbers_are_taken_from_the_first():
    assert state.average([{"n": np.array(2)}, {"n": np.array(8)}], [1, 9])["n"] == 2


def test_one_state_is_its_own_average():
    assert state.average([ARRAYS], [7]) is ARRAYS


def test_scalars_stay_arrays():
    assert state.average([{"x": np.array(1.0, np.float32)}] * 2, [1, 1])["x"].shape == ()


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="different shapes"):
        state.average([{"w": np.zeros(2)}, {"w": np.zeros(3)}], [1, 1])
