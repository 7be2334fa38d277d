package dataset

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/insitu-ml/insitu/internal/fault"
)

// Options say how a file becomes a dataset.
type Options struct {
	Task  string // Classification or Regression
	Input Input
	// Labels are the classes in the order of their numbers. Empty: those of the data, sorted, by number if all are integers.
	// If none of them is an integer, a label in the data may also be a class's number.
	Labels    []string
	Label     string   // label column or array; "" is "label" for tables and "y" or "labels" for NPZ
	Columns   []string // feature columns of tables, in order; empty: all but the label
	Delimiter rune     // of CSV; 0 is a comma
	Format    string   // one of Formats; "" detects it
	Split     SplitOptions
	PackSize  int   // examples a pack
	Shards    int   // parts that train side by side
	MaxBytes  int64 // of the raw file, of what it decompresses to, and of the decoded examples
}

const (
	// maxPack keeps one pack far from PostgreSQL's limit of 1 GiB a value.
	maxPack = 256 << 20
	// maxClasses tells a class column from a measurement.
	maxClasses = 10_000
	// maxLabel is the longest label text in bytes.
	maxLabel = 1024
)

// Validate returns every problem at once, as a configuration fault.
func (o Options) Validate() error {
	var problems []error
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if o.Task != Classification && o.Task != Regression {
		problem("task %q: expected %q or %q", o.Task, Classification, Regression)
	}
	problems = append(problems, o.Input.check()...)
	if o.Format != "" && !slices.Contains(Formats(), o.Format) {
		problem("format %q: expected one of %s", o.Format, strings.Join(Formats(), ", "))
	}
	if o.Delimiter == '"' || o.Delimiter == '\n' || o.Delimiter == '\r' || o.Delimiter == 0xFFFD {
		problem("CSV delimiter %q: expected one character other than a quote or a line end", o.Delimiter)
	}
	if name := firstTwice(o.Labels); name != "" {
		problem("class %q is listed twice", name)
	}
	if name := firstTwice(o.Columns); name != "" {
		problem("column %q is listed twice", name)
	}
	if o.Label != "" && slices.Contains(o.Columns, o.Label) {
		problem("column %q is both the label and a feature", o.Label)
	}
	if n := len(o.Labels); n == 1 || n > maxClasses {
		problem("%d classes are listed, expected 2 to %d", n, maxClasses)
	}
	sum := 0.0
	for i, f := range o.Split.Fractions {
		if !(f > 0 && f < 1) {
			problem("split: the %s fraction is %v, expected more than 0 and less than 1", SplitNames()[i], f)
		}
		sum += f
	}
	if math.Abs(sum-1) > 1e-9 {
		problem("split: the fractions add up to %v, expected 1", sum)
	}
	if o.PackSize < 1 {
		problem("pack size %d: expected at least 1", o.PackSize)
	}
	if o.Shards < 1 {
		problem("%d shards: expected at least 1", o.Shards)
	}
	if o.MaxBytes < 1 {
		problem("limit of %d bytes: expected at least 1", o.MaxBytes)
	}
	if len(problems) == 0 && int64(o.PackSize) > maxPack/int64(o.Input.Bytes()) {
		problem("a pack of %d examples of %d bytes has more than %d bytes: lower the pack size to %d", o.PackSize, o.Input.Bytes(), maxPack, max(1, maxPack/o.Input.Bytes()))
	}
	return fault.AsConfiguration(errors.Join(problems...))
}

func (in Input) check() []error {
	var problems []error
	if len(in.Shape) < 1 || len(in.Shape) > 3 {
		problems = append(problems, fmt.Errorf("input shape %v: expected one to three dimensions", in.Shape))
	}
	values := 1
	for _, d := range in.Shape {
		if d < 1 || d > maxPack/values {
			problems = append(problems, fmt.Errorf("input shape %v: expected positive sizes and at most %d values", in.Shape, maxPack))
			break
		}
		values *= d
	}
	if in.DType != UInt8 && in.DType != Float32 {
		problems = append(problems, fmt.Errorf("input dtype %q: expected %q or %q", in.DType, UInt8, Float32))
	}
	if r := in.Range; r != nil && !(r[0] < r[1] && !math.IsInf(r[0], 0) && !math.IsInf(r[1], 0)) {
		problems = append(problems, fmt.Errorf("input range [%v, %v]: expected a lower and a higher finite number", r[0], r[1]))
	}
	return problems
}

func firstTwice(names []string) string {
	seen := map[string]bool{}
	for _, name := range names {
		if seen[name] {
			return name
		}
		seen[name] = true
	}
	return ""
}

// digest names the packed dataset: the raw bytes and everything that decides how they are packed.
func (o Options) digest(rawSHA256, format string) string {
	text, err := json.Marshal(struct {
		Version   int
		Raw       string
		Format    string
		Task      string
		Input     Input
		Labels    []string
		Label     string
		Columns   []string
		Delimiter rune
		Split     SplitOptions
		PackSize  int
		Shards    int
	}{ManifestVersion, rawSHA256, format, o.Task, o.Input, o.Labels, o.Label, o.Columns, o.Delimiter, o.Split, o.PackSize, o.Shards})
	if err != nil {
		panic(err) // strings and finite numbers only
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// tableName is the pack table of a digest: short enough for Greenplum's and PostgreSQL's 63 bytes.
func tableName(digest string) string { return "packs_" + digest[:16] }

// RawObject is the key of a raw file in the bucket.
func RawObject(rawSHA256 string) string { return "raw/" + rawSHA256 }

// ManifestObject is the key of a manifest in the bucket.
func ManifestObject(digest string) string { return "manifests/" + digest + ".json" }
