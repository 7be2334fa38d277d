// Package monitoring finds out whether the calls of a model are still like what it was trained on and whether its answers are right,
// and asks for a retraining, once, when they are not.
//
// The inference database computes; this package reads, judges and keeps the books. It starts no run itself.
package monitoring

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/postgres"
)

// Place is a schema in the inference database.
type Place struct {
	Conn   *postgres.Conn
	Schema string
}

func (p Place) name(object string) string { return postgres.Ident(p.Schema, object) }

// Drift is how far the sample is from the profile in one respect.
type Drift struct {
	Kind string   // "input", "prediction" or "confidence"
	Name string   // of the feature
	Rows int64    // of the sample
	PSI  *float64 // population stability index; nil without rows
}

// State is how the active version does.
type State struct {
	Model    string
	Version  int
	Since    time.Time
	Share    float64 // of the predictions that are sampled; 0: none
	Profile  bool    // whether there is one to compare with
	Drift    []Drift // predictions first
	Truths   int64
	Accuracy *float64 // over the truths; R2 for a regression
	Test     *float64 // the same on the test split, at the evaluation
}

// Rows is the size of the sample.
func (s State) Rows() int64 {
	if len(s.Drift) == 0 {
		return 0
	}
	return s.Drift[0].Rows
}

// Read measures the active version by the predictions of the last window.
func Read(ctx context.Context, p Place, window time.Duration) (s State, err error) {
	doing := fmt.Sprintf("monitor schema %q", p.Schema)
	err = p.Conn.QueryRow(ctx, `select a.name, a.version, now() - $1 * interval '1 second', coalesce((select share from `+p.name("sampling")+`), 0),
		exists (select from `+p.name("profiles")+` f where (f.name, f.version) = (a.name, a.version)),
		coalesce((m.metrics ->> 'test_accuracy')::float8, (m.metrics ->> 'test_r2')::float8)
		from `+p.name("activations")+` a join `+p.name("models")+` m on (m.name, m.version) = (a.name, a.version) order by a.ordinal desc limit 1`, window.Seconds()).
		Scan(&s.Model, &s.Version, &s.Since, &s.Share, &s.Profile, &s.Test)
	if errors.Is(err, pgx.ErrNoRows) {
		return s, fault.AsConfiguration(fmt.Errorf("%s: no model is active; deploy-inference-db makes one active", doing))
	}
	if err != nil {
		return s, wrap(err, doing)
	}
	rows, err := p.Conn.Query(ctx, "select kind, name, rows, psi from "+p.name("drift")+"($1)", s.Since)
	if err != nil {
		return s, wrap(err, doing)
	}
	if s.Drift, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Drift]); err != nil {
		return s, wrap(err, doing)
	}
	err = p.Conn.QueryRow(ctx, "select truths, accuracy from "+p.name("live_accuracy")+"($1)", s.Since).Scan(&s.Truths, &s.Accuracy)
	return s, wrap(err, doing)
}

// Prune deletes what the sampling no longer wants to keep, and returns how many rows.
func Prune(ctx context.Context, p Place) (gone int64, err error) {
	err = p.Conn.QueryRow(ctx, "select "+p.name("prune_predictions")+"()").Scan(&gone)
	return gone, wrap(err, fmt.Sprintf("prune the predictions of schema %q", p.Schema))
}

// wrap turns a schema of an older release, and missing rights, into a hint.
func wrap(err error, doing string) error {
	switch postgres.State(err) {
	case "42P01", "3F000", "42883": // undefined table, schema, function
		return fault.AsConfiguration(fmt.Errorf("%w; expected a schema that this release's deploy-inference-db deployed to", postgres.Wrap(err, doing)))
	case "42501":
		return fault.AsConfiguration(fmt.Errorf("%w; the owner of the schema grants what is needed with grant_monitoring", postgres.Wrap(err, doing)))
	}
	return postgres.Wrap(err, doing)
}

// Limits decide when a model has decayed.
type Limits struct {
	PSI          float64 // most that is no drift
	AccuracyDrop float64 // below the test accuracy, most that is no decay
	Rows, Truths int64   // fewer say nothing
}

// Verdict is what limits say of a state.
type Verdict struct {
	Crossed bool
	Reason  string // one line
}

// listed is how many features a reason names.
const listed = 3

// Judge says whether a limit is crossed, and why or why not.
func Judge(s State, l Limits) Verdict {
	var drifted []Drift
	worst := -1.0
	for _, d := range s.Drift {
		if d.PSI == nil || d.Rows < l.Rows {
			continue
		}
		worst = max(worst, *d.PSI)
		if *d.PSI > l.PSI {
			drifted = append(drifted, d)
		}
	}
	var crossed, fine []string
	slices.SortStableFunc(drifted, func(a, b Drift) int { return cmp.Compare(*b.PSI, *a.PSI) })
	var named []string
	for _, d := range drifted[:min(listed, len(drifted))] {
		named = append(named, fmt.Sprintf("%.3f of the %s", *d.PSI, d.what()))
	}
	if more := len(drifted) - len(named); more > 0 {
		named = append(named, fmt.Sprintf("and %d more", more))
	}
	switch {
	case len(drifted) > 0:
		crossed = append(crossed, fmt.Sprintf("PSI %s is above %g in %d predictions", strings.Join(named, ", "), l.PSI, s.Rows()))
	case !s.Profile:
		fine = append(fine, "drift is not known: the version has no profile (it was trained or evaluated by an older release)")
	case worst < 0:
		fine = append(fine, fmt.Sprintf("drift is not known: %d predictions in the sample, at least %d are needed", s.Rows(), l.Rows))
	default:
		fine = append(fine, fmt.Sprintf("PSI is at most %.3f in %d predictions", worst, s.Rows()))
	}
	switch {
	case s.Accuracy == nil || s.Truths < l.Truths || s.Test == nil:
		fine = append(fine, fmt.Sprintf("accuracy is not known: %d truths, at least %d are needed", s.Truths, l.Truths))
		if s.Test == nil {
			fine[len(fine)-1] = "accuracy is not compared: the version has none of an evaluation"
		}
	case *s.Accuracy < *s.Test-l.AccuracyDrop:
		crossed = append(crossed, fmt.Sprintf("accuracy %.3f over %d truths is more than %g below %.3f, that of the evaluation", *s.Accuracy, s.Truths, l.AccuracyDrop, *s.Test))
	default:
		fine = append(fine, fmt.Sprintf("accuracy is %.3f over %d truths, %.3f at the evaluation", *s.Accuracy, s.Truths, *s.Test))
	}
	why := fine
	if crossed != nil {
		why = crossed
	}
	reason := fmt.Sprintf("model %s version %d: %s", s.Model, s.Version, strings.Join(why, "; "))
	// Argo would take these for places to put values in.
	return Verdict{Crossed: crossed != nil, Reason: strings.NewReplacer("{{", "{ {", "\n", " ").Replace(reason)}
}

// what names it in a sentence.
func (d Drift) what() string {
	if d.Kind == "input" {
		return fmt.Sprintf("input %q", d.Name)
	}
	return d.Kind
}
