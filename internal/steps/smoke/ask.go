package smoke

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"mime/multipart"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/postgres"
)

// version is a model that is deployed.
type version struct {
	name   string
	number int
}

func (v version) String() string { return fmt.Sprintf("model %q version %d", v.name, v.number) }

// answer is a prediction; only a label when there is no more.
type answer struct {
	label         string
	probabilities map[string]float64 // none for a regression
	version       version
}

// way is one way of asking and its answers, in the order of the rows.
type way struct {
	name    string
	answers []answer
}

// check finds answers that are missing or come from another version; challenger is that of a canary, which gives some, or none.
func (w way) check(rows int, want, challenger version) error {
	if len(w.answers) != rows {
		return fmt.Errorf("%s gave %d answers for %d rows", w.name, len(w.answers), rows)
	}
	for i, a := range w.answers {
		if a.label == "" {
			return fmt.Errorf("%s gave no label for row %d", w.name, i+1)
		}
		if a.version != want && (challenger == version{} || a.version != challenger) {
			return fmt.Errorf("%s: row %d was predicted by %s, expected %s, which was deployed", w.name, i+1, a.version, want)
		}
	}
	return nil
}

// tolerance is how far two ways may be apart: a batch is not added up in the order in which a row is.
const tolerance = 1e-4

// agree compares labels with those of another way.
func (w way) agree(other way) error {
	for i, a := range w.answers {
		b := other.answers[i]
		if !a.same(b.label) {
			return fmt.Errorf("row %d is %q by %s and %q by %s", i+1, a.label, w.name, b.label, other.name)
		}
	}
	return nil
}

// same tells whether another label is the same, or as likely but for a rounding error.
func (a answer) same(label string) bool {
	if a.label == label {
		return true
	}
	if a.probabilities != nil {
		p, known := a.probabilities[label]
		return known && a.probabilities[a.label]-p <= tolerance
	}
	x, err := strconv.ParseFloat(a.label, 64)
	y, err2 := strconv.ParseFloat(label, 64)
	return err == nil && err2 == nil && math.Abs(x-y) <= tolerance*max(1, math.Abs(x))
}

func predictBatch(ctx context.Context, conn *postgres.Conn, schema string, examples [][]byte) ([]answer, error) {
	rows, err := conn.Query(ctx, "select coalesce(label, ''), probabilities, model_name, model_version from "+postgres.Ident(schema, "predict_batch")+"($1) order by index", examples)
	if err != nil {
		return nil, postgres.Wrap(err, "predict_batch")
	}
	answers, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (a answer, err error) {
		err = row.Scan(&a.label, &a.probabilities, &a.version.name, &a.version.number)
		return a, err
	})
	return answers, postgres.Wrap(err, "predict_batch")
}

// challenger is the version that a canary sends some inputs to; none without a canary.
func challenger(ctx context.Context, conn *postgres.Conn, schema string) (v version, err error) {
	err = conn.QueryRow(ctx, "select name, version from "+postgres.Ident(schema, "route")+" where mode = 'canary'").Scan(&v.name, &v.number)
	if errors.Is(err, pgx.ErrNoRows) {
		return version{}, nil
	}
	return v, postgres.Wrap(err, fmt.Sprintf("look for a canary in schema %q", schema))
}

// predictVersion asks the version itself, active or not, and says how many numbers it gave.
func predictVersion(ctx context.Context, conn *postgres.Conn, schema string, v version, examples [][]byte) (numbers int, err error) {
	var raw []byte
	err = conn.QueryRow(ctx, "select "+postgres.Ident(schema, "predict_version")+"($1, $2, $3, $4)", v.name, v.number, bytes.Join(examples, nil), len(examples)).Scan(&raw)
	if err != nil {
		return 0, postgres.Wrap(err, "predict_version")
	}
	if numbers = len(raw) / 4; numbers < len(examples) {
		return 0, fmt.Errorf("predict_version gave %d numbers for %d rows", numbers, len(examples))
	}
	return numbers, nil
}

func runInferenceTask(ctx context.Context, conn *postgres.Conn, schema string, example []byte) (label string, err error) {
	err = conn.QueryRow(ctx, "select coalesce("+postgres.Ident(schema, "run_inference_task")+"($1), '')", example).Scan(&label)
	return label, postgres.Wrap(err, "run_inference_task")
}

// Bounds of the API's answer.
const (
	apiTimeout  = time.Minute
	apiMaxBytes = 16 << 20
)

// askAPI sends all rows as files of one request.
func askAPI(ctx context.Context, base, token string, examples [][]byte) ([]answer, error) {
	var form bytes.Buffer
	writer := multipart.NewWriter(&form)
	for i, example := range examples {
		part, err := writer.CreateFormFile("file", fmt.Sprintf("row-%d", i+1))
		if err != nil {
			return nil, err
		}
		if _, err := part.Write(example); err != nil {
			return nil, err
		}
	}
	if err := writer.Close(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimRight(base, "/")+"/v1/predict?top=1", &form)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", writer.FormDataContentType())
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, fault.AsTemporary(fmt.Errorf("ask the API: %w", err))
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, apiMaxBytes))
	if err != nil {
		return nil, fault.AsTemporary(fmt.Errorf("ask the API: %w", err))
	}
	if response.StatusCode != http.StatusOK {
		err := fmt.Errorf("the API %s answers %s: %.200s", base, response.Status, text)
		switch {
		case response.StatusCode >= 500:
			return nil, fault.AsTemporary(err)
		case response.StatusCode == http.StatusUnauthorized:
			return nil, fault.AsConfiguration(err)
		}
		return nil, err
	}
	return parseAPI(text)
}

func parseAPI(text []byte) ([]answer, error) {
	type model struct {
		Name    string `json:"name"`
		Version int    `json:"version"`
	}
	var body struct {
		Predictions []struct {
			Label string `json:"label"`
			Model *model `json:"model"` // of a canary's challenger
		} `json:"predictions"`
		Model model `json:"model"`
	}
	if err := json.Unmarshal(text, &body); err != nil {
		return nil, fmt.Errorf("the API's answer: %w: %.200s", err, text)
	}
	answers := make([]answer, len(body.Predictions))
	for i, p := range body.Predictions {
		by := body.Model
		if p.Model != nil {
			by = *p.Model
		}
		answers[i] = answer{label: p.Label, version: version{by.Name, by.Version}}
	}
	return answers, nil
}
