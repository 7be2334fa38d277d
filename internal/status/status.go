// Package status says what runs where: pipeline runs, the App CR, the API, pgAdmin, MLflow and the databases.
//
// It looks from outside and changes nothing. A part that does not answer in time is a row that says so.
// It reads no service bindings: callers say where databases and services are.
package status

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// States of parts. Runs and Apps have Argo's words instead: Pending, Running, Succeeded, Failed, Error.
const (
	Ready    = "ready"
	NotReady = "not ready"
	Absent   = "not there" // optional, and not installed or not started
	Unknown  = "unknown"   // cannot be told from here: no right to look, or no way there
)

// Part is one thing that runs, or one run.
type Part struct {
	Part    string `json:"part"` // run, app, api, pgadmin, mlflow, training database, inference database
	Name    string `json:"name"`
	State   string `json:"state"`
	Version string `json:"version"`
	SHA     string `json:"sha,omitempty"` // commit of the ML app, of runs and Apps
	URL     string `json:"url"`           // without passwords
	Detail  string `json:"detail"`
}

// Names of parts.
const (
	Run       = "run"
	App       = "app"
	API       = "api"
	PgAdmin   = "pgadmin"
	MLflow    = "mlflow"
	Training  = "training database"
	Inference = "inference database"
)

// Report is what `insitu status -o json` prints.
type Report struct {
	Where string `json:"where"` // Kubernetes, or this machine
	Parts []Part `json:"parts"`
}

// Well says that everything that is there is ready, and that neither the newest run nor an App failed.
// Runs are in order, the newest first.
func (r Report) Well() bool {
	newest := true
	for _, p := range r.Parts {
		failed := p.State == "Failed" || p.State == "Error"
		if p.State == NotReady || failed && (p.Part != Run || newest) {
			return false
		}
		newest = newest && p.Part != Run
	}
	return true
}

// shownSHA is how much of a commit the table shows.
const shownSHA = 12

// Write prints the table.
func (r Report) Write(out io.Writer) error {
	fmt.Fprintln(out, r.Where)
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "PART\tNAME\tSTATE\tVERSION\tURL\tDETAIL")
	for _, p := range r.Parts {
		version := p.Version
		if p.SHA != "" {
			version = p.SHA[:min(len(p.SHA), shownSHA)]
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", p.Part, dash(p.Name), p.State, dash(version), dash(p.URL), dash(p.Detail))
	}
	return table.Flush()
}

func dash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// maxDetail is how much of a message is shown, in bytes.
const maxDetail = 160

// line is a text in one line of limited length.
func line(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > maxDetail {
		text = strings.ToValidUTF8(text[:maxDetail], "") + "..."
	}
	return text
}

// When says when something began and how long it took, or that it goes on.
func When(began, ended time.Time) string {
	if began.IsZero() {
		return ""
	}
	text := began.UTC().Format("2006-01-02 15:04:05") + " UTC"
	if !ended.IsZero() {
		text += ", took " + ended.Sub(began).Round(time.Second).String()
	}
	return text
}

// join puts texts that are there into one detail.
func join(texts ...string) string {
	var there []string
	for _, t := range texts {
		if t != "" {
			there = append(there, t)
		}
	}
	return line(strings.Join(there, "; "))
}
