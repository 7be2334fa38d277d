package deploytrainingcode

// changelogPath is what databasechangelog.filename says.
const changelogPath = "insitu/training"

// modules are what the deployed functions import.
var modules = []string{"numpy", "onnx", "onnxruntime"}
