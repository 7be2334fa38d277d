"""Gradient-boosted trees: LightGBM, a few more trees each epoch."""

import re

import lightgbm
import numpy as np


class Learner:
    """Trees have no average, so there is one shard; its rows are gathered by fit and learned from by end_epoch.

    The state is the model in LightGBM's own text format.
    """

    def __init__(self, parameters, data, seed):
        if data["dtype"] != "float32" or len(data["shape"]) != 1:
            raise ValueError("this learner takes tables: float32 and one size, not %s %s" % (data["dtype"], data["shape"]))
        self.parameters, self.data, self.seed = parameters, data, seed
        self.outputs = 1 if data["task"] == "regression" else len(data["classes"])
        self.settings = {
            "objective": "regression" if data["task"] == "regression" else "multiclass", "num_class": self.outputs,
            "learning_rate": parameters["learning_rate"], "num_leaves": parameters["leaves"], "min_data_in_leaf": parameters["leaf_rows"],
            "feature_fraction": parameters["columns"],
            "num_threads": 1, "deterministic": True, "force_row_wise": True, "verbosity": -1,
        }  # fmt: skip
        self.rows, self.labels, self.text = [], [], ""

    def state(self):
        return {"model": np.frombuffer(self.text.encode(), np.uint8)}

    def load(self, state):
        self.text = state["model"].tobytes().decode()

    def begin_epoch(self, epoch, shard, shards):
        if shards != 1:
            raise ValueError("boosted trees cannot be merged: %d shards, expected 1" % shards)
        self.settings["seed"] = int(np.random.SeedSequence([self.seed, epoch]).generate_state(1)[0] >> 1)

    def fit(self, x, y):
        self.rows.append(x)
        self.labels.append(y)
        return {"loss": 0.0}

    def end_epoch(self):
        x, y = np.concatenate(self.rows), np.concatenate(self.labels)
        booster = lightgbm.train(self.settings, lightgbm.Dataset(x, label=y), num_boost_round=self.parameters["rounds"], init_model=self.booster())
        self.text = booster.model_to_string()
        p = self.predict(x)
        if self.data["task"] == "regression":
            return {"loss": np.square(p[:, 0] - y).sum()}
        return {"loss": -np.log(np.maximum(p[np.arange(len(y)), y], 1e-12)).sum(), "correct": (p.argmax(axis=1) == y).sum()}

    def booster(self):
        return lightgbm.Booster(model_str=self.text) if self.text else None

    def predict(self, x):
        if not self.text:
            return np.full((len(x), self.outputs), 0 if self.data["task"] == "regression" else 1 / self.outputs, np.float32)
        return self.booster().predict(x, num_threads=1).reshape(len(x), self.outputs).astype(np.float32)

    def export(self):
        from onnxmltools.convert import convert_lightgbm
        from onnxmltools.convert.common.data_types import FloatTensorType

        text = re.sub(r"(?m)^tree_sizes=.*\n", "", self.text)  # which are those of the text as it was
        text = re.sub(r"(?m)^threshold=(.*)$", lambda line: "threshold=" + single(line[1]), text)
        booster = lightgbm.Booster(model_str=text)
        model = convert_lightgbm(booster, initial_types=[("input", FloatTensorType([None, *self.data["shape"]]))], zipmap=False, target_opset=13)
        *others, output = model.graph.output
        for other in others:  # the label of a classification
            model.graph.output.remove(other)
        for node in model.graph.node:
            node.output[:] = ["probabilities" if name == output.name else name for name in node.output]
        model.graph.output[0].name = "probabilities"
        return model.SerializeToString()


def single(thresholds):
    """The largest float32 numbers that are not above these: ONNX has no others, and the nearest ones may let a row go the other way."""
    exact = np.array(thresholds.split(), np.float64)
    near = exact.astype(np.float32)
    return " ".join(repr(float(value)) for value in np.where(near > exact, np.nextafter(near, np.float32(-np.inf)), near))
