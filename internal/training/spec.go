package training

import (
	"encoding/json"
	"fmt"

	"github.com/insitu-ml/insitu/internal/dataset"
)

// Spec is what the SQL functions are told about a job, the same for all its epochs and shards; database/README.md defines its JSON.
type Spec struct {
	Input      Input          `json:"input"`
	Parameters map[string]any `json:"parameters"` // resolved: every parameter of the app
	Seed       int64          `json:"seed"`
	Shards     int            `json:"shards"`
	Rows       string         `json:"rows"`            // see Fingerprint
	Start      string         `json:"start,omitempty"` // job whose model training starts from; "": the learner's own initial state
}

// Input is what a learner knows about the data: the packs' layout and the train split's statistics.
type Input struct {
	Task    string      `json:"task"`
	Shape   []int       `json:"shape"`
	DType   string      `json:"dtype"`
	Range   *[2]float64 `json:"range,omitempty"`
	Classes []string    `json:"classes,omitempty"`
	// ClassCounts are the rows of each class in the train split; none for regression.
	ClassCounts []int64    `json:"class_counts,omitempty"`
	Statistics  Statistics `json:"statistics"`
}

// Statistics are dataset.InputStatistic without what no learner may lean on: minimum and maximum are over all splits.
type Statistics struct {
	Shape []int     `json:"shape"`
	Mean  []float64 `json:"mean"`
	Std   []float64 `json:"std"`
}

// InputOf takes from a dataset's manifest what a learner needs.
func InputOf(m *dataset.Manifest) Input {
	return Input{
		Task: m.Task, Shape: m.Input.Shape, DType: m.Input.DType, Range: m.Input.Range,
		Classes: m.Classes, ClassCounts: m.Splits.Train.Histogram, Statistics: Statistics{m.Stats.Shape, m.Stats.Mean, m.Stats.Std},
	}
}

// text is the spec as JSON; the same spec gives the same bytes.
func (s Spec) text() string {
	text, err := json.Marshal(s)
	if err != nil { // resolved parameters are strings, booleans and finite numbers
		panic(err)
	}
	return string(text)
}

// open is the spec of an epoch without the closing brace: the statement adds the shard.
func (s Spec) open(epoch int, c cache) string {
	text := s.text()
	text = fmt.Sprintf(`%s,"epoch":%d`, text[:len(text)-1], epoch)
	if c != noCache {
		text += fmt.Sprintf(`,"cache":%q`, c)
	}
	return text
}

// cache is what an epoch does with the packs that the session of a shard keeps in memory.
type cache string

const (
	noCache   cache = ""
	fillCache cache = "fill" // keep what is read
	useCache  cache = "use"  // read none
)

// bytes is how much data one shard trains on, if rows are spread evenly.
func (s Spec) bytes(rows int64) int64 {
	example := int64(1)
	for _, n := range s.Input.Shape {
		example *= int64(n)
	}
	if s.Input.DType != dataset.UInt8 {
		example *= 4
	}
	return (rows + int64(s.Shards) - 1) / int64(s.Shards) * example
}
