package step

import (
	"crypto/rand"
	"net/url"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/insitu-ml/insitu/internal/lineage"
)

// catalogConfig reads which data catalogs are told what steps do, by the variables that OpenLineage's and DataHub's own
// clients read, and what of them must not be shown.
func catalogConfig(env Env) (c lineage.Config, secrets []string) {
	read := func(name string) string { value, _ := env.LookupEnv(name); return value }
	c = lineage.Config{
		OpenLineage: read("OPENLINEAGE_URL"), OpenLineageEndpoint: read("OPENLINEAGE_ENDPOINT"), OpenLineageKey: read("OPENLINEAGE_API_KEY"),
		DataHub: read("DATAHUB_GMS_URL"), DataHubToken: read("DATAHUB_GMS_TOKEN"),
	}
	secrets = []string{c.OpenLineageKey, c.DataHubToken}
	for _, address := range []string{c.OpenLineage, c.DataHub} {
		if u, err := url.Parse(address); err == nil {
			if password, ok := u.User.Password(); ok {
				secrets = append(secrets, password)
			}
		}
	}
	return c, secrets
}

// catalogs tells the data catalogs what the step does. Until it is opened, and when none is configured, it does nothing.
// Nothing that becomes of it changes how the step ends.
type catalogs struct {
	run  lineage.Run
	red  *redactor
	in   *Input
	list *lineage.Catalogs
}

// open tells that the step started.
func (c *catalogs) open(config lineage.Config, env Env, in *Input) {
	if !config.Enabled() {
		return
	}
	c.in = in
	c.list = lineage.Open(config, func(catalog string, err error) {
		in.Log.Warn("data catalog not told", zap.String("catalog", catalog), zap.Error(err))
	})
	c.run.Namespace, _ = lookup(env, "OPENLINEAGE_NAMESPACE", "insitu")
	c.run.Pipeline = in.settings["pipeline"].text
	c.run.Workflow.Name, _ = lookup(env, workflowEnv, "")
	c.run.Workflow.UID, _ = lookup(env, workflowUIDEnv, "")
	c.run.Settings = map[string]string{}
	for name, s := range in.settings {
		if s.source != "" && !s.flag.Secret && s.flag.Category != everyStep && name != "work-dir" { // those say nothing of what is done
			c.run.Settings[name] = c.red.text(s.text)
		}
	}
	c.run.ID = runID(c.run)
	c.tell(lineage.Start)
}

// runID is the same for all attempts of one step of a workflow: those of a sweep differ in their settings.
func runID(r lineage.Run) string {
	if r.Workflow.UID == "" {
		return lineage.UUID(rand.Text())
	}
	text := r.Workflow.UID + "\n" + r.Step
	var names []string
	for name := range r.Settings {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		text += "\n" + name + "=" + r.Settings[name]
	}
	return lineage.UUID(text)
}

func (c *catalogs) tell(s lineage.State) {
	c.run.State = s
	c.list.Report(c.run)
}

// end adds what is known by now.
func (c *catalogs) end() {
	c.run.Ended = time.Now()
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	c.run.Reads, c.run.Writes = slices.Clone(c.in.reads), slices.Clone(c.in.writes)
}

func (c *catalogs) done() {
	if c.list == nil {
		return
	}
	c.end()
	c.run.Outputs = map[string]string{}
	for _, o := range c.in.spec.Outputs {
		if o.File == "" {
			c.run.Outputs[o.Name] = c.red.text(string(c.in.outputs[o.Name]))
		}
	}
	c.tell(lineage.Complete)
}

func (c *catalogs) failed(text string) {
	if c.list == nil {
		return
	}
	c.end()
	c.run.Error = text
	c.tell(lineage.Fail)
}

// close waits a moment until all is told, see lineage.Wait.
func (c *catalogs) close() {
	if c.list != nil {
		c.list.Close()
	}
}
