import pytest

from insitu_runtime import driver


def epoch(validation=None, train=1.0):
    shards = [{"rows": 10, "loss": train * 10, "correct": 5}]
    return {"shards": shards, "validation": None if validation is None else {"rows": 4, "loss": validation * 4, "correct": 2}}


@pytest.mark.parametrize(
    ("losses", "patience", "expected"),
    [([], 3, (0, False)), ([3, 2, 1], 0, (3, False)), ([1, 2, 3, 4], 0, (1, False)), ([2, 2], 0, (1, False)), ([1, 2, 3], 2, (1, True)), ([1, 2], 2, (1, False)), ([3, 4, 2, 5], 2, (3, False))],
)  # fmt: skip
def test_the_lowest_validation_loss_is_best_and_patience_ends(losses, patience, expected):
    assert driver.choose([(n, epoch(loss)) for n, loss in enumerate(losses, 1)], patience) == expected


def test_without_validation_the_train_loss_decides():
    assert driver.choose([(1, epoch(train=2.0)), (2, epoch(train=1.0))], 0) == (2, False)


class Recorded(driver.Trainer):
    def __init__(self, past=0, empty=()):
        self.past, self.empty, self.calls = past, empty, []

    def load(self):
        return [(n, epoch(1 / n)) for n in range(1, self.past + 1)]

    def fit(self, number, shard):
        self.calls.append((number, shard))
        return None if shard in self.empty else (b"s%d" % shard, 10, {"shard": shard, "rows": 10, "loss": 1.0, "correct": 1})

    def merge(self, states, rows):
        self.calls.append((states, rows))
        return b"+".join(states)

    def score(self, state, shard):
        return None if shard in self.empty else {"rows": 1, "loss": 0.125 * (1 + shard), "correct": shard}

    def record(self, number, state, metrics):
        self.calls.append((number, state, metrics["validation"]))
        return metrics


def test_a_training_goes_on_where_it_was_left():
    trainer = Recorded(past=2)
    curve, best = driver.train(trainer, 3, 0, 2)
    assert trainer.calls == [(3, 0), (3, 1), ([b"s0", b"s1"], [10, 10]), (3, b"s0+s1", {"rows": 2, "loss": 0.375, "correct": 1})]
    assert ([number for number, _ in curve], best) == ([1, 2, 3], 3)


def test_shards_without_rows_are_left_out():
    trainer = Recorded(empty=(0,))
    driver.train(trainer, 1, 0, 2)
    assert trainer.calls[-2:] == [([b"s1"], [10]), (1, b"s1", {"rows": 1, "loss": 0.25, "correct": 1})]


def test_no_rows_at_all_is_an_error():
    with pytest.raises(ValueError, match="no packs of the train split"):
        driver.train(Recorded(empty=(0, 1)), 1, 0, 2)


def test_a_regression_has_no_accuracy():
    measured = epoch(0.5)
    assert driver.summary({}, 1, measured) == {"epoch": 1, "train_loss": 1.0, "train_accuracy": 0.5, "validation_loss": 0.5, "validation_accuracy": 0.5}
    assert driver.summary({"task": "regression"}, 1, measured) == {"epoch": 1, "train_loss": 1.0, "validation_loss": 0.5}
