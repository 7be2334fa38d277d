package monitoring

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/postgres"
)

// lost is when a retraining that nobody ended counts as ended: a pipeline has a week.
const lost = 8 * 24 * time.Hour

// maxReason and maxResult bound what is kept, in bytes.
const (
	maxReason = 2000
	maxResult = 200
)

// Ask is a request for a retraining.
type Ask struct {
	Model    string
	Version  int // that has decayed
	Reason   string
	Check    string        // who asks; the same one gets the same answer again; may be empty
	Cooldown time.Duration // after the end of a retraining, in which there is no other
}

// Answer says whether a run is to be submitted: to one of all who ask.
type Answer struct {
	Run string // name of the run to submit; "": none
	Why string // in words
}

// Retrain asks for a retraining. At most one is open, and after its end there is none until the cool-down is over.
// Whoever gets the name of a run must submit it under that name, and End it.
func Retrain(ctx context.Context, p Place, a Ask) (answer Answer, err error) {
	doing := fmt.Sprintf("ask for a retraining in schema %q", p.Schema)
	table := p.name("retrainings")
	err = pgx.BeginFunc(ctx, p.Conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "select pg_advisory_xact_lock($1)", postgres.LockKey("retrain:"+p.Schema)); err != nil {
			return wrap(err, doing)
		}
		// A deployment, or a week without news, ends what its own workflow or user did not.
		// clock_timestamp: this transaction may have begun long before it got the lock.
		if _, err := tx.Exec(ctx, "update "+table+` r set ended_at = clock_timestamp(), result = case when requested_at < clock_timestamp() - $1 * interval '1 second' then 'lost' else 'deployed' end
			where ended_at is null and (requested_at < clock_timestamp() - $1 * interval '1 second' or exists (select from `+p.name("activations")+` a
				where a.activated_at > r.requested_at and (a.name, a.version) <> (r.name, r.version) and not exists (select from `+p.name("deployments")+` d where d.ordinal = a.ordinal and d.action = 'rollback')))`,
			lost.Seconds()); err != nil {
			return wrap(err, doing)
		}
		if a.Check != "" {
			var run string
			var open bool
			err := tx.QueryRow(ctx, "select run, ended_at is null from "+table+" where monitor = $1 order by ordinal desc limit 1", a.Check).Scan(&run, &open)
			switch {
			case err == nil && open:
				answer = Answer{run, fmt.Sprintf("this check asked for retraining %s before", run)}
				return nil
			case err == nil:
				answer.Why = fmt.Sprintf("this check asked for retraining %s before, and it has ended", run)
				return nil
			case !errors.Is(err, pgx.ErrNoRows):
				return wrap(err, doing)
			}
		}
		var active bool
		if err := tx.QueryRow(ctx, "select coalesce((select (name, version) = ($1, $2) from "+p.name("activations")+" order by ordinal desc limit 1), false)", a.Model, a.Version).Scan(&active); err != nil {
			return wrap(err, doing)
		}
		if !active {
			answer.Why = "another version became active meanwhile"
			return nil
		}
		var number int
		var open *string
		var until *time.Time
		if err := tx.QueryRow(ctx, `select coalesce(max(ordinal), 0) + 1, max(run) filter (where ended_at is null),
			max(ended_at) filter (where ended_at > clock_timestamp() - $1 * interval '1 second') + $1 * interval '1 second' from `+table, a.Cooldown.Seconds()).Scan(&number, &open, &until); err != nil {
			return wrap(err, doing)
		}
		switch {
		case open != nil:
			answer.Why = fmt.Sprintf("retraining %s is open", *open)
			return nil
		case until != nil:
			answer.Why = fmt.Sprintf("a retraining ended a short time ago; the next one may begin at %s", until.UTC().Format(time.RFC3339))
			return nil
		}
		run, err := runName(p.Schema, a.Version)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "insert into "+table+" (ordinal, run, name, version, reason, monitor, requested_at) values ($1, $2, $3, $4, $5, $6, clock_timestamp())",
			number, run, a.Model, a.Version, a.Reason[:min(len(a.Reason), maxReason)], a.Check); err != nil {
			return wrap(err, doing)
		}
		answer = Answer{run, fmt.Sprintf("retraining %s is to be submitted", run)}
		return nil
	})
	return answer, err
}

// End says how a retraining ended; ending it again changes nothing.
func End(ctx context.Context, p Place, run, result string) error {
	doing := fmt.Sprintf("end retraining %q in schema %q", run, p.Schema)
	tag, err := p.Conn.Exec(ctx, "update "+p.name("retrainings")+" set ended_at = coalesce(ended_at, clock_timestamp()), result = coalesce(result, $2) where run = $1", run, result[:min(len(result), maxResult)])
	if err != nil {
		return wrap(err, doing)
	}
	if tag.RowsAffected() == 0 {
		return fault.AsConfiguration(fmt.Errorf("%s: there is none of that name; select run from %s lists them", doing, p.name("retrainings")))
	}
	return nil
}

// runName is a name that Kubernetes takes and that was never used before, also not in a schema that was dropped since.
func runName(schema string, version int) (string, error) {
	random := make([]byte, 4)
	if _, err := rand.Read(random); err != nil {
		return "", fmt.Errorf("name a retraining: %w", err)
	}
	slug := strings.Trim(regexp.MustCompile(`[^a-z0-9]+`).ReplaceAllString(strings.ToLower(schema), "-"), "-")
	slug = strings.TrimRight(slug[:min(len(slug), 30)], "-")
	if slug != "" {
		slug += "-"
	}
	return fmt.Sprintf("retrain-%sv%d-%s", slug, version, hex.EncodeToString(random)), nil
}
