"""Writes model.onnx: softmax(10 x) for two features, as a learner would export it.

    python model.py
"""

import numpy
import onnx
from onnx import TensorProto, helper, numpy_helper

graph = helper.make_graph(
    [helper.make_node("Mul", ["input", "ten"], ["scaled"]), helper.make_node("Softmax", ["scaled"], ["probabilities"], axis=1)],
    "toy",
    [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 2])],
    [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", 2])],
    [numpy_helper.from_array(numpy.float32(10), "ten")],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
onnx.checker.check_model(model)
onnx.save(model, "model.onnx")
