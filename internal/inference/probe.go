package inference

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"

	"github.com/jackc/pgx/v5"

	"github.com/insitu-ml/insitu/internal/postgres"
)

// Evidence is what a version showed before it was switched to; the ledger keeps it.
type Evidence struct {
	Parity Parity
	probe  *probe
}

func (e Evidence) details(previous Version) map[string]any {
	out := map[string]any{"parity": map[string]any{"rows": e.Parity.Rows, "max_abs_diff": e.Parity.MaxAbsDiff(), "disagreements": e.Parity.Disagreements()}}
	if previous != (Version{}) {
		out["from"] = previous.Version
	}
	if e.probe != nil {
		out["probe"] = map[string]any{"bytes": e.probe.size, "outputs": hex.EncodeToString(e.probe.outputs)}
	}
	return out
}

// probe is what a version predicts for made-up examples. A version that is gone back to must predict them as it did when it was deployed,
// whatever became of the server's packages and of the SQL functions since. No row of the training data goes into the ledger.
type probe struct {
	size    int    // bytes of an example
	outputs []byte // little-endian float32
}

const (
	probes = 4 // examples of a probe
	// probeTolerance is how far an output may be off, as a share of it if it is larger than 1:
	// other versions of the runtime, and other processors, sum in another order.
	probeTolerance = 1e-3
)

// examples are made of float32 numbers from 0 to 1: bytes that are right for a model of float32 as of uint8.
func (p probe) examples() []byte {
	out := make([]byte, 0, p.size*probes+4)
	for i := 0; len(out) < p.size*probes; i++ {
		_, fraction := math.Modf(float64(i+1) * (math.Sqrt(5) - 1) / 2)
		out = binary.LittleEndian.AppendUint32(out, math.Float32bits(float32(fraction)))
	}
	return out[:p.size*probes]
}

func (p probe) predict(ctx context.Context, at Place, v Version) ([]float32, error) {
	return predict(ctx, at, probes, sideInference, "predict_version($1, $2, $3, $4)", v.Name, v.Version, p.examples(), probes)
}

// Show asks the deployed model for the evidence that the ledger keeps beside the parity.
// A model that cannot take made-up examples leaves none.
func Show(ctx context.Context, at Place, v Version, parity Parity) (Evidence, error) {
	e, p := Evidence{Parity: parity}, probe{size: parity.exampleBytes}
	outputs, err := p.predict(ctx, at, v)
	if server := postgres.State(err); err != nil && server == "" {
		return e, err
	}
	for _, o := range outputs {
		if math.IsNaN(float64(o)) || math.IsInf(float64(o), 0) {
			return e, nil
		}
		p.outputs = binary.LittleEndian.AppendUint32(p.outputs, math.Float32bits(o))
	}
	if err == nil {
		e.probe = &p
	}
	return e, nil
}

// CheckProbe returns an error if the deployed version predicts something else than when it was switched to.
// A version without a probe in the ledger passes; so does every model whose bytes load and predict as they did.
func CheckProbe(ctx context.Context, at Place, v Version) error {
	var p probe
	var text string
	err := at.Conn.QueryRow(ctx, "select (details -> 'probe' ->> 'bytes')::int, details -> 'probe' ->> 'outputs' from "+postgres.Ident(at.Schema, "deployments")+
		" where action = 'activate' and name = $1 and version = $2 and details -> 'probe' is not null order by ordinal desc limit 1", v.Name, v.Version).Scan(&p.size, &text)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return postgres.Wrap(err, "read the probe of "+postgres.Ident(at.Schema, "deployments"))
	}
	if p.outputs, err = hex.DecodeString(text); err != nil {
		return fmt.Errorf("probe of model %q version %d: %w", v.Name, v.Version, err)
	}
	got, err := p.predict(ctx, at, v)
	if err != nil {
		return err
	}
	if len(got)*4 != len(p.outputs) {
		return fmt.Errorf("model %q version %d gives %d numbers for %d examples, expected %d as when it was deployed", v.Name, v.Version, len(got), probes, len(p.outputs)/4)
	}
	for i, o := range got {
		want := math.Float32frombits(binary.LittleEndian.Uint32(p.outputs[4*i:]))
		if d := math.Abs(float64(o) - float64(want)); !(d <= probeTolerance*max(1, math.Abs(float64(want)))) {
			return fmt.Errorf("model %q version %d predicts %g where it predicted %g when it was deployed: the server's packages or the SQL functions changed; "+
				"deploy the version again with deploy-inference-db, which compares it with the training database", v.Name, v.Version, o, want)
		}
	}
	return nil
}
