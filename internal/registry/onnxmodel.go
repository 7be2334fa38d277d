package registry

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"sigs.k8s.io/yaml"
)

// ONNXModel is what an MLflow model directory in the ONNX flavor is made from.
type ONNXModel struct {
	ONNX   []byte
	Input  Tensor
	Output Tensor
	RunID  string
	// Packages are the Python packages and versions the model was made with.
	// What MLflow needs to load the model becomes a requirement, pinned if it is here.
	Packages map[string]string
	Python   string         // version of the Python that made it, such as 3.11.2; may be empty
	Created  time.Time      // stored in the model
	Details  map[string]any // becomes insitu.json beside the model: digests, labels, how to read the output
}

// Tensor is the type and shape of a model's input or output in MLflow's words.
type Tensor struct {
	DType string // numpy's name: uint8, float32
	Shape []int  // -1 for the number of examples
}

// Files are the files of the model directory by name; the same model gives the same bytes.
// mlflow.pyfunc.load_model and mlflow.onnx.load_model read them.
func (m ONNXModel) Files() (map[string][]byte, error) {
	sum := sha256.Sum256(m.ONNX)
	input, err := m.Input.signature()
	if err != nil {
		return nil, err
	}
	output, err := m.Output.signature()
	if err != nil {
		return nil, err
	}
	mlmodel := map[string]any{
		"artifact_path": "model",
		"flavors": map[string]any{
			"onnx": map[string]any{
				"code": nil, "data": "model.onnx", "onnx_version": m.Packages["onnx"],
				"providers": []string{"CPUExecutionProvider"}, "onnx_session_options": nil,
			},
			"python_function": map[string]any{
				"data": "model.onnx", "loader_module": "mlflow.onnx", "python_version": m.Python,
				"env": map[string]any{"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
			},
		},
		"model_size_bytes": len(m.ONNX),
		"model_uuid":       hex.EncodeToString(sum[:16]),
		"run_id":           m.RunID,
		"signature":        map[string]any{"inputs": input, "outputs": output, "params": nil},
		"utc_time_created": m.Created.UTC().Format("2006-01-02 15:04:05.000000"),
	}
	details, err := json.MarshalIndent(m.Details, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode model details: %w", err)
	}
	python := "python"
	environment := map[string]any{"build_dependencies": []string{"pip", "setuptools", "wheel"}, "dependencies": []string{"-r requirements.txt"}}
	if m.Python != "" {
		python += "=" + m.Python
		environment["python"] = m.Python
	}
	files := map[string][]byte{
		"model.onnx":       m.ONNX,
		"insitu.json":      append(details, '\n'),
		"requirements.txt": nil,
	}
	requirements := m.requirements()
	for _, r := range requirements {
		files["requirements.txt"] = append(files["requirements.txt"], r+"\n"...)
	}
	for name, v := range map[string]any{
		"MLmodel":         mlmodel,
		"python_env.yaml": environment,
		"conda.yaml": map[string]any{
			"name": "mlflow-env", "channels": []string{"conda-forge"},
			"dependencies": []any{python, "pip", map[string]any{"pip": requirements}},
		},
	} {
		if files[name], err = yaml.Marshal(v); err != nil {
			return nil, fmt.Errorf("encode %s: %w", name, err)
		}
	}
	return files, nil
}

// requirements pins what the model needs to be loaded, not what its training needed.
func (m ONNXModel) requirements() []string {
	var out []string
	for _, name := range []string{"mlflow", "numpy", "onnx", "onnxruntime"} {
		if v := m.Packages[name]; v != "" {
			name += "==" + v
		}
		out = append(out, name)
	}
	return out
}

// signature is the JSON that MLmodel carries as a string.
func (t Tensor) signature() (string, error) {
	if t.DType == "" || len(t.Shape) == 0 || t.Shape[0] != -1 {
		return "", fmt.Errorf("model signature of type %q and shape %v; expected a numpy type and a shape that starts with -1", t.DType, t.Shape)
	}
	text, err := json.Marshal([]any{map[string]any{"type": "tensor", "tensor-spec": map[string]any{"dtype": t.DType, "shape": t.Shape}}})
	return string(text), err
}
