"""ONNX models: verified by digest, kept in the session, run on one thread."""

import hashlib
import math

import numpy

TOGETHER = 32  # examples: what a network makes of more of them does not stay in the processor's cache
KEPT = 4  # predictors; each holds its model's weights
TYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}


class ModelError(Exception):
    """The model's bytes are not what they should be."""

    __module__ = "insitu"  # what the server's report shows, instead of the release's package


class Models:
    """Predictors by their model's digest, the last few used."""

    def __init__(self):
        self.predictors = {}

    def get(self, digest, read):
        """The predictor of a model; read() gives its bytes the first time."""
        predictor = self.predictors.pop(digest, None) or Predictor(open_model(read(), digest))
        self.predictors[digest] = predictor
        while len(self.predictors) > KEPT:
            del self.predictors[next(iter(self.predictors))]
        return predictor


def open_model(model, digest=None):
    """A session for ONNX bytes; ModelError unless their SHA-256 (hex) is digest."""
    if digest is not None:
        found = hashlib.sha256(model).hexdigest()
        if found != digest:
            raise ModelError("the model has SHA-256 %s, expected %s" % (found, digest))
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        raise ModelError("ONNX Runtime cannot load the model: %s" % error) from error


class Predictor:
    """An ONNX Runtime session and the layout of its examples: shape of one, and dtype ("uint8" or "float32")."""

    def __init__(self, session):
        """ModelError for models that were not made by a learner's export()."""
        wanted, given = session.get_inputs()[0], session.get_outputs()[0]
        self.session, self.name, self.shape, self.outputs = session, wanted.name, wanted.shape[1:], [given.name]
        if wanted.type not in TYPES or not all(isinstance(size, int) for size in self.shape):
            raise ModelError("the model takes %s %s; expected uint8 or float32 examples of a fixed shape" % (wanted.type, wanted.shape))
        if given.type != "tensor(float)":
            raise ModelError("the model gives %s; expected float32" % given.type)
        self.dtype = TYPES[wanted.type]
        self.stored = numpy.dtype(self.dtype).newbyteorder("<")
        self.bytes = math.prod(self.shape) * self.stored.itemsize  # of an example
        # A model that does not say how many outputs it has goes without.
        self.single = Single(self, given.shape[1]) if len(given.shape) == 2 and isinstance(given.shape[1], int) else None

    def predict(self, data, n):
        """float32 [n, outputs] for the bytes of n examples."""
        if n is None or n < 1 or len(data) != n * self.bytes:
            raise ValueError("%d bytes are not %s examples of %s %s" % (len(data), n, self.dtype, self.shape))
        if n == 1 and self.single:
            return self.single.predict(data)
        x = numpy.ndarray((n, *self.shape), self.stored, data)
        if n <= TOGETHER:
            return self.session.run(self.outputs, {self.name: x})[0]
        return numpy.concatenate([self.session.run(self.outputs, {self.name: x[start : start + TOGETHER]})[0] for start in range(0, n, TOGETHER)])


class Single:
    """Predicts one example in arrays that are bound to the session once: ONNX Runtime wraps new ones in 2 microseconds a call."""

    def __init__(self, predictor, outputs):
        x, self.y = numpy.empty((1, *predictor.shape), predictor.stored), numpy.empty((1, outputs), numpy.float32)
        self.session, self.x, self.binding = predictor.session, memoryview(x.reshape(-1).view(numpy.uint8)), predictor.session.io_binding()
        self.binding.bind_cpu_input(predictor.name, x)
        self.binding.bind_output(predictor.outputs[0], "cpu", 0, numpy.float32, self.y.shape, self.y.ctypes.data)

    def predict(self, data):
        self.x[:] = data
        self.session.run_with_iobinding(self.binding)
        return self.y.copy()


def check_export(model, data):
    """ModelError unless the model takes and gives what learners must export."""
    session = open_model(model)
    inputs, outputs = session.get_inputs(), session.get_outputs()
    want = ("input", data["dtype"], list(data["shape"]))
    got = (inputs[0].name, TYPES.get(inputs[0].type, inputs[0].type), list(inputs[0].shape[1:]))
    if len(inputs) != 1 or got != want:
        raise ModelError("the exported model takes %s; expected one input %s" % (got, want))
    if [o.name for o in outputs] != ["probabilities"]:
        raise ModelError('the exported model gives %s; expected one output "probabilities"' % [o.name for o in outputs])
    Predictor(session).predict(numpy.zeros([3] + data["shape"], data["dtype"]).tobytes(), 3)  # any number of rows


def refuse_external_data(model):
    """ModelError when a model names other files: a caller's model must not read the server's disk."""
    if b"location" not in model:  # the key every external tensor carries
        return
    import onnx

    stack = [onnx.load_model_from_string(model)]
    while stack:
        message = stack.pop()
        if isinstance(message, onnx.TensorProto) and message.data_location == onnx.TensorProto.EXTERNAL:
            raise ModelError("the model keeps weights in other files; expected all of it in its bytes")
        for field, value in message.ListFields():
            if field.message_type is not None:
                stack.extend(value if field.is_repeated else [value])
