import json

import numpy as np
import pytest

from insitu_runtime import drift

TABLE = {"shape": [3], "dtype": "float32", "columns": ["age", "rooms", "floor"]}


def profile_of(x, data, parts=3):
    """The profile of examples that come in some packs."""
    packs = [drift.summaries(part.tobytes(), len(part), data).tobytes() for part in np.array_split(x, parts)]
    return drift.profile(packs, data)


def table(rows=1000, seed=1):
    rng = np.random.default_rng(seed)
    return np.stack([rng.normal(40, 12, rows), rng.integers(1, 6, rows), np.full(rows, 2.0)], axis=1).astype("<f4")


def test_each_column_of_a_table_is_a_feature_in_tenths():
    found = profile_of(table(), TABLE)
    assert [feature["name"] for feature in found["features"]] == ["age", "rooms", "floor"] and found["rows"] == 1000
    age = found["features"][0]["counts"]
    assert len(age) == 12 and age[0] == age[-1] == 0 and all(98 <= count <= 102 for count in age[1:-1])
    assert all(sum(feature["counts"]) == 1000 for feature in found["features"])


def test_values_that_come_often_are_a_bin_of_their_own():
    rooms, floor = profile_of(table(), TABLE)["features"][1:]
    x = table()[:, 1]
    assert rooms["edges"][:-1] == [1, 2, 3, 4, 5]
    assert rooms["counts"] == [0] + [int((x == value).sum()) for value in range(1, 6)] + [0]
    assert floor["counts"] == [0, 1000, 0]


def test_examples_are_sorted_into_the_bins_they_were_counted_in():
    x = table()
    found = profile_of(x, TABLE)
    bins = np.array(drift.Bins(json.loads(json.dumps(found)), TABLE).of(x.tobytes(), len(x)))
    for number, feature in enumerate(found["features"]):
        assert np.bincount(bins[:, number], minlength=len(feature["counts"])).tolist() == feature["counts"]


def test_values_beyond_all_that_was_seen_have_bins_of_their_own():
    bins = drift.Bins(profile_of(table(), TABLE), TABLE)
    low, high = bins.of(np.array([[-1e9, 0, 1], [1e9, 6, 3]], "<f4").tobytes(), 2)
    assert low == [0, 0, 0] and high == [11, 6, 2]


@pytest.mark.parametrize(
    "shape, names",
    [
        ([8, 8], ["mean", "deviation"]),
        ([8, 8, 1], ["mean", "deviation"]),
        (
            [3, 8, 8],
            ["mean of channel 1", "mean of channel 2", "mean of channel 3", "deviation of channel 1", "deviation of channel 2", "deviation of channel 3"],
        ),
        (
            [8, 8, 3],
            ["mean of channel 1", "mean of channel 2", "mean of channel 3", "deviation of channel 1", "deviation of channel 2", "deviation of channel 3"],
        ),
        ([2000], ["mean", "deviation"]),
        ([2], ["value 1", "value 2"]),
    ],
)
def test_what_is_looked_at_follows_from_the_shape(shape, names):
    data = {"shape": shape, "dtype": "uint8"}
    assert drift.features(data) == names
    x = np.random.default_rng(2).integers(0, 256, [50] + shape).astype(np.uint8)
    assert drift.summaries(x.tobytes(), 50, data).shape == (50, len(names))
    assert drift.summaries(b"", 0, data).shape == (0, len(names))


def test_pictures_are_looked_at_channel_by_channel():
    x = np.random.default_rng(3).integers(0, 256, [20, 5, 7, 3]).astype(np.uint8)
    last, first = {"shape": [5, 7, 3], "dtype": "uint8"}, {"shape": [3, 5, 7], "dtype": "uint8"}
    found = drift.summaries(x.tobytes(), 20, last)
    np.testing.assert_allclose(found[:, :3], x.mean(axis=(1, 2)), rtol=1e-6)
    np.testing.assert_allclose(found[:, 3:], x.std(axis=(1, 2)), rtol=1e-6)
    turned = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    assert (drift.summaries(turned.tobytes(), 20, first) == found).all()


def test_an_example_is_the_same_alone_and_in_a_pack():
    data = {"shape": [31, 33], "dtype": "float32"}
    x = np.random.default_rng(4).random([64, 31, 33]).astype("<f4")
    together = drift.summaries(x.tobytes(), 64, data)
    assert all((drift.summaries(one.tobytes(), 1, data) == row).all() for one, row in zip(x, together))
