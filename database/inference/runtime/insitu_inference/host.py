"""What the SQL functions of the inference schema call."""

import functools
import hashlib
import json
import math

from insitu_runtime import onnxmodel

from . import picture, table
from .refusal import Refused

# Every call asks this, so it costs as little as it can: what the route is, is asked only when there is one.
ACTIVE = """select name, version, digest, (select true from route) as routed from models
where (name, version) = (select name, version from activations order by ordinal desc limit 1)"""
ROUTE = "select mode, share, name, version from route"
VERSION = "select name, version, digest from models where name = $1 and version = $2"
MODEL = "select m.manifest::text as manifest, b.onnx from models m join model_blobs b on b.digest = m.digest where m.name = $1 and m.version = $2"
LOG = "select log_predictions($1)"
FEEDBACK = """insert into feedback (input_hash, label) values ($1, $2) on conflict (input_hash)
do update set label = excluded.label, recorded_at = excluded.recorded_at, recorded_by = excluded.recorded_by"""
KEPT = 4  # models kept in a session
BATCH = 256  # examples predicted together
write = json.JSONEncoder(ensure_ascii=False).encode  # json.dumps would make an encoder each time
BUCKETS = 10_000  # of hashes of inputs; a route takes its share of them


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

    def run_inference_task(self, img):
        return self.predict(img)["label"]

    @refusing
    def predict(self, img):
        return self.answers(*self.active(), [img], picture.one)[0]

    @refusing
    def predict_batch(self, imgs):
        if imgs is None:
            raise Refused("IS001", "there are no images: the array is null")
        return self.all_answers(imgs, picture.many)

    @refusing
    def predict_row(self, row):
        return self.answers(*self.active(), [table.read(row)], table.one)[0]

    @refusing
    def predict_rows(self, rows):
        return self.all_answers(table.read_all(rows), table.many)

    @refusing
    def predict_version(self, name, version, data, n):
        return self.version(name, version).outputs(data, n).tobytes()

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

    def all_answers(self, inputs, encode):
        """Answers with an index that counts from 1."""
        champion, route = self.active()
        rows = []
        for start in range(0, len(inputs), BATCH):
            part = list(enumerate(inputs[start : start + BATCH], start + 1))
            for (index, _), row in zip(part, self.answers(champion, route, part, encode)):
                rows.append(dict(row, index=index))
        return rows

    def answers(self, champion, route, inputs, encode):
        """A row of prediction for each input; encode(model, inputs) gives the model's examples and the inputs' keys."""
        examples, keys = encode(champion, inputs)
        rows = champion.predictions(examples)
        return rows if route is None else self.routed(champion, route, rows, inputs, keys, encode)

    def routed(self, champion, route, rows, inputs, keys, encode):
        """The rows, in a canary those of the share by the challenger; what both say is logged.

        A challenger that fails is logged too, and nobody notices.
        """
        hashes = [hashlib.sha256(key).hexdigest() for key in keys]
        buckets = [int(text[:12], 16) % BUCKETS for text in hashes]
        chosen = [at for at, bucket in enumerate(buckets) if bucket < route["share"] * BUCKETS]
        if not chosen:
            return rows
        error = None
        try:
            challenger = self.version(route["name"], route["version"])
            theirs = challenger.predictions(encode(challenger, [inputs[at] for at in chosen])[0])
        except Refused as refused:
            error, theirs = refused.sqlstate, [{}] * len(chosen)
        canary = route["mode"] == "canary" and error is None
        answered, entries = list(rows), []
        for at, other in zip(chosen, theirs):
            if canary:
                answered[at] = other
            entries.append({
                "mode": route["mode"], "input_hash": hashes[at], "bucket": buckets[at],
                "champion_name": champion.name, "champion_version": champion.version,
                "champion_label": rows[at]["label"], "champion_probability": rows[at]["probability"],
                "challenger_name": route["name"], "challenger_version": route["version"],
                "challenger_label": other.get("label"), "challenger_probability": other.get("probability"), "challenger_error": error,
                "answered_by": "challenger" if canary else "champion",
            })  # fmt: skip
        self.query(LOG, ["json"], [write(entries)])
        return answered

    def active(self):
        """The active model, and the route when there is one to another model."""
        rows = self.query(ACTIVE, [], [])
        if not rows:
            raise Refused("IS003", "no model is active in this schema", "run deploy-inference-db")
        model = self.model(rows[0])
        route = self.query(ROUTE, [], [])[0] if rows[0]["routed"] else None
        if route and (route["name"], route["version"]) == (model.name, model.version):
            route = None  # the challenger was activated
        return model, route

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
            session = onnxmodel.open_model(stored[0]["onnx"], digest)
            return Model(name, version, session, json.loads(stored[0]["manifest"]))
        except onnxmodel.ModelError as error:
            raise Refused("IS004", "model %r version %s cannot be used: %s" % (name, version, error), "deploy the version again") from error

    def query(self, sql, types, args):
        plan = self.plans.get(sql)
        if plan is None:
            plan = self.plans[sql] = self.database.prepare(sql, types)
        return self.database.execute(plan, args)


class Model:
    """A loaded model: its session and how its inputs and outputs are meant."""

    def __init__(self, name, version, session, manifest):
        self.name, self.version, self.session = name, version, session
        described = manifest.get("input") or {}
        shape, dtype = self.example_type = onnxmodel.example_type(session)
        self.data = {"shape": shape, "dtype": dtype, "range": described.get("range")}
        self.classes = manifest.get("classes") or described.get("classes") or []
        self.columns = manifest.get("columns") or []
        if len(self.columns) not in (0, math.prod(shape)):
            raise onnxmodel.ModelError("it takes %d values and its manifest names %d columns" % (math.prod(shape), len(self.columns)))

    def outputs(self, data, n):
        """float32 [n, outputs]."""
        try:
            return onnxmodel.predict(self.session, data, n, self.example_type)
        except ValueError as error:
            raise Refused("IS002", str(error)) from error

    def predictions(self, examples):
        """A row of prediction for each example (bytes)."""
        return [self.prediction(outputs) for outputs in self.outputs(b"".join(examples), len(examples))]

    def prediction(self, outputs):
        """A row of prediction; the label of a regression is its number.

        The probability of the label, which a route logs, is no column of it and left out by the server.
        """
        numbers, probability, probabilities = outputs.tolist(), None, None
        if not math.isfinite(sum(numbers)):
            raise Refused("IS004", "model %r version %s gave %s; expected finite numbers" % (self.name, self.version, numbers))
        if not self.classes:
            label = str(outputs[0])
        elif len(self.classes) != len(numbers):
            raise Refused("IS004", "model %r version %s has %d outputs for %d classes" % (self.name, self.version, len(numbers), len(self.classes)))
        else:
            probability = max(numbers)
            label, probabilities = self.classes[numbers.index(probability)], write(dict(zip(self.classes, numbers)))
        return {"label": label, "probability": probability, "probabilities": probabilities, "model_name": self.name, "model_version": self.version}


def is_number(text):
    try:
        return math.isfinite(float(text))
    except (TypeError, ValueError):
        return False
