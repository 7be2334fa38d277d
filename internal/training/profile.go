package training

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/insitu-ml/insitu/internal/dataset"
	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/postgres"
)

// profileRows is how many rows of the train split a profile is made of, about: tenths of as many are exact enough.
const profileRows = 10_000

// Profile is how the inputs of the train split are distributed: JSON with the bins of each feature and the examples in each.
// It is made in the database, and holds bounds and counts alone.
func Profile(ctx context.Context, config postgres.Config, schema string, m *dataset.Manifest) ([]byte, error) {
	s, err := dial(ctx, config, schema, m.Table, nil)
	if err != nil {
		return nil, err
	}
	defer s.close()
	doing := fmt.Sprintf("profile the inputs of dataset %.16s in schema %q", m.Digest, schema)
	input, err := json.Marshal(map[string]any{"shape": m.Input.Shape, "dtype": m.Input.DType, "columns": m.Columns})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	// Alone and first: it loads the release, and Greenplum's coordinator cannot query for that within the statement below.
	if _, err := s.lead.Exec(ctx, "select summarize_inputs($1::text::json, ''::bytea, 0)", string(input)); err != nil {
		return nil, absent(err, doing, "deploy-training-code")
	}
	var text *string
	packs := max(1, (profileRows+m.PackSize-1)/max(1, m.PackSize))
	if err := s.lead.QueryRow(ctx, statement(s.lead.Dialect, "profile.sql", s.table), string(input), packs).Scan(&text); err != nil {
		return nil, absent(err, doing, "deploy-training-code and upload-dataset")
	}
	if text == nil {
		return nil, fault.AsPermanent(fmt.Errorf("%s: the train split has no rows", doing))
	}
	return append([]byte(*text), '\n'), nil
}
