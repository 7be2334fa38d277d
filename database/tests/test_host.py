import hashlib
import json

import numpy as np
import pytest

from insitu_runtime import state
from session import LEARNER, Session, bundle_of, host_of, packs_of


def fit(host, spec, start, packs, **more):
    token, text = None, json.dumps(dict(spec, epoch=1, shard=0, shards=1, **more))
    for pack in packs:
        token = host.fit_step(token, text, start, pack[4], pack[5])
    return host.fit_result(token)


def score(host, spec, trained, packs):
    token = None
    for pack in packs:
        token = host.score_step(token, json.dumps(spec), trained, pack[4], pack[5])
    return json.loads(host.score_result(token))


def train_packs():
    return [pack for pack in packs_of() if pack[0] == "train"]


def test_the_initial_state_depends_on_the_seed_alone(host, spec):
    one, two, other = host.init_state(json.dumps(spec)), host.init_state(json.dumps(spec)), host.init_state(json.dumps(dict(spec, seed=6)))
    assert one == two != other


def test_fit_learns_and_counts(host, spec):
    start = host.init_state(json.dumps(spec))
    result = fit(host, spec, start, train_packs() * 20)
    metrics = json.loads(result["metrics"])
    assert (result["rows"], result["packs"]) == (600, 40)
    assert {name: metrics[name] for name in ("shard", "rows", "packs")} == {"shard": 0, "rows": 600, "packs": 40}
    before, after = score(host, spec, start, train_packs()), score(host, spec, result["state"], train_packs())
    assert before["rows"] == after["rows"] == 30
    assert after["loss"] < before["loss"] and after["correct"] > before["correct"]
    assert host.running == {}


def test_fit_is_reproducible(host, spec):
    start = host.init_state(json.dumps(spec))
    assert fit(host, spec, start, train_packs())["state"] == fit(host, spec, start, train_packs())["state"]


def test_a_state_that_diverged_is_named_when_it_is_scored(host, spec):
    diverged = state.encode({"w": np.full((4, 3), np.nan, np.float32), "steps": np.array(1)})
    with pytest.raises(Exception, match="loss is nan: the training diverged"):
        score(host, spec, diverged, train_packs())


def test_score_is_the_sum_of_minus_log_p(host, spec):
    start = host.init_state(json.dumps(spec))
    pack = train_packs()[0]
    p = np.frombuffer(host.predict_state(json.dumps(spec), start, pack[5]), "<f4").reshape(-1, 3)
    y = np.frombuffer(pack[4], "<i4")
    got = score(host, spec, start, [pack])
    assert got["loss"] == pytest.approx(-np.log(p[np.arange(len(y)), y].astype(float)).sum())
    assert got["correct"] == (p.argmax(axis=1) == y).sum()


def test_a_regression_scores_squared_errors(spec):
    source = LEARNER + "\n    def predict(self, x):\n        return x.reshape(len(x), -1)[:, :1]\n"
    spec["input"] = {"task": "regression", "shape": [2, 2], "dtype": "float32"}
    host = host_of(bundle_of(learner=source))
    x, y = np.float32([[1, 0, 0, 0], [2, 0, 0, 0]]), np.float32([3, 2])
    token = host.score_step(None, json.dumps(spec), host.init_state(json.dumps(spec)), y.tobytes(), x.tobytes())
    assert json.loads(host.score_result(token)) == {"rows": 2, "loss": 4.0, "correct": 0}


def test_groups_of_one_statement_run_side_by_side(host, spec):
    start, packs = host.init_state(json.dumps(spec)), train_packs()
    tokens = [host.fit_step(None, json.dumps(dict(spec, shard=k)), start, packs[k][4], packs[k][5]) for k in (0, 1)]
    results = [host.fit_result(token) for token in tokens]
    assert [r["rows"] for r in results] == [16, 14]


def test_what_a_cancelled_statement_left_is_dropped_by_the_next(spec):
    session = Session()
    host = host_of(bundle_of(learner=LEARNER), session)
    start, pack = host.init_state(json.dumps(spec)), train_packs()[0]
    lost = host.fit_step(None, json.dumps(spec), start, pack[4], pack[5])
    session.statement()
    host.fit_step(None, json.dumps(spec), start, pack[4], pack[5])
    assert len(host.running) == 1
    with pytest.raises(RuntimeError, match="lost its model"):
        host.fit_step(lost, json.dumps(spec), start, pack[4], pack[5])


def test_progress_is_told_at_most_once_a_second(spec):
    session = Session()
    host = host_of(bundle_of(learner=LEARNER), session)
    start = host.init_state(json.dumps(spec))
    host.noticed -= 5
    fit(host, spec, start, train_packs())
    assert session.notices == [{"insitu": "progress", "shard": 0, "rows": 16}]


def test_a_shard_says_where_it_was_trained(spec):
    for version, where in (("PostgreSQL 15.18", "null::int as segment"), ("PostgreSQL 9.4 (Greenplum Database 6.24.3)", "gp_execution_segment() as segment")):
        host = host_of(bundle_of(learner=LEARNER), Session(version=version))
        assert where in host.where
        metrics = json.loads(fit(host, spec, host.init_state(json.dumps(spec)), train_packs())["metrics"])
        assert (metrics["process"], metrics["segment"]) == (7, None)


def test_a_warm_start_is_the_other_trainings_state(host, spec):
    other = fit(host, spec, host.init_state(json.dumps(spec)), train_packs())["state"]
    assert host.warm_state(json.dumps(spec), other) == other


def test_a_warm_start_of_another_learner_is_refused(host, spec):
    other = host_of(bundle_of(learner=LEARNER.replace('"w": self.w,', '"w": self.w[:2],')))
    with pytest.raises(ValueError, match=r"not of this learner .* state 'w' is \('float32', \(2, 3\)\) there and \('float32', \(4, 3\)\) here"):
        host.warm_state(json.dumps(spec), other.init_state(json.dumps(spec)))


def test_merging_ignores_shards_without_rows(host, spec):
    one = state.encode({"w": np.float32([2])})
    assert host.merge_states(json.dumps(spec), [one, None], [4, 0]) == one


def test_a_learner_may_merge_itself(spec):
    source = LEARNER + "\n    def merge(self, states, rows):\n        return dict(states[1], rows=np.array(rows))\n"
    host = host_of(bundle_of(learner=source))
    states = [state.encode({"w": np.float32([n])}) for n in (1, 2)]
    merged = state.decode(host.merge_states(json.dumps(spec), states, [3, 4]))
    assert (merged["w"].tolist(), merged["rows"].tolist()) == ([2], [3, 4])


def test_the_learner_gets_statistics_that_broadcast(spec):
    spec["input"]["statistics"] = {"shape": [2, 1], "mean": [1, 2], "std": [3, 4]}
    source = "class Learner:\n  def __init__(self, p, data, seed):\n    self.d = data\n  def state(self):\n    return {'mean': self.d['mean'], 'std': self.d['std']}\n"
    back = state.decode(host_of(bundle_of(learner=source)).init_state(json.dumps(spec)))
    assert back["mean"].tolist() == [[1], [2]] and back["std"].dtype == np.float32


def test_end_epoch_comes_after_the_last_pack_and_adds_its_sums(spec):
    source = LEARNER + (
        "\n    def fit(self, x, y):\n        self.seen = getattr(self, 'seen', 0) + len(x)\n        return {'loss': 0.5, 'correct': 1}\n"
        "\n    def end_epoch(self):\n        self.w = np.float32([self.seen])\n        return {'loss': 2, 'correct': 3}\n"
    )
    host = host_of(bundle_of(learner=source))
    result = fit(host, spec, host.init_state(json.dumps(spec)), train_packs())
    assert state.decode(result["state"])["w"].tolist() == [30]
    metrics = json.loads(result["metrics"])
    assert (metrics["rows"], metrics["loss"], metrics["correct"]) == (30, 3.0, 5)


@pytest.mark.parametrize(
    ("end", "message"),
    [("return {'loss': float('nan')}", "end_epoch returned loss nan"), ("raise KeyError('rows')", r"learner.py, line \d+, in end_epoch: KeyError: 'rows'")],
)
def test_what_goes_wrong_in_end_epoch_is_named(spec, end, message):
    host = host_of(bundle_of(learner=LEARNER + "\n    def end_epoch(self):\n        %s\n" % end))
    with pytest.raises(Exception, match=message):
        fit(host, spec, host.init_state(json.dumps(spec)), train_packs())


def test_end_epoch_may_return_nothing(spec):
    host = host_of(bundle_of(learner=LEARNER + "\n    def end_epoch(self):\n        self.steps = 40\n"))
    result = fit(host, spec, host.init_state(json.dumps(spec)), train_packs())
    assert state.decode(result["state"])["steps"] == 40 and json.loads(result["metrics"])["loss"] > 0


def test_begin_epoch_is_told_where_it_is(spec):
    source = LEARNER + "\n    def begin_epoch(self, *a):\n        self.w = np.float32(a)\n    def fit(self, x, y):\n        return {'loss': 0, 'correct': 0}\n"
    host = host_of(bundle_of(learner=source))
    result = fit(host, dict(spec), host.init_state(json.dumps(spec)), train_packs())
    assert state.decode(result["state"])["w"].tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("labels", "data", "message"),
    [(b"\0" * 4, b"\0" * 17, "17 bytes does not hold whole examples of 16 bytes"), (b"\0" * 8, b"\0" * 16, "2 labels for 1 examples"), (b"", b"", "0 bytes")],
)
def test_a_broken_pack_is_refused(host, spec, labels, data, message):
    with pytest.raises(ValueError, match=message):
        host.fit_step(None, json.dumps(spec), host.init_state(json.dumps(spec)), labels, data)


@pytest.mark.parametrize(
    ("line", "message"),
    [("return {'loss': float('nan'), 'correct': 0}", "loss nan; a smaller learning rate"), ("return None", r"TypeError"), ("raise ValueError('odd shapes')", r"learner\.py, line \d+, in fit: ValueError: odd shapes")],
)  # fmt: skip
def test_what_fit_does_wrong_is_named(spec, line, message):
    host = host_of(bundle_of(learner=LEARNER + "\n    def fit(self, x, y):\n        %s\n" % line))
    with pytest.raises(Exception, match=message):
        fit(host, spec, host.init_state(json.dumps(spec)), train_packs())


def test_a_wrong_shape_of_predictions_is_named(spec):
    host = host_of(bundle_of(learner=LEARNER + "\n    def predict(self, x):\n        return np.zeros(3)\n"))
    with pytest.raises(Exception, match=r"predict returned shape \(3,\) for 1 examples"):
        host.predict_state(json.dumps(spec), host.init_state(json.dumps(spec)), bytes(16))


def test_a_spec_that_lacks_something_says_what(host):
    with pytest.raises(ValueError, match="the spec lacks input, seed"):
        host.init_state('{"parameters": {}}')


def test_the_exported_model_predicts_what_the_learner_does(host, spec):
    start, pack = host.init_state(json.dumps(spec)), train_packs()[0]
    model = host.export_model(json.dumps(spec), start)
    got = host.predict_onnx(model, hashlib.sha256(model).hexdigest(), pack[5], pack[3])
    want = host.predict_state(json.dumps(spec), start, pack[5])
    assert np.abs(np.frombuffer(got, "<f4") - np.frombuffer(want, "<f4")).max() < 1e-5


def test_an_export_with_other_names_is_refused(spec):
    host = host_of(bundle_of(learner=LEARNER.replace('"probabilities"', '"output"')))
    with pytest.raises(Exception, match='expected one output "probabilities"'):
        host.export_model(json.dumps(spec), host.init_state(json.dumps(spec)))


def test_a_model_with_another_digest_is_refused(host, spec):
    model = host.export_model(json.dumps(spec), host.init_state(json.dumps(spec)))
    with pytest.raises(Exception, match="expected 0000"):
        host.predict_onnx(model, "0" * 64, bytes(16), 1)


def test_a_model_that_reads_files_is_refused(host, spec):
    onnx = pytest.importorskip("onnx")
    model = onnx.load_model_from_string(host.export_model(json.dumps(spec), host.init_state(json.dumps(spec))))
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], location="pg_hba.conf")
    model.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    raw = model.SerializeToString()
    with pytest.raises(Exception, match="keeps weights in other files"):
        host.predict_onnx(raw, hashlib.sha256(raw).hexdigest(), bytes(16), 1)
