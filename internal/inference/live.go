package inference

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/insitu-ml/insitu/internal/evaluation"
	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/postgres"
)

// ReadLive sums up the calls that routes sent to both versions; none leave zeros.
func ReadLive(ctx context.Context, at Place, name string, candidate, champion int) (evaluation.Live, error) {
	l := evaluation.Live{Candidate: candidate, Champion: champion}
	view := postgres.Ident(at.Schema, "route_evidence")
	err := at.Conn.QueryRow(ctx, `select rows, challenger_errors, truths, agreement, champion_accuracy, challenger_accuracy, champion_mean_absolute_error, challenger_mean_absolute_error
		from `+view+" where champion_name = $1 and challenger_name = $1 and champion_version = $2 and challenger_version = $3", name, champion, candidate).
		Scan(&l.Rows, &l.Errors, &l.Truths, &l.Agreement, &l.ChampionAccuracy, &l.CandidateAccuracy, &l.ChampionMAE, &l.CandidateMAE)
	switch state := postgres.State(err); {
	case errors.Is(err, pgx.ErrNoRows):
		return l, nil
	case state == "42P01" || state == "3F000":
		return l, fault.AsConfiguration(fmt.Errorf("%s does not exist: expected the schema that deploy-inference-db deploys to", view))
	}
	return l, postgres.Wrap(err, "read "+view)
}

// AskLive connects to the inference database for ReadLive.
func AskLive(ctx context.Context, database postgres.Config, schema, name string, candidate, champion int) (evaluation.Live, error) {
	conn, err := postgres.Connect(ctx, database, postgres.Options{})
	if err != nil {
		return evaluation.Live{}, err
	}
	defer conn.Close()
	return ReadLive(ctx, Place{Conn: conn, Schema: schema}, name, candidate, champion)
}
