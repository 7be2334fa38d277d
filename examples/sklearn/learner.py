"""A scikit-learn classifier that learns pack by pack: SGDClassifier, by partial_fit."""

import numpy as np
from sklearn.linear_model import SGDClassifier
from sklearn.preprocessing import StandardScaler


class Learner:
    """A linear classifier on standardised columns; its state are the estimator's own public arrays."""

    def __init__(self, parameters, data, seed):
        if data["dtype"] != "float32" or len(data["shape"]) != 1:
            raise ValueError("this learner takes tables: float32 and one size, not %s %s" % (data["dtype"], data["shape"]))
        self.parameters, self.data, self.seed = parameters, data, seed
        self.classes = np.arange(len(data["classes"]))
        features, outputs = data["shape"][0], 1 if len(self.classes) == 2 else len(self.classes)
        self.scaler = StandardScaler()
        self.scaler.mean_, self.scaler.n_features_in_ = data["mean"].astype(np.float64), features
        self.scaler.scale_ = np.where(data["std"] > 0, data["std"], 1).astype(np.float64)
        self.scaler.var_ = self.scaler.scale_**2
        weights = None
        if parameters["class_weight"] == "balanced":  # partial_fit cannot count the classes itself: it sees one pack
            counts = np.maximum(data["class_counts"], 1)
            weights = dict(enumerate(counts.sum() / (len(counts) * counts)))
        self.model = SGDClassifier(
            loss="log_loss", alpha=parameters["decay"], learning_rate="invscaling", eta0=parameters["learning_rate"], power_t=parameters["power"],
            class_weight=weights, random_state=seed,
        )  # fmt: skip
        self.model.classes_, self.model.n_features_in_ = self.classes, features
        self.load({"coef": np.zeros((outputs, features)), "intercept": np.zeros(outputs), "steps": np.array(1.0)})

    def state(self):
        return {"coef": self.model.coef_, "intercept": self.model.intercept_, "steps": np.array(self.model.t_)}

    def load(self, state):
        # partial_fit changes the arrays in place.
        self.model.coef_, self.model.intercept_, self.model.t_ = state["coef"].copy(), state["intercept"].copy(), float(state["steps"])

    def begin_epoch(self, epoch, shard, shards):
        self.model.set_params(
            random_state=np.random.RandomState(np.random.SeedSequence([self.seed, epoch, shard]).generate_state(1)[0]),
            eta0=self.parameters["learning_rate"] * shards ** self.parameters["shard_rate"],
        )

    def fit(self, x, y):
        p = self.predict(x)
        self.model.partial_fit(self.scaled(x), y, classes=self.classes)
        return {"loss": -np.log(np.maximum(p[np.arange(len(y)), y], 1e-12)).sum(), "correct": (p.argmax(axis=1) == y).sum()}

    def predict(self, x):
        return self.model.predict_proba(self.scaled(x)).astype(np.float32)

    def scaled(self, x):
        return self.scaler.transform(x.astype(np.float64))  # newer versions want the type of coef_

    def export(self):
        from skl2onnx import to_onnx
        from skl2onnx.common.data_types import FloatTensorType
        from sklearn.pipeline import make_pipeline

        types = [("input", FloatTensorType([None, *self.data["shape"]]))]
        model = to_onnx(make_pipeline(self.scaler, self.model), initial_types=types, options={"zipmap": False}, target_opset=13)
        for output in [output for output in model.graph.output if output.name != "probabilities"]:
            model.graph.output.remove(output)  # the label
        return model.SerializeToString()
