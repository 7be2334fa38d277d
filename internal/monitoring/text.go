package monitoring

import (
	"bytes"
	"fmt"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
)

// Table is the state for people: a line for each measure, with a mark at those that are above the limits.
func Table(s State, l Limits) string {
	var out bytes.Buffer
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	line := func(cells ...any) { fmt.Fprintf(w, "%v\t%v\t%v\t%v\t%v\n", cells...) }
	fmt.Fprintf(&out, "Model %s version %d, predictions since %s", s.Model, s.Version, s.Since.UTC().Format(time.RFC3339))
	if s.Share > 0 {
		fmt.Fprintf(&out, ", of which %g %% are sampled\n", 100*s.Share)
	} else {
		fmt.Fprintln(&out, "; none are sampled, see set_sampling")
	}
	line("MEASURE", "ROWS", "VALUE", "LIMIT", "")
	for _, d := range s.Drift {
		mark := ""
		switch {
		case d.Rows < l.Rows:
			mark = "too few rows"
		case d.PSI != nil && *d.PSI > l.PSI:
			mark = "crossed"
		}
		line("PSI of the "+d.what(), d.Rows, number(d.PSI), fmt.Sprintf("%.3f", l.PSI), mark)
	}
	if s.Test != nil {
		mark := ""
		switch {
		case s.Truths < l.Truths:
			mark = "too few truths"
		case s.Accuracy != nil && *s.Accuracy < *s.Test-l.AccuracyDrop:
			mark = "crossed"
		}
		line("accuracy", s.Truths, number(s.Accuracy), fmt.Sprintf("%.3f", *s.Test-l.AccuracyDrop), mark)
	}
	_ = w.Flush() // into memory
	return out.String()
}

// number is "-" for nothing.
func number(x *float64) string {
	if x == nil {
		return "-"
	}
	return fmt.Sprintf("%.3f", *x)
}

// Metrics is the state in Prometheus' text format; v is what limits say of it.
func Metrics(schema string, s State, v Verdict) ([]byte, error) {
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, append([]string{"schema", "model", "version"}, labels...))
	}
	psi := gauge("insitu_drift_psi", "Population stability index of the sampled predictions against the model's profile.", "kind", "feature")
	sampled := gauge("insitu_sampled_predictions", "Predictions in the sample.")
	accuracy := gauge("insitu_live_accuracy", "Share of the predictions with a known truth that were right; R2 of a regression.")
	truths := gauge("insitu_live_truths", "Predictions with a known truth.")
	crossed := gauge("insitu_drift_crossed", "1 if a limit is crossed.")
	of := []string{schema, s.Model, strconv.Itoa(s.Version)}
	for _, d := range s.Drift {
		if d.PSI != nil {
			psi.WithLabelValues(append(of, d.Kind, d.Name)...).Set(*d.PSI)
		}
	}
	sampled.WithLabelValues(of...).Set(float64(s.Rows()))
	truths.WithLabelValues(of...).Set(float64(s.Truths))
	if s.Accuracy != nil {
		accuracy.WithLabelValues(of...).Set(*s.Accuracy)
	}
	crossed.WithLabelValues(of...).Set(0)
	if v.Crossed {
		crossed.WithLabelValues(of...).Set(1)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(psi, sampled, accuracy, truths, crossed)
	families, err := registry.Gather()
	if err != nil {
		return nil, fmt.Errorf("metrics of schema %q: %w", schema, err)
	}
	var out bytes.Buffer
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(&out, f); err != nil {
			return nil, fmt.Errorf("metrics of schema %q: %w", schema, err)
		}
	}
	return out.Bytes(), nil
}
