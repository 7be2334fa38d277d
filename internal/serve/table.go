package serve

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"unicode/utf8"

	"github.com/insitu-ml/insitu/internal/postgres"
)

// maxRows bounds the rows of one request, like maxFiles.
const maxRows = 1000

// table is the JSON body of /v1/predict: examples of columns.
type table struct {
	rows json.RawMessage // an array, as it was sent
	n    int
	top  int // 0 if it is not told
}

// readTable reads {"rows": [...], "top": 3}, where a row is an object or an array of plain values.
// What the columns must be is known to the model in the database.
func readTable(w http.ResponseWriter, r *http.Request, limit int64) (t table, p *problem) {
	if r.ContentLength > limit {
		return t, bodyTooLarge(limit)
	}
	finished := receive(w, r, limit)
	text, err := io.ReadAll(r.Body)
	if err != nil {
		return t, unread(r.Context(), err, limit)
	}
	finished()
	var body struct {
		Rows json.RawMessage `json:"rows"`
		Top  *int            `json:"top"`
	}
	if !utf8.Valid(text) {
		return t, brokenJSON(errors.New("it is not UTF-8"))
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&body); err != nil {
		if wrong := (*json.UnmarshalTypeError)(nil); errors.As(err, &wrong) && wrong.Field == "top" {
			return t, badValue("expected a whole number of at least 1", "body", "top")
		}
		return t, brokenJSON(err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return t, brokenJSON(errors.New("something follows the object"))
	}
	if body.Top != nil {
		if t.top = *body.Top; t.top < 1 {
			return t, badValue("expected a whole number of at least 1", "body", "top")
		}
	}
	if body.Rows == nil {
		return t, &problem{status: http.StatusUnprocessableEntity, loc: []any{"body", "rows"}, msg: "Field required", kind: "missing"}
	}
	var rows []json.RawMessage
	if json.Unmarshal(body.Rows, &rows) != nil || len(rows) == 0 {
		return t, badValue("expected an array of rows", "body", "rows")
	}
	if len(rows) > maxRows {
		return t, &problem{status: http.StatusUnprocessableEntity, loc: []any{"body", "rows"}, msg: fmt.Sprintf("more rows than expected: %d at most", maxRows), kind: "too_many"}
	}
	for i, row := range rows {
		if err := checkRow(row); err != nil {
			return t, badValue(err.Error(), "body", "rows", i)
		}
	}
	t.rows, t.n = body.Rows, len(rows)
	return t, nil
}

// checkRow wants an object or an array of numbers, texts, truth values and nulls.
// Nothing deeper and no number beyond float64 gets as far as the database.
func checkRow(text json.RawMessage) error {
	var row any
	if err := json.Unmarshal(text, &row); err != nil {
		return fmt.Errorf("it cannot be read: %w", err)
	}
	var values []any
	switch row := row.(type) {
	case []any:
		values = row
	case map[string]any:
		for _, value := range row {
			values = append(values, value)
		}
	default:
		return errors.New("expected an object of columns or an array of values")
	}
	for _, value := range values {
		switch value.(type) {
		case []any, map[string]any:
			return errors.New("expected plain values, found an array or an object among them")
		}
	}
	return nil
}

func badValue(msg string, loc ...any) *problem {
	return &problem{status: http.StatusUnprocessableEntity, loc: loc, msg: msg, kind: "value_error"}
}

func brokenJSON(err error) *problem {
	return &problem{status: http.StatusBadRequest, loc: []any{"body"}, msg: "the JSON cannot be read: " + err.Error(), kind: "broken_json"}
}

// predictTable predicts the rows of one request in one statement.
func (s *sessions) predictTable(ctx context.Context, t table) ([]row, error) {
	rows, err := ask(ctx, s, func(ctx context.Context, conn *postgres.Conn) ([]row, error) {
		return predictRows(ctx, conn, s.schema, t.rows, t.n)
	})
	if postgres.State(err) == noFunction {
		return nil, errNoRows
	}
	return rows, err
}
