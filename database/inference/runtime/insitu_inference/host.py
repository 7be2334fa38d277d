"""What the SQL functions of the inference schema call."""

import collections
import functools
import hashlib
import json
import math
import random

from insitu_runtime import drift, onnxmodel

from . import picture, table
from .refusal import Refused

# Asked whenever anything was written, so it costs as little as it can: what the route is, is asked only when there is one.
ACTIVE = """select name, version, digest, (select true from route) as routed, (select share from sampling) as sampled from models
where (name, version) = (select name, version from activations order by ordinal desc limit 1)"""
ROUTE = "select mode, share, name, version from route"
PAYLOAD = "select payload from sampling"
PROFILE = "select profile::text as profile from profiles where name = $1 and version = $2"
VERSION = "select name, version, digest from models where name = $1 and version = $2"
MODEL = "select m.manifest::text as manifest, b.onnx from models m join model_blobs b on b.digest = m.digest where m.name = $1 and m.version = $2"
LOG = "select log_predictions($1)"
FEEDBACK = """insert into feedback (input_hash, label) values ($1, $2) on conflict (input_hash)
do update set label = excluded.label, recorded_at = excluded.recorded_at, recorded_by = excluded.recorded_by"""
KEPT = 4  # models kept in a session
BATCH = 256  # examples predicted together
write = json.JSONEncoder(ensure_ascii=False).encode  # json.dumps would make an encoder each time
BUCKETS = 10_000  # of hashes of inputs; a route takes its share of them

# What a model says of one example; probability is the label's, both are None for a regression.
Answer = collections.namedtuple("Answer", "label probability numbers model")
# The columns of the SQL type prediction, or a list for each of them.
Prediction = collections.namedtuple("Prediction", "label probabilities model_name model_version")


def refusing(method):
    """Turns Refused into an SQL error with its SQLSTATE."""

    @functools.wraps(method)
    def call(self, *args):
        try:
            return method(self, *args)
        except Refused as error:
            refused = error
        # Outside of except: else the server's report would repeat the message as the cause.
        self.database.error(str(refused), sqlstate=refused.sqlstate, **({"hint": refused.hint} if refused.hint else {}))

    return call


class Host:
    """The functions of one schema in one session.

    database is plpy, or anything with prepare(sql, types), execute(plan, args) and error(text, sqlstate=, hint=).
    """

    def __init__(self, database):
        self.database = database
        self.plans = {}
        self.models = {}  # (name, version, digest) -> Model
        self.seen = self.found = None  # the snapshot in which active was asked last, and what it found
        self.draw = random.Random().random  # noqa: S311 - a sample, no secret

    @refusing
    def run_inference_task(self, img, seen=None):
        return self.one(img, picture.one, seen).label

    @refusing
    def predict(self, img, seen=None):
        return prediction(self.one(img, picture.one, seen))

    @refusing
    def predict_batch(self, imgs, seen=None):
        if imgs is None:
            raise Refused("IS001", "there are no images: the array is null")
        return self.many(imgs, picture.many, seen)

    @refusing
    def predict_row(self, row, seen=None):
        return prediction(self.one(table.read(row), table.one, seen))

    @refusing
    def predict_rows(self, rows, seen=None):
        return self.many(table.read_all(rows), table.many, seen)

    @refusing
    def predict_version(self, name, version, data, n):
        predictor = self.version(name, version).predictor
        try:
            return predictor.predict(data, n).tobytes()
        except ValueError as error:
            raise Refused("IS002", str(error)) from error

    @refusing
    def record_feedback(self, img, label):
        self.record([img], picture.one, label)

    @refusing
    def record_row_feedback(self, row, label):
        self.record([table.read(row)], table.one, label)

    def record(self, inputs, encode, label):
        """Keeps what an input really was, under its key."""
        champion, _ = self.active()
        _, (key,) = encode(champion, inputs)
        if champion.classes and label not in champion.classes:
            raise Refused("22023", "the label %r is no class of model %r version %s" % (label, champion.name, champion.version))
        if not champion.classes and not is_number(label):
            raise Refused("22023", "the label %r is no number" % label)
        self.query(FEEDBACK, ["text", "text"], [hashlib.sha256(key).hexdigest(), label])

    def one(self, sent, encode, seen):
        return self.answers(*self.active(seen), [sent], encode)[0]

    def many(self, inputs, encode, seen):
        """The columns of all predictions: PL/Python makes arrays of lists much faster than rows."""
        champion, watch = self.active(seen)
        found = []
        for start in range(0, len(inputs), BATCH):
            found += self.answers(champion, watch, list(enumerate(inputs[start : start + BATCH], start + 1)), encode)
        labels, models = [answer.label for answer in found], [answer.model for answer in found]
        return Prediction(labels, [probabilities(answer) for answer in found], [m.name for m in models], [m.version for m in models])

    def answers(self, champion, watch, inputs, encode):
        """An Answer for each input; encode(model, inputs) gives the model's examples and the inputs' keys."""
        examples, keys = encode(champion, inputs)
        found = champion.answers(examples)
        return found if watch is None else self.watched(champion, watch, found, inputs, examples, keys, encode)

    def watched(self, champion, watch, found, inputs, examples, keys, encode):
        """The answers, in a canary those of its share by the challenger; what a route sent to two models, and the sample, is logged."""
        route, share = watch
        entries = {}  # by the number of the input
        answered = found if route is None else self.routed(champion, route, found, inputs, keys, encode, entries)
        sample = [at for at in range(len(found)) if self.draw() < share]
        if sample:
            keep = self.query(PAYLOAD, [], [])[0]["payload"]
            for at, bins in zip(sample, self.bins(champion, [examples[at] for at in sample])):
                if at not in entries:
                    entries[at] = dict(self.entry(champion, found[at], keys[at]), mode="sample", answered_by="champion")
                entries[at].update(bins=bins, payload="\\x" + keys[at].hex() if keep else None)
        if entries:
            self.query(LOG, ["json"], [write(list(entries.values()))])
        return answered

    def routed(self, champion, route, found, inputs, keys, encode, entries):
        """The answers, in a canary those of the share by the challenger; adds what both say to the entries.

        A challenger that fails is logged too, and nobody notices.
        """
        both = [self.entry(champion, answer, key) for answer, key in zip(found, keys)]
        chosen = [at for at, entry in enumerate(both) if entry["bucket"] < route["share"] * BUCKETS]
        if not chosen:
            return found
        error = None
        try:
            challenger = self.version(route["name"], route["version"])
            theirs = challenger.answers(encode(challenger, [inputs[at] for at in chosen])[0])
        except Refused as refused:
            error, theirs = refused.sqlstate, [Answer(None, None, None, None)] * len(chosen)
        canary = route["mode"] == "canary" and error is None
        answered = list(found)
        for at, other in zip(chosen, theirs):
            if canary:
                answered[at] = other
            entries[at] = dict(
                both[at], mode=route["mode"],
                challenger_name=route["name"], challenger_version=route["version"],
                challenger_label=other.label, challenger_probability=other.probability, challenger_error=error,
                answered_by="challenger" if canary else "champion",
            )  # fmt: skip
        return answered

    def entry(self, champion, answer, key):
        """What the log says of every prediction."""
        digest = hashlib.sha256(key).hexdigest()
        return {
            "input_hash": digest, "bucket": int(digest[:12], 16) % BUCKETS,
            "champion_name": champion.name, "champion_version": champion.version,
            "champion_label": answer.label, "champion_probability": answer.probability,
        }  # fmt: skip

    def bins(self, model, examples):
        """For each example the bins of the model's profile that it is in; none without a profile."""
        if model.profile is None:
            stored = self.query(PROFILE, ["text", "int"], [model.name, model.version])
            if stored:
                model.profile = drift.Bins(json.loads(stored[0]["profile"]), model.data)
        if model.profile is None:
            return [[]] * len(examples)
        return model.profile.of(b"".join(examples), len(examples))

    def active(self, seen=None):
        """The active model, and what watches it, if anything does: the route to another model, and the share that is sampled.

        seen is the snapshot of the statement (read_snapshot): in an equal one there is nothing else to be found.
        """
        if seen is None or seen != self.seen:
            self.found = self.ask()
            self.seen = seen
        return self.found

    def ask(self):
        rows = self.query(ACTIVE, [], [])
        if not rows:
            raise Refused("IS003", "no model is active in this schema", "run deploy-inference-db")
        found = rows[0]
        model = self.model(found)
        route = self.query(ROUTE, [], [])[0] if found["routed"] else None
        if route and (route["name"], route["version"]) == (model.name, model.version):
            route = None  # the challenger was activated
        share = found["sampled"] or 0
        return model, (route, share) if route or share else None

    def version(self, name, version):
        rows = self.query(VERSION, ["text", "int"], [name, version])
        if not rows:
            raise Refused("IS006", "model %r version %s is not deployed in this schema" % (name, version))
        return self.model(rows[0])

    def model(self, row):
        key = (row["name"], row["version"], row["digest"])
        model = self.models.pop(key, None) or self.load(key)
        self.models[key] = model
        while len(self.models) > KEPT:
            del self.models[next(iter(self.models))]
        return model

    def load(self, key):
        name, version, digest = key
        stored = self.query(MODEL, ["text", "int"], [name, version])
        try:
            if not stored:
                raise onnxmodel.ModelError("its bytes are missing")
            predictor = onnxmodel.Predictor(onnxmodel.open_model(stored[0]["onnx"], digest))
            return Model(name, version, predictor, json.loads(stored[0]["manifest"]))
        except onnxmodel.ModelError as error:
            raise Refused("IS004", "model %r version %s cannot be used: %s" % (name, version, error), "deploy the version again") from error

    def query(self, sql, types, args):
        plan = self.plans.get(sql)
        if plan is None:
            plan = self.plans[sql] = self.database.prepare(sql, types)
        return self.database.execute(plan, args)


class Model:
    """A loaded model: what predicts, and how its inputs and outputs are meant."""

    def __init__(self, name, version, predictor, manifest):
        self.name, self.version, self.predictor = name, version, predictor
        described = manifest.get("input") or {}
        shape = predictor.shape
        self.data = {"shape": shape, "dtype": predictor.dtype, "range": described.get("range"), "bytes": predictor.bytes}
        self.classes = manifest.get("classes") or described.get("classes") or []
        # JSON of class to probability: nine digits tell all float32 apart.
        self.text = "{%s}" % ", ".join(write(name).replace("%", "%%") + ": %.9g" for name in self.classes)
        self.columns = manifest.get("columns") or []
        self.profile = None  # drift.Bins, once the sampling has asked for it
        if len(self.columns) not in (0, math.prod(shape)):
            raise onnxmodel.ModelError("it takes %d values and its manifest names %d columns" % (math.prod(shape), len(self.columns)))

    def answers(self, examples):
        """An Answer for each example (bytes)."""
        outputs = self.predictor.predict(b"".join(examples), len(examples))
        return [self.answer(numbers) for numbers in outputs.tolist()] if self.classes else [self.number(row) for row in outputs]

    def answer(self, numbers):
        """The Answer of a classifier's outputs."""
        if len(self.classes) != len(numbers):
            raise Refused("IS004", "model %r version %s has %d outputs for %d classes" % (self.name, self.version, len(numbers), len(self.classes)))
        self.check(numbers)
        probability = max(numbers)
        return Answer(self.classes[numbers.index(probability)], probability, numbers, self)

    def number(self, row):
        """The Answer of a regression's outputs, a row of float32."""
        self.check(row.tolist())
        return Answer(str(row[0]), None, row.tolist(), self)

    def check(self, numbers):
        if not math.isfinite(sum(numbers)):
            raise Refused("IS004", "model %r version %s gave %s; expected finite numbers" % (self.name, self.version, numbers))


def prediction(answer):
    """The columns of an Answer."""
    return Prediction(answer.label, probabilities(answer), answer.model.name, answer.model.version)


def probabilities(answer):
    """JSON of class to probability, None for a regression."""
    _, probability, numbers, model = answer
    return None if probability is None else model.text % tuple(numbers)


def is_number(text):
    try:
        return math.isfinite(float(text))
    except (TypeError, ValueError):
        return False
