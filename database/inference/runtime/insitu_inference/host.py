"""What the SQL functions of the inference schema call."""

import functools
import json

import numpy

from insitu_runtime import onnxmodel

from . import picture
from .refusal import Refused

ACTIVE = """select m.name, m.version, m.digest from activations a join models m on m.name = a.name and m.version = a.version
order by a.ordinal desc limit 1"""
VERSION = "select name, version, digest from models where name = $1 and version = $2"
MODEL = "select m.manifest::text as manifest, b.onnx from models m join model_blobs b on b.digest = m.digest where m.name = $1 and m.version = $2"
KEPT = 4  # models kept in a session
BATCH = 256  # pictures predicted together


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
        model = self.active()
        return model.prediction(model.outputs(picture.example(img, model.data), 1)[0])

    @refusing
    def predict_batch(self, imgs):
        model, rows = self.active(), []
        for start in range(0, len(imgs), BATCH):
            batch = []
            for index, img in enumerate(imgs[start : start + BATCH], start + 1):
                try:
                    batch.append(picture.example(img, model.data))
                except Refused as error:
                    raise Refused(error.sqlstate, "image %d: %s" % (index, error)) from error
            for index, outputs in enumerate(model.outputs(b"".join(batch), len(batch)), start + 1):
                rows.append(dict(model.prediction(outputs), index=index))
        return rows

    @refusing
    def predict_version(self, name, version, data, n):
        rows = self.query(VERSION, ["text", "int"], [name, version])
        if not rows:
            raise Refused("IS006", "model %r version %s is not deployed in this schema" % (name, version))
        return self.model(rows[0]).outputs(data, n).tobytes()

    def active(self):
        rows = self.query(ACTIVE, [], [])
        if not rows:
            raise Refused("IS003", "no model is active in this schema", "run deploy-inference-db")
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
        except onnxmodel.ModelError as error:
            raise Refused("IS004", "model %r version %s cannot be used: %s" % (name, version, error), "deploy the version again") from error
        return Model(name, version, session, json.loads(stored[0]["manifest"]))

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
        shape, dtype = onnxmodel.example_type(session)
        self.data = {"shape": shape, "dtype": dtype, "range": described.get("range")}
        self.classes = manifest.get("classes") or described.get("classes") or []

    def outputs(self, data, n):
        """float32 [n, outputs]."""
        try:
            return onnxmodel.predict(self.session, data, n)
        except ValueError as error:
            raise Refused("IS002", str(error)) from error

    def prediction(self, outputs):
        """A row of prediction; the label of a regression is its number."""
        if not self.classes:
            label, probabilities = repr(float(outputs[0])), None
        elif len(self.classes) != len(outputs):
            raise Refused("IS004", "model %r version %s has %d outputs for %d classes" % (self.name, self.version, len(outputs), len(self.classes)))
        else:
            label = self.classes[int(numpy.argmax(outputs))]
            probabilities = json.dumps(dict(zip(self.classes, map(float, outputs))), ensure_ascii=False)
        return {"label": label, "probabilities": probabilities, "model_name": self.name, "model_version": self.version}
