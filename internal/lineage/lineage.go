// Package lineage describes what a step did, once, and tells it to the data catalogs that are configured:
// as OpenLineage events, and as DataHub's metadata change proposals.
//
// It knows nothing of databases' connections, flags or the environment, and nothing it does can make a step fail:
// whoever reports never waits, and Close waits no longer than Wait.
package lineage

import (
	"crypto/sha256"
	"encoding/hex"
	"time"
)

// Run is one run of a step as far as it is known when it is reported.
type Run struct {
	ID        string // a UUID
	Step      string // train-model
	Summary   string // what the step is for, one line
	Pipeline  string // what the step is part of: the name of its job in the catalogs
	Workflow  Workflow
	Version   string // of the program
	State     State
	Started   time.Time
	Ended     time.Time         // zero while it runs
	Error     string            // why it failed
	Settings  map[string]string // flags that were set; no secrets
	Outputs   map[string]string // declared parameters; only of a run that ended well
	Reads     []Asset
	Writes    []Asset
	Namespace string // of the jobs in the catalogs
}

// Workflow is the run of the pipeline that the step's run is part of; the zero value is none.
type Workflow struct {
	Name string // in-database-pipeline-x7k2p
	UID  string // tells it from others of that name
}

// State is where a run is in its life.
type State string

// The states of a run, as OpenLineage calls them.
const (
	Start    State = "START"
	Complete State = "COMPLETE"
	Fail     State = "FAIL"
)

// Asset is what a step reads or writes: a Dataset or a Model.
type Asset interface{ asset() }

func (Dataset) asset() {}
func (Model) asset()   {}

// Kind is a kind of dataset.
type Kind string

// The kinds of datasets.
const (
	File     Kind = "File"
	Table    Kind = "Table"
	Function Kind = "Function"
)

// Dataset is a file, or a table or function of a database.
// One with no more than its name refers to what another step describes.
type Dataset struct {
	Kind     Kind
	Location string    // of a file: its URL, or its path
	Database *Database // of a table or function
	Schema   string
	Name     string

	Description string
	Columns     []Column
	Rows        int64             // 0: not known
	Bytes       int64             // 0: not known
	SHA256      string            // hexadecimal; "": not known
	Properties  map[string]string // further digests, counts and settings
	From        []Dataset         // what a function answers from
}

// Column is one of a table, or one field of a file's rows, or an argument or the result of a function.
type Column struct{ Name, Type, Description string }

// Database is one of the two databases.
type Database struct {
	Platform string // Greenplum or Postgres: what the server says it is
	Address  string // host:port
	Name     string
	Role     string // training or inference
	// Of its service binding; "" where the settings came in another way.
	BindingType, BindingProvider string
}

// The platforms, as the catalogs call them.
const (
	Greenplum = "greenplum"
	Postgres  = "postgres"
)

// Model is a version of a registered model.
// One without SHA256 refers to what the step that trained it describes.
type Model struct {
	Registry string // URL of the model registry, without credentials
	Name     string
	Version  int

	SHA256      string            // of its ONNX file
	Parameters  map[string]string // hyper-parameters
	Metrics     map[string]string // of the training
	Properties  map[string]string
	TrainedOn   []Dataset
	EvaluatedOn []Dataset
}

// UUID makes a UUID of a text: the same one of the same text (version 8 of RFC 9562, over SHA-256).
func UUID(text string) string {
	sum := sha256.Sum256([]byte("insitu:" + text))
	b := sum[:16]
	b[6] = b[6]&0x0f | 0x80
	b[8] = b[8]&0x3f | 0x80
	h := hex.EncodeToString(b)
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// isUUID says whether a text is one already, as that of a Kubernetes object.
func isUUID(text string) bool {
	if len(text) != 36 {
		return false
	}
	for i, c := range text {
		switch {
		case i == 8 || i == 13 || i == 18 || i == 23:
			if c != '-' {
				return false
			}
		case c >= '0' && c <= '9', c >= 'a' && c <= 'f', c >= 'A' && c <= 'F':
		default:
			return false
		}
	}
	return true
}

// id is the workflow's run in the catalogs, "" for none.
func (w Workflow) id() string {
	if w.UID == "" || isUUID(w.UID) {
		return w.UID
	}
	return UUID(w.UID)
}
