package status

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/insitu-ml/insitu/internal/fault"
)

// ErrNoCluster says that nothing names a cluster: no kubeconfig, and this is no pod.
var ErrNoCluster = errors.New("no kubeconfig names a Kubernetes cluster")

const (
	// shownRuns is how many of the newest runs are shown.
	shownRuns = 5
	// listed is how many objects of a kind are looked at.
	listed = 500
)

// Cluster is a namespace of a Kubernetes cluster, asked over its API.
type Cluster struct {
	Namespace string
	server    *url.URL
	client    *http.Client
}

// NewCluster reads kubectl's settings; an empty kubeconfig is the file, or files, that kubectl would take.
// An empty namespace is the context's.
func NewCluster(kubeconfig, namespace string) (*Cluster, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = kubeconfig
	overrides := &clientcmd.ConfigOverrides{}
	overrides.Context.Namespace = namespace
	settings := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, overrides)
	config, err := settings.ClientConfig()
	if clientcmd.IsEmptyConfig(err) {
		return nil, ErrNoCluster
	}
	if err != nil {
		return nil, fault.AsConfiguration(fmt.Errorf("kubeconfig: %w", err))
	}
	c := &Cluster{}
	if c.Namespace, _, err = settings.Namespace(); err != nil {
		return nil, fault.AsConfiguration(fmt.Errorf("kubeconfig: %w", err))
	}
	if c.client, err = rest.HTTPClientFor(config); err != nil {
		return nil, fault.AsConfiguration(fmt.Errorf("kubeconfig: %w", err))
	}
	if c.server, _, err = rest.DefaultServerUrlFor(config); err != nil {
		return nil, fault.AsConfiguration(fmt.Errorf("kubeconfig: %w", err))
	}
	return c, nil
}

func (c *Cluster) String() string {
	return fmt.Sprintf("Namespace %s of the Kubernetes cluster at %s", c.Namespace, c.server)
}

// answer is what the API server said that is no object: its status and message.
type answer struct {
	status  int
	message string
}

func (a answer) Error() string { return fmt.Sprintf("status %d: %s", a.status, a.message) }

func answered(err error, status int) bool {
	var a answer
	return errors.As(err, &a) && a.status == status
}

// address is a path of the API server, which may be below one of its own.
func (c *Cluster) address(path string) string {
	return strings.TrimSuffix(c.server.String(), "/") + path
}

// get reads one object or list; accept is its form.
func (c *Cluster) get(ctx context.Context, path, accept string, out any) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.address(path), nil)
	if err != nil {
		return err
	}
	request.Header.Set("Accept", accept)
	reply, err := c.client.Do(request)
	if err != nil {
		return err
	}
	defer reply.Body.Close()
	body, err := io.ReadAll(io.LimitReader(reply.Body, maxReply))
	if err != nil {
		return err
	}
	if reply.StatusCode != http.StatusOK {
		var said struct{ Message string }
		_ = json.Unmarshal(body, &said)
		return answer{reply.StatusCode, line(said.Message)}
	}
	return json.Unmarshal(body, out)
}

const (
	whole = "application/json"
	// metadataOnly spares the bodies of workflows, which may be a megabyte each.
	metadataOnly = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
)

// named is a path below the namespace: group and version, kind in the plural, query.
func (c *Cluster) named(group, rest string) string {
	return group + "/namespaces/" + url.PathEscape(c.Namespace) + "/" + rest
}

type metadata struct {
	Name              string
	Labels            map[string]string
	CreationTimestamp time.Time
}

type deployment struct {
	Metadata metadata
	Spec     struct {
		Replicas *int
		Template struct {
			Spec struct{ Containers []struct{ Image string } }
		}
	}
	Status struct{ ReadyReplicas int }
}

type service struct {
	Metadata metadata
	Spec     struct{ Ports []struct{ Port int } }
	Status   struct {
		LoadBalancer struct {
			Ingress []struct{ IP, Hostname string }
		}
	}
}

// Installed is what the chart made in the namespace.
type Installed struct {
	cluster     *Cluster
	deployments map[string]deployment // by component
	services    map[string]service
	forbidden   string // why the Deployments cannot be listed
	// Bindings are the files of the service bindings that the pipelines mount, by the binding's name.
	Bindings map[string]map[string][]byte
	problems map[string]string // why a binding cannot be read
}

// Look reads what is installed. A cluster that does not answer is an error; what one may not see is none.
func (c *Cluster) Look(ctx context.Context) (*Installed, error) {
	in := &Installed{cluster: c, deployments: map[string]deployment{}, services: map[string]service{}, Bindings: map[string]map[string][]byte{}, problems: map[string]string{}}
	query := "?labelSelector=" + url.QueryEscape("app.kubernetes.io/part-of=insitu")
	var deployments struct{ Items []deployment }
	err := c.get(ctx, c.named("/apis/apps/v1", "deployments"+query), whole, &deployments)
	switch {
	case answered(err, http.StatusForbidden):
		in.forbidden = "no right to list deployments"
	case answered(err, http.StatusUnauthorized):
		return nil, fault.AsConfiguration(fmt.Errorf("the Kubernetes API at %s knows the kubeconfig's user no more: log in again: %w", c.server, err))
	case err != nil:
		return nil, fault.AsTemporary(fmt.Errorf("the Kubernetes API at %s does not answer: %w; insitu status --local is about this machine", c.server, err))
	}
	for _, d := range deployments.Items {
		in.deployments[d.Metadata.Labels["app.kubernetes.io/component"]] = d
	}
	var services struct{ Items []service }
	if c.get(ctx, c.named("/api/v1", "services"+query), whole, &services) == nil {
		for _, s := range services.Items {
			in.services[s.Metadata.Labels["app.kubernetes.io/component"]] = s
		}
	}
	in.readBindings(ctx)
	return in, nil
}

// readBindings finds the Secrets by what the pipelines mount.
func (in *Installed) readBindings(ctx context.Context) {
	secrets := map[string]string{"training": "insitu-training", "inference": "insitu-inference", "mlflow": "insitu-mlflow"}
	var template struct {
		Spec struct {
			Templates []struct {
				Volumes []struct {
					Name   string
					Secret *struct{ SecretName string }
				}
			}
		}
	}
	if in.cluster.get(ctx, in.cluster.named("/apis/argoproj.io/v1alpha1", "workflowtemplates/deploy-inference-db"), whole, &template) == nil {
		for _, t := range template.Spec.Templates {
			for _, v := range t.Volumes {
				if v.Secret != nil && secrets[v.Name] != "" {
					secrets[v.Name] = v.Secret.SecretName
				}
			}
		}
	}
	for name, secret := range secrets {
		var files struct{ Data map[string][]byte }
		err := in.cluster.get(ctx, in.cluster.named("/api/v1", "secrets/"+url.PathEscape(secret)), whole, &files)
		switch {
		case err == nil:
			in.Bindings[name] = files.Data
		case answered(err, http.StatusForbidden):
			in.problems[name] = "no right to read Secret " + secret
		case answered(err, http.StatusNotFound):
			in.problems[name] = "there is no Secret " + secret
		default:
			in.problems[name] = line(err.Error())
		}
	}
}

// Missing says why a service binding is not among Bindings.
func (in *Installed) Missing(binding string) string { return in.problems[binding] }

// deployed is what the Deployment of a component says; false: there is none.
func (in *Installed) deployed(part, component string) (Part, bool) {
	p := Part{Part: part}
	d, ok := in.deployments[component]
	if !ok {
		p.State = Absent
		if in.forbidden != "" {
			p.State, p.Detail = Unknown, in.forbidden
		}
		return p, false
	}
	want := 1
	if d.Spec.Replicas != nil {
		want = *d.Spec.Replicas
	}
	p.Name, p.State, p.Detail = d.Metadata.Name, Ready, fmt.Sprintf("%d of %d pods ready", d.Status.ReadyReplicas, want)
	if d.Status.ReadyReplicas < max(want, 1) {
		p.State = NotReady
	}
	if containers := d.Spec.Template.Spec.Containers; len(containers) > 0 {
		image := containers[0].Image
		p.Version = image[strings.LastIndexAny(image, "/")+1:]
	}
	if s, ok := in.services[component]; ok && len(s.Spec.Ports) > 0 {
		host := fmt.Sprintf("%s.%s.svc", s.Metadata.Name, in.cluster.Namespace)
		for _, outside := range s.Status.LoadBalancer.Ingress {
			host = cmp.Or(outside.Hostname, outside.IP, host)
		}
		scheme := "http"
		if part == Training || part == Inference {
			scheme = "postgresql"
		}
		p.URL = fmt.Sprintf("%s://%s:%d", scheme, host, s.Spec.Ports[0].Port)
	}
	return p, true
}

// site is a Service of the chart, asked through the API server.
func (in *Installed) site(component string) (Site, bool) {
	s, ok := in.services[component]
	if !ok {
		return Site{}, false
	}
	path := in.cluster.named("/api/v1", fmt.Sprintf("services/http:%s:http/proxy", url.PathEscape(s.Metadata.Name)))
	return Site{Client: in.cluster.client, URL: in.cluster.address(path)}, true
}

// service is a part that the chart runs, asked itself where the API server lets us try path.
func (in *Installed) service(ctx context.Context, part, component, path string, check func(context.Context, Site, Part) Part) (Part, bool) {
	p, ok := in.deployed(part, component)
	if !ok || p.State != Ready {
		return p, ok
	}
	site, ok := in.site(component)
	if !ok {
		return p, true
	}
	if status, _, err := site.get(ctx, path); err != nil || status == http.StatusForbidden {
		return p, true // no right to ask through the API server; the pods' own probes say ready
	}
	return check(ctx, site, p), true
}

// API is the inference API.
func (in *Installed) API(ctx context.Context) Part {
	p, _ := in.service(ctx, API, "api", "/healthz", CheckAPI)
	return p
}

// PgAdmin is the chart's pgAdmin.
func (in *Installed) PgAdmin(ctx context.Context) Part {
	p, _ := in.service(ctx, PgAdmin, "pgadmin", "/misc/ping", CheckPgAdmin)
	return p
}

// MLflow is the chart's MLflow for a first try; false: it runs none.
func (in *Installed) MLflow(ctx context.Context) (Part, bool) {
	return in.service(ctx, MLflow, "dev-mlflow", "/version", CheckMLflow)
}

// Database is the chart's database for a first try, of the binding of that name; false: it runs none.
func (in *Installed) Database(part, binding string) (Part, bool) {
	return in.deployed(part, "dev-"+binding)
}

// parameter is one of a workflow.
type parameter struct {
	Name  string
	Value any
}

func value(list []parameter, name string) string {
	for _, p := range list {
		if p.Name == name && p.Value != nil {
			return fmt.Sprint(p.Value)
		}
	}
	return ""
}

type workflow struct {
	Metadata metadata
	Spec     struct {
		WorkflowTemplateRef struct{ Name string }
		Arguments           struct{ Parameters []parameter }
	}
	Status struct {
		Phase, Message, Progress string
		StartedAt, FinishedAt    *time.Time
		Nodes                    map[string]struct {
			Outputs struct{ Parameters []parameter }
		}
	}
}

// pipelines is how the names of the pipelines' WorkflowTemplates begin.
const pipelines = "in-database-pipeline"

// mayBePipeline tells by the labels: of argo submit, of the App CR, of a schedule.
func mayBePipeline(labels map[string]string) bool {
	return strings.HasPrefix(labels["workflows.argoproj.io/workflow-template"], pipelines) ||
		labels["app.kubernetes.io/part-of"] == "insitu" || labels["workflows.argoproj.io/cron-workflow"] != ""
}

// Runs are the newest pipeline runs, the newest first; one row says so if there are none.
func (c *Cluster) Runs(ctx context.Context) []Part {
	var list struct{ Items []struct{ Metadata metadata } }
	err := c.get(ctx, c.named("/apis/argoproj.io/v1alpha1", fmt.Sprintf("workflows?limit=%d", listed)), metadataOnly, &list)
	if err != nil {
		return []Part{unseen(Run, "workflows", "Argo Workflows is not installed", err)}
	}
	slices.SortFunc(list.Items, func(a, b struct{ Metadata metadata }) int {
		return b.Metadata.CreationTimestamp.Compare(a.Metadata.CreationTimestamp)
	})
	var runs []Part
	for _, item := range list.Items {
		if len(runs) == shownRuns || ctx.Err() != nil {
			break
		}
		if !mayBePipeline(item.Metadata.Labels) {
			continue
		}
		var w workflow
		if err := c.get(ctx, c.named("/apis/argoproj.io/v1alpha1", "workflows/"+url.PathEscape(item.Metadata.Name)), whole, &w); err != nil {
			if !answered(err, http.StatusNotFound) { // deleted meanwhile
				runs = append(runs, Part{Part: Run, Name: item.Metadata.Name, State: Unknown, Detail: line(err.Error())})
			}
			continue
		}
		if strings.HasPrefix(w.Spec.WorkflowTemplateRef.Name, pipelines) {
			runs = append(runs, w.part())
		}
	}
	if len(runs) == 0 {
		runs = []Part{{Part: Run, State: Absent, Detail: "no pipeline has run in this namespace, or its workflow is deleted"}}
	}
	return runs
}

func (w *workflow) part() Part {
	p := Part{Part: Run, Name: w.Metadata.Name, State: cmp.Or(w.Status.Phase, "Pending"), SHA: cmp.Or(value(w.Spec.Arguments.Parameters, "git-sha"), w.Metadata.Labels["insitu/git-sha"])}
	var began, ended time.Time
	if w.Status.StartedAt != nil {
		began = *w.Status.StartedAt
	}
	if w.Status.FinishedAt != nil {
		ended = *w.Status.FinishedAt
	}
	outputs := w.Status.Nodes[w.Metadata.Name].Outputs.Parameters
	model := value(outputs, "model-name")
	if model != "" {
		model += " version " + value(outputs, "model-version")
	}
	passed := map[string]string{"true": "passed", "false": "did not pass"}[value(outputs, "passed")]
	progress := ""
	if ended.IsZero() {
		progress = w.Status.Progress
	}
	p.Detail = join(model, passed, w.Status.Message, progress, When(began, ended))
	return p
}

// unseen is the row of a kind that cannot be listed.
func unseen(part, kind, absent string, err error) Part {
	switch {
	case answered(err, http.StatusNotFound):
		return Part{Part: part, State: Absent, Detail: absent}
	case answered(err, http.StatusForbidden):
		return Part{Part: part, State: Unknown, Detail: "no right to list " + kind}
	}
	return Part{Part: part, State: Unknown, Detail: line(err.Error())}
}

type app struct {
	Metadata metadata
	Spec     struct {
		Fetch []struct{ Git *struct{ URL string } }
	}
	Status struct {
		FriendlyDescription, UsefulErrorMessage string
		Conditions                              []struct{ Type, Status string }
		Fetch                                   struct{ Stdout string }
	}
}

// Apps are the App CRs; one row says so if there are none.
func (c *Cluster) Apps(ctx context.Context) []Part {
	var list struct{ Items []app }
	err := c.get(ctx, c.named("/apis/kappctrl.k14s.io/v1alpha1", fmt.Sprintf("apps?limit=%d", listed)), whole, &list)
	if err != nil {
		return []Part{unseen(App, "apps", "kapp-controller is not installed", err)}
	}
	if len(list.Items) == 0 {
		return []Part{{Part: App, State: Absent, Detail: "no App in this namespace"}}
	}
	var apps []Part
	for _, a := range list.Items {
		apps = append(apps, a.part())
	}
	return apps
}

func (a *app) part() Part {
	p := Part{Part: App, Name: a.Metadata.Name, State: "Pending", Detail: join(a.Status.FriendlyDescription, a.Status.UsefulErrorMessage)}
	for _, c := range a.Status.Conditions {
		if c.Status == "True" {
			p.State = cmp.Or(map[string]string{"ReconcileSucceeded": "Succeeded", "ReconcileFailed": "Failed", "Reconciling": "Running", "Deleting": "Running", "DeleteFailed": "Failed"}[c.Type], p.State)
		}
	}
	for _, f := range a.Spec.Fetch {
		if f.Git == nil {
			continue
		}
		p.URL = f.Git.URL
		if u, err := url.Parse(f.Git.URL); err == nil && u.User != nil {
			u.User = nil
			p.URL = u.String()
		}
		if found := regexp.MustCompile(`\bsha: ([0-9a-f]{40})\b`).FindStringSubmatch(a.Status.Fetch.Stdout); found != nil {
			p.SHA = found[1]
		}
	}
	return p
}

// Together runs the checks side by side and returns their parts in order.
func Together(checks ...func() []Part) []Part {
	parts := make([][]Part, len(checks))
	var wg sync.WaitGroup
	for i, check := range checks {
		wg.Go(func() { parts[i] = check() })
	}
	wg.Wait()
	return slices.Concat(parts...)
}
