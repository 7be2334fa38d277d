"""What the SQL functions call: one Host for each release in a session."""

import functools
import hashlib
import itertools
import json
import sys
import time

from . import drift, learning, onnxmodel, shard
from . import state as states

NOTICE_SECONDS = 1.0
WHERE = "select statement_timestamp()::text as at, pg_backend_pid() as process, %s as segment"
LEARNERS = 4  # states kept ready for predict_state
NOT_CACHED = "the cache has no packs of this shard: another process has begun to work for the session"  # internal/training knows this text
CHANGED = "the packs of this shard have changed since the last epoch"


class Host:
    """The functions of one release.

    database is plpy, or anything with execute(sql or plan, args), prepare(sql, types) and notice(text).
    """

    def __init__(self, release, database):
        self.release, self.database = release, database
        self.numbers = itertools.count(1)
        self.running = {}  # token -> (statement, work)
        self.learners = {}
        self.cache = {}  # shard -> (labels, data) of its packs, in their order
        self.models = onnxmodel.Models()
        self.noticed = time.monotonic()
        version = database.execute("select version() as version")[0]["version"].lower()
        self.distributed = "greenplum" in version or "cloudberry" in version
        self.where = WHERE % ("gp_execution_segment()" if self.distributed else "null::int")  # -1 is the coordinator

    @functools.cached_property
    def learning(self):
        """The app's learner, imported when it is asked for: sessions that predict by ONNX alone need no torch."""
        return learning.Learning(sys.modules[__name__.partition(".")[0]].bundle)

    def init_state(self, spec):
        return self.learning.state(self.learning.new(learning.parse_spec(spec)))

    def warm_state(self, spec, state):
        """The state of another training as the start of this one; ValueError when it is not this learner's."""
        parsed = learning.parse_spec(spec)
        wanted, given = (states.decode(s) for s in (self.init_state(spec), state))
        shapes = [{name: (array.dtype.name, array.shape) for name, array in arrays.items()} for arrays in (wanted, given)]
        if shapes[0] != shapes[1]:
            differ = sorted(name for name in set(shapes[0]) | set(shapes[1]) if shapes[0].get(name) != shapes[1].get(name))
            name = differ[0]
            raise ValueError(
                "the model to start from is not of this learner with these parameters: state %r is %s there and %s here"
                % (name, shapes[1].get(name, "missing"), shapes[0].get(name, "missing"))
            )
        return self.learning.state(self.learning.new(parsed, state))

    def merge_states(self, spec, states, rows):
        if len(states) != len(rows):
            raise ValueError("%d states and %d row counts; expected one count for each state" % (len(states), len(rows)))
        return self.learning.merge(self.learning.new(learning.parse_spec(spec)), states, rows)

    def predict_state(self, spec, state, data):
        key = (spec, hashlib.sha256(state).digest())
        parsed = learning.parse_spec(spec)
        learner = self.learners.get(key)
        if learner is None:
            while len(self.learners) >= LEARNERS:
                del self.learners[next(iter(self.learners))]
            learner = self.learners[key] = self.learning.new(parsed, state)
        return self.learning.predict(learner, learning.examples(parsed["input"], data)).tobytes()

    def export_model(self, spec, state):
        parsed = learning.parse_spec(spec)
        model = self.learning.export(self.learning.new(parsed, state))
        onnxmodel.check_export(model, parsed["input"])
        return model

    def predict_onnx(self, model, digest, data, n):
        onnxmodel.refuse_external_data(model)
        return self.models.get(digest, lambda: model).predict(data, n).tobytes()

    def summarize_inputs(self, data, packed, n):
        return drift.summaries(packed, n, json.loads(data)).tobytes()

    def profile_inputs(self, data, summaries):
        return json.dumps(drift.profile(summaries, json.loads(data)))

    def fit_step(self, token, spec, state, labels, data):
        token, work = self.find(token, lambda: Fit(self, learning.parse_spec(spec), state))
        work.step(labels, data)
        return token

    def fit_result(self, token):
        _, work, place = self.running.pop(token)
        state, metrics = work.result()
        metrics = dict(metrics, **place)
        return {"state": state, "rows": metrics["rows"], "packs": metrics["packs"], "metrics": json.dumps(metrics)}

    def score_step(self, token, spec, state, labels, data):
        token, work = self.find(token, lambda: shard.Score(self.learning, learning.parse_spec(spec), state))
        work.step(labels, data)
        return token

    def score_result(self, token):
        return json.dumps(self.running.pop(token)[1].result())

    def run_training_task(self, options):
        from . import task

        return json.dumps(task.run(self.database, json.loads(options), self.distributed))

    def find(self, token, make):
        """The running work of a token; the first pack of a group (token null) starts one.

        Work that a cancelled statement left behind is dropped here.
        """
        if token is not None:
            if token not in self.running:
                raise RuntimeError("this aggregate lost its model: another statement ran in the session meanwhile")
            return token, self.running[token][1]
        where = self.database.execute(self.where)[0]
        statement, place = where["at"], {name: where[name] for name in ("process", "segment")}
        for old in [old for old, (at, _, _) in self.running.items() if at != statement]:
            del self.running[old]
        token = "%s/%d" % (self.release, next(self.numbers))
        self.running[token] = (statement, make(), place)
        return token, self.running[token][1]

    def progress(self, shard_number, rows):
        """Tells the client, at most once a second, how far a shard is."""
        now = time.monotonic()
        if now - self.noticed >= NOTICE_SECONDS:
            self.noticed = now
            self.database.notice(json.dumps({"insitu": "progress", "shard": shard_number, "rows": rows}))


class Fit(shard.Fit):
    """A shard's epoch that reports progress, and fills or uses the session's cache of packs as the spec says."""

    def __init__(self, host, spec, state):
        super().__init__(host.learning, spec, state)
        self.host, self.filled = host, []
        self.cached = host.cache.pop(self.number, None)
        self.cache = spec.get("cache")
        if self.cache == "use" and self.cached is None:
            raise RuntimeError(NOT_CACHED)

    def step(self, labels, data):
        if self.cache == "use":
            data = self.known(labels)
        super().step(labels, data)
        if self.cache:
            self.filled.append((labels, data))
        self.host.progress(self.number, self.rows)

    def known(self, labels):
        """The data of the next pack, which must have these labels."""
        if self.packs >= len(self.cached) or self.cached[self.packs][0] != labels:
            raise RuntimeError(CHANGED)
        return self.cached[self.packs][1]

    def result(self):
        if self.cache == "use" and self.packs < len(self.cached):
            raise RuntimeError(CHANGED)
        if self.cache:  # all of the shard, or nothing
            self.host.cache[self.number] = self.filled
        return super().result()
