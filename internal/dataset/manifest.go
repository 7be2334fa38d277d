package dataset

import (
	"encoding/json"
	"fmt"
	"slices"
)

// The tasks a dataset can be for.
const (
	Classification = "classification"
	Regression     = "regression"
)

// The splits, in the order in which Split fractions are given.
const (
	Train      = "train"
	Validation = "validation"
	Test       = "test"
)

// SplitNames lists the splits in their order.
func SplitNames() []string { return []string{Train, Validation, Test} }

// ManifestVersion is the version of the manifest's layout and of the packing; both enter the digest.
// In version 1 a row's split was drawn at random and there were no Cuts.
const ManifestVersion = 2

// Manifest describes one packed dataset.
// It is stored in datasets.manifest and in the object store under manifests/<digest>.json, and holds no secret and no time:
// the same bytes and options give the same manifest anywhere.
type Manifest struct {
	Version  int            `json:"version"`
	Digest   string         `json:"digest"` // SHA-256, 64 hex digits
	Table    string         `json:"table"`  // pack table, unqualified
	Source   string         `json:"source"` // where the data was first read from, without credentials
	Raw      Raw            `json:"raw"`
	Format   string         `json:"format"`
	Task     string         `json:"task"` // Classification or Regression
	Label    string         `json:"label,omitempty"`
	Columns  []string       `json:"columns,omitempty"` // of tabular data, in the order of the input's values
	Classes  []string       `json:"classes,omitempty"` // class of label value i; none for regression
	Input    Input          `json:"input"`
	Rows     int64          `json:"rows"`
	Splits   Splits         `json:"splits"`
	Split    SplitOptions   `json:"split"`
	Cuts     Cuts           `json:"cuts"`      // where the splits really divide: at the fractions, unless one would be empty
	PackSize int            `json:"pack_size"` // examples a pack, at most
	Shards   int            `json:"shards"`
	Stats    InputStatistic `json:"statistics"`
	Creator  string         `json:"created_by"`
}

// Raw identifies the file the dataset was made from. A folder is packed into a tar file first.
type Raw struct {
	SHA256 string `json:"sha256"`
	Bytes  int64  `json:"bytes"`
	Object string `json:"object"` // key in the bucket
}

// Input is the schema of one example.
type Input struct {
	Shape []int  `json:"shape"` // [features], [height, width], [channels, height, width] or [height, width, channels]
	DType string `json:"dtype"` // uint8 or float32
	// Range is the closed interval all values must lie in; nil for any finite value.
	Range *[2]float64 `json:"range,omitempty"`
	// Resize scales images to Shape and drops colour or transparency; otherwise such images are errors.
	Resize bool `json:"resize,omitempty"`
}

// Values is the number of values of one example.
func (in Input) Values() int {
	n := 1
	for _, d := range in.Shape {
		n *= d
	}
	return n
}

// Bytes is the size of one packed example.
func (in Input) Bytes() int {
	if in.DType == Float32 {
		return 4 * in.Values()
	}
	return in.Values()
}

// The types of packed values; floats are little-endian.
const (
	UInt8   = "uint8"
	Float32 = "float32"
)

// Splits holds what each split got.
type Splits struct {
	Train      SplitCount `json:"train"`
	Validation SplitCount `json:"validation"`
	Test       SplitCount `json:"test"`
}

// Of returns the counts of the split of that name.
func (s *Splits) Of(name string) *SplitCount {
	switch name {
	case Train:
		return &s.Train
	case Validation:
		return &s.Validation
	default:
		return &s.Test
	}
}

// SplitCount is the size of one split.
type SplitCount struct {
	Rows      int64   `json:"rows"`
	Packs     int64   `json:"packs"`
	Histogram []int64 `json:"histogram,omitempty"` // rows of class i
}

// SplitOptions decide who goes where.
type SplitOptions struct {
	Fractions [3]float64 `json:"fractions"` // train, validation, test; they add up to 1
	Seed      uint64     `json:"seed"`
}

// InputStatistic is taken over the train split alone: per feature for flat inputs, per channel for images.
// Mean and Std hold float64 values that broadcast to Input.Shape once they are reshaped to Shape.
// Std is the population standard deviation; 0 for a constant.
type InputStatistic struct {
	Shape []int     `json:"shape"`
	Mean  []float64 `json:"mean"`
	Std   []float64 `json:"std"`
	Min   float64   `json:"min"` // over all splits
	Max   float64   `json:"max"`
}

// TestsUnseenBy tells whether no test example of m can be a train or validation example of other, whatever else
// the two datasets hold: both place an example by the same hash of the same bytes, and all that other learned from lies
// below m's test examples. False means that it is not known.
func (m *Manifest) TestsUnseenBy(other *Manifest) bool {
	return m.Version > 1 && m.Version == other.Version && m.Split.Seed == other.Split.Seed && other.Cuts[1] <= m.Cuts[1] &&
		m.Input.DType == other.Input.DType && slices.Equal(m.Input.Shape, other.Input.Shape) && slices.Equal(m.Columns, other.Columns)
}

// ParseManifest reads a manifest as stored.
func ParseManifest(text []byte) (*Manifest, error) {
	var m Manifest
	if err := json.Unmarshal(text, &m); err != nil {
		return nil, fmt.Errorf("read dataset manifest: %w", err)
	}
	if m.Version < 1 || m.Version > ManifestVersion {
		return nil, fmt.Errorf("read dataset manifest: version %d, this program reads versions 1 to %d", m.Version, ManifestVersion)
	}
	return &m, nil
}

// JSON is the stored form, one line of it ended by a newline.
func (m *Manifest) JSON() ([]byte, error) {
	b, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("write dataset manifest: %w", err)
	}
	return append(b, '\n'), nil
}
