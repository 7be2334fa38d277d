package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"

	"github.com/insitu-ml/insitu/internal/dataset"
	"github.com/insitu-ml/insitu/internal/postgres"
)

// printPrediction asks the inference database, by SQL alone, about a test row that training never saw.
func (r *pipelineRun) printPrediction(ctx context.Context, s *runJSON, digest string) {
	fmt.Fprintf(r.stdout, "\nA prediction by SQL in the inference database (select %s($1))\n", postgres.Ident(s.Inference.Schema, "run_inference_task"))
	actual, predicted, err := r.predict(ctx, s, digest)
	if err != nil {
		fmt.Fprintf(r.stdout, "  not possible: %v\n", err)
		return
	}
	fmt.Fprintf(r.stdout, "  first test row: actual %q, predicted %q\n", actual, predicted)
}

func (r *pipelineRun) predict(ctx context.Context, s *runJSON, digest string) (actual, predicted string, err error) {
	example, actual, err := r.testRow(ctx, s.Training.Schema, digest)
	if err != nil {
		return "", "", err
	}
	conn, err := r.connect(ctx, r.workflow.Value("inference-binding"))
	if err != nil {
		return "", "", err
	}
	defer conn.Close()
	err = conn.QueryRow(ctx, "select "+postgres.Ident(s.Inference.Schema, "run_inference_task")+"($1)", example).Scan(&predicted)
	return actual, predicted, postgres.Wrap(err, "run_inference_task")
}

// testRow reads the first example of the test split from the training database, as packed, and its label in words.
func (r *pipelineRun) testRow(ctx context.Context, schema, digest string) (example []byte, label string, err error) {
	conn, err := r.connect(ctx, r.workflow.Value("training-binding"))
	if err != nil {
		return nil, "", err
	}
	defer conn.Close()
	var text string
	if err := conn.QueryRow(ctx, "select manifest::text from "+postgres.Ident(schema, "datasets")+" where digest = $1", digest).Scan(&text); err != nil {
		return nil, "", postgres.Wrap(err, "read the dataset's manifest")
	}
	m, err := dataset.ParseManifest([]byte(text))
	if err != nil {
		return nil, "", err
	}
	var value []byte
	err = conn.QueryRow(ctx, "select substring(data from 1 for $1::int), substring(labels from 1 for 4) from "+postgres.Ident(schema, m.Table)+
		" where split = 'test' order by shard, id limit 1", m.Input.Bytes()).Scan(&example, &value)
	if err != nil {
		return nil, "", postgres.Wrap(err, "read a test row")
	}
	if len(value) != 4 {
		return nil, "", fmt.Errorf("read a test row: the label has %d bytes, expected 4", len(value))
	}
	bits := binary.LittleEndian.Uint32(value)
	if m.Task == dataset.Regression {
		return example, fmt.Sprint(math.Float32frombits(bits)), nil
	}
	if int(bits) >= len(m.Classes) {
		return nil, "", fmt.Errorf("read a test row: label %d of %d classes", bits, len(m.Classes))
	}
	return example, m.Classes[bits], nil
}
