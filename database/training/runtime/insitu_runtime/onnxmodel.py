"""ONNX models: verified by digest, kept in the session, run on one thread."""

import hashlib
import math

import numpy

KEPT = 4  # sessions; each holds its model's weights
TYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}


class ModelError(Exception):
    """The model's bytes are not what they should be."""

    __module__ = "insitu"  # what the server's report shows, instead of the release's package


class Models:
    """ONNX Runtime sessions by digest, the last few used."""

    def __init__(self):
        self.sessions = {}

    def get(self, digest, read):
        """The session of a model; read() gives its bytes the first time."""
        session = self.sessions.pop(digest, None) or open_model(read(), digest)
        self.sessions[digest] = session
        while len(self.sessions) > KEPT:
            del self.sessions[next(iter(self.sessions))]
        return session


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


def example_type(session):
    """(shape, dtype) of one example; ModelError for models that were not made by a learner's export()."""
    wanted = session.get_inputs()[0]
    shape = wanted.shape[1:]
    if wanted.type not in TYPES or not all(isinstance(size, int) for size in shape):
        raise ModelError("the model takes %s %s; expected uint8 or float32 examples of a fixed shape" % (wanted.type, wanted.shape))
    return shape, TYPES[wanted.type]


def predict(session, data, n, example=None):
    """float32 [n, outputs] for the bytes of n examples; example is example_type(session), for those who call often."""
    shape, name = example or example_type(session)
    dtype = numpy.dtype(name).newbyteorder("<")
    if n is None or n < 1 or len(data) != n * math.prod(shape) * dtype.itemsize:
        raise ValueError("%d bytes are not %s examples of %s %s" % (len(data), n, name, shape))
    x = numpy.frombuffer(data, dtype).reshape([n] + shape)
    return numpy.ascontiguousarray(session.run(None, {session.get_inputs()[0].name: x})[0], dtype=numpy.float32)


def check_export(model, data):
    """ModelError unless the model takes and gives what learners must export."""
    session = open_model(model)
    inputs, outputs = session.get_inputs(), session.get_outputs()
    want = ("input", data["dtype"], list(data["shape"]))
    got = (inputs[0].name, TYPES.get(inputs[0].type, inputs[0].type), list(inputs[0].shape[1:]))
    if len(inputs) != 1 or got != want:
        raise ModelError("the exported model takes %s; expected one input %s" % (got, want))
    if len(outputs) != 1 or outputs[0].name != "probabilities" or outputs[0].type != "tensor(float)":
        raise ModelError('the exported model gives %s; expected one output "probabilities" of float32' % [o.name for o in outputs])
    predict(session, numpy.zeros([3] + data["shape"], data["dtype"]).tobytes(), 3)  # any number of rows


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
