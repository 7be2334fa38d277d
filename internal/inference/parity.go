package inference

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/insitu-ml/insitu/internal/postgres"
)

// Tolerance is how far two ways of predicting the same rows may be apart.
type Tolerance struct {
	MaxAbsDiff    float64 // of one output
	Disagreements int     // rows with another label
}

// Pair is how far two ways of predicting the same rows are apart.
type Pair struct {
	A, B          string
	MaxAbsDiff    float64 // +Inf when a side has NaN
	Disagreements int     // rows whose label differs and is not a tie within the tolerance
}

// Parity is the result of a check over Rows test rows.
type Parity struct {
	Rows  int
	Pairs []Pair

	exampleBytes int
}

// MaxAbsDiff is the largest difference of any pair.
func (p Parity) MaxAbsDiff() (worst float64) {
	for _, pair := range p.Pairs {
		worst = max(worst, pair.MaxAbsDiff)
	}
	return worst
}

// Disagreements is the largest number of rows with another label of any pair.
func (p Parity) Disagreements() (worst int) {
	for _, pair := range p.Pairs {
		worst = max(worst, pair.Disagreements)
	}
	return worst
}

// Check returns an error that names every pair that is further apart than the tolerance allows.
func (p Parity) Check(t Tolerance) error {
	var apart []string
	for _, pair := range p.Pairs {
		if !(pair.MaxAbsDiff <= t.MaxAbsDiff) || pair.Disagreements > t.Disagreements {
			apart = append(apart, fmt.Sprintf("%s and %s differ by up to %.3g and on %d label(s)", pair.A, pair.B, pair.MaxAbsDiff, pair.Disagreements))
		}
	}
	if apart == nil {
		return nil
	}
	return &apartError{fmt.Sprintf("parity over %d test rows: %s; allowed are %.3g and %d label(s)", p.Rows, strings.Join(apart, "; "), t.MaxAbsDiff, t.Disagreements)}
}

// apartError says that a model does not predict what it should, which no other error does.
type apartError struct{ text string }

func (e *apartError) Error() string { return e.text }

// Sides of the check.
const (
	sideLearner   = "learner in the training database"
	sideTraining  = "ONNX in the training database"
	sideInference = "ONNX in the inference database"
)

// Place is a schema in a database.
type Place struct {
	Conn   *postgres.Conn
	Schema string
}

// CheckParity predicts the first rows of the test split in three ways: by the learner's own
// Python with the trained state, by the ONNX model in the training database and by the deployed
// model in the inference database; and says how far these are apart.
// The model need not be active.
func CheckParity(ctx context.Context, training, inference Place, m Model, rows int, t Tolerance) (Parity, error) {
	o, err := readOriginal(ctx, training, m)
	if err != nil {
		return Parity{}, err
	}
	c := comparison{tolerance: t.MaxAbsDiff, pairs: []Pair{
		{A: sideLearner, B: sideTraining}, {A: sideLearner, B: sideInference}, {A: sideTraining, B: sideInference}}}
	packs, err := testPacks(ctx, training, o.packs, rows)
	if err != nil {
		return Parity{}, err
	}
	total, size := 0, 0
	for _, p := range packs {
		learner, err := predict(ctx, training, p.n, sideLearner, "predict_state($1, $2, $3, $4, $5)", m.CodeDigest, o.bundle, o.spec, o.state, p.data)
		if err != nil {
			return Parity{}, err
		}
		train, err := predict(ctx, training, p.n, sideTraining, "predict_onnx($1, $2, $3, $4)", m.ONNX, m.Digest, p.data, p.n)
		if err != nil {
			return Parity{}, err
		}
		serve, err := predict(ctx, inference, p.n, sideInference, "predict_version($1, $2, $3, $4)", m.Name, m.Version, p.data, p.n)
		if err != nil {
			return Parity{}, err
		}
		if err := c.add(p.n, learner, train, serve); err != nil {
			return Parity{}, err
		}
		total, size = total+p.n, len(p.data)/p.n
	}
	if total == 0 {
		return Parity{}, fmt.Errorf("parity of model %q version %d: dataset %.16s has no test rows in the training database", m.Name, m.Version, m.DatasetDigest)
	}
	return Parity{Rows: total, Pairs: c.pairs, exampleBytes: size}, nil
}

// original is what the training database keeps of the model.
type original struct {
	packs, bundle, spec string
	state               []byte
}

func readOriginal(ctx context.Context, p Place, m Model) (o original, err error) {
	read := func(what, query, key string, into any) error {
		err := p.Conn.QueryRow(ctx, query, key).Scan(into)
		if errors.Is(err, pgx.ErrNoRows) {
			return fmt.Errorf("parity of model %q version %d: the training schema %q has no %s %.16s; it is needed to compare with", m.Name, m.Version, p.Schema, what, key)
		}
		return postgres.Wrap(err, fmt.Sprintf("read %s %.16s from schema %q", what, key, p.Schema))
	}
	in := func(table string) string { return postgres.Ident(p.Schema, table) }
	return o, errors.Join(
		read("dataset", "select pack_table from "+in("datasets")+" where digest = $1", m.DatasetDigest, &o.packs),
		read("release", "select bundle from "+in("releases")+" where digest = $1 order by ordinal desc limit 1", m.CodeDigest, &o.bundle),
		read("job", "select spec::text from "+in("jobs")+" where id = $1", m.Job, &o.spec),
		read("model of job", "select state from "+in("models")+" where job = $1", m.Job, &o.state),
	)
}

// pack is n examples.
type pack struct {
	n    int
	data []byte
}

// testPacks reads test packs in their order, and no more than the given number of rows of them.
func testPacks(ctx context.Context, p Place, table string, rows int) (packs []pack, err error) {
	table = postgres.Ident(p.Schema, table)
	result, err := p.Conn.Query(ctx, "select n, data from "+table+" where split = 'test' order by id limit $1", rows)
	if err != nil {
		return nil, postgres.Wrap(err, "read test packs of "+table)
	}
	defer result.Close()
	for rows > 0 && result.Next() {
		var k pack
		if err := result.Scan(&k.n, &k.data); err != nil {
			return nil, postgres.Wrap(err, "read test packs of "+table)
		}
		if k.n <= 0 || len(k.data) == 0 || len(k.data)%k.n != 0 {
			return nil, fmt.Errorf("test pack of %s: %d bytes are not %d examples of one size", table, len(k.data), k.n)
		}
		if k.n > rows {
			k.data, k.n = k.data[:len(k.data)/k.n*rows], rows
		}
		rows -= k.n
		packs = append(packs, k)
	}
	result.Close()
	return packs, postgres.Wrap(result.Err(), "read test packs of "+table)
}

// TestRows are the first rows of a dataset's test split, each as packed.
func TestRows(ctx context.Context, training Place, datasetDigest string, rows int) ([][]byte, error) {
	var table string
	err := training.Conn.QueryRow(ctx, "select pack_table from "+postgres.Ident(training.Schema, "datasets")+" where digest = $1", datasetDigest).Scan(&table)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fmt.Errorf("the training schema %q has no dataset %.16s", training.Schema, datasetDigest)
	}
	if err != nil {
		return nil, postgres.Wrap(err, fmt.Sprintf("read dataset %.16s from schema %q", datasetDigest, training.Schema))
	}
	packs, err := testPacks(ctx, training, table, rows)
	if err != nil {
		return nil, err
	}
	var out [][]byte
	for _, p := range packs {
		out = slices.AppendSeq(out, slices.Chunk(p.data, len(p.data)/p.n))
	}
	if out == nil {
		return nil, fmt.Errorf("dataset %.16s has no test rows in the training schema %q", datasetDigest, training.Schema)
	}
	return out, nil
}

// predict calls a function of the schema that returns float32 [n, outputs].
func predict(ctx context.Context, p Place, n int, side, call string, args ...any) ([]float32, error) {
	var raw []byte
	if err := p.Conn.QueryRow(ctx, "select "+postgres.Ident(p.Schema)+"."+call, args...).Scan(&raw); err != nil {
		return nil, postgres.Wrap(err, fmt.Sprintf("predict %d test rows by the %s", n, side))
	}
	if len(raw) == 0 || len(raw)%(4*n) != 0 {
		return nil, fmt.Errorf("predict %d test rows by the %s: got %d bytes; expected a float32 for each output of each row", n, side, len(raw))
	}
	out := make([]float32, len(raw)/4)
	for i := range out {
		out[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
	}
	return out, nil
}

// comparison collects the differences of the three pairs over all packs.
type comparison struct {
	tolerance float64
	pairs     []Pair
}

func (c *comparison) add(n int, learner, training, inference []float32) error {
	if len(learner) != len(training) || len(training) != len(inference) {
		return fmt.Errorf("parity: the %s, the %s and the %s gave %d, %d and %d numbers for %d rows",
			sideLearner, sideTraining, sideInference, len(learner), len(training), len(inference), n)
	}
	for i, two := range [][2][]float32{{learner, training}, {learner, inference}, {training, inference}} {
		width := len(two[0]) / n
		for row := range n {
			a, b := two[0][row*width:(row+1)*width], two[1][row*width:(row+1)*width]
			c.pairs[i].MaxAbsDiff = max(c.pairs[i].MaxAbsDiff, maxAbsDiff(a, b))
			if disagree(a, b, c.tolerance) {
				c.pairs[i].Disagreements++
			}
		}
	}
	return nil
}

func maxAbsDiff(a, b []float32) (worst float64) {
	for i := range a {
		d := math.Abs(float64(a[i]) - float64(b[i]))
		if math.IsNaN(d) {
			return math.Inf(1)
		}
		worst = max(worst, d)
	}
	return worst
}

// disagree tells whether the two name different labels, and at least one of them by more than the tolerance.
// One output is a number, not a choice of labels.
func disagree(a, b []float32, tolerance float64) bool {
	if len(a) < 2 {
		return false
	}
	i, j := largest(a), largest(b)
	return i != j && (float64(a[i])-float64(a[j]) > tolerance || float64(b[j])-float64(b[i]) > tolerance)
}

func largest(p []float32) (at int) {
	for i, v := range p {
		if v > p[at] {
			at = i
		}
	}
	return at
}
