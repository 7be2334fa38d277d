package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/insitu-ml/insitu/internal/fault"
)

// ModelVersion is one version of a registered model.
type ModelVersion struct {
	Name    string
	Version int
	RunID   string
	Source  string // where its artifacts are
	Status  string // READY when it can be used
	Stage   string // None, Staging, Production, Archived; "" where the server has no stages
	Aliases []string
	Tags    map[string]string
	Created time.Time
}

type wireVersion struct {
	Name    string   `json:"name"`
	Version string   `json:"version"`
	RunID   string   `json:"run_id"`
	Source  string   `json:"source"`
	Status  string   `json:"status"`
	Stage   string   `json:"current_stage"`
	Aliases []string `json:"aliases"`
	Tags    []pair   `json:"tags"`
	Created int64    `json:"creation_timestamp"`
}

func (w wireVersion) version() (ModelVersion, error) {
	n, err := strconv.Atoi(w.Version)
	if err != nil {
		return ModelVersion{}, fault.AsPermanent(fmt.Errorf("model %q: MLflow sent version %q; expected a number", w.Name, w.Version))
	}
	return ModelVersion{
		Name: w.Name, Version: n, RunID: w.RunID, Source: w.Source, Status: w.Status, Stage: w.Stage,
		Aliases: w.Aliases, Tags: unpair(w.Tags), Created: time.UnixMilli(w.Created).UTC(),
	}, nil
}

// EnsureModel creates the registered model unless it exists.
func (c *Client) EnsureModel(ctx context.Context, name string) error {
	_, err := ensure(ctx, c, func() (bool, bool, error) {
		err := c.call(ctx, fmt.Sprintf("get model %q", name), http.MethodGet, "registered-models/get", url.Values{"name": {name}}, nil)
		if errors.Is(err, ErrNotFound) {
			return false, false, nil
		}
		return true, err == nil, err
	}, func() (bool, error) {
		err := c.json(ctx, request{doing: fmt.Sprintf("create model %q", name), method: http.MethodPost, path: "registered-models/create", once: true},
			map[string]any{"name": name}, nil)
		return true, err
	})
	return err
}

// ClaimModel gives the registered model a tag unless it has another value already, and returns the value it has.
// A model that does not exist is created with the tag in one call: of two that claim it at once, one gets it.
func (c *Client) ClaimModel(ctx context.Context, name, key, value string) (string, error) {
	type model struct {
		Tags []pair `json:"tags"`
	}
	get := func() (model, bool, error) {
		var out struct {
			Model model `json:"registered_model"`
		}
		err := c.call(ctx, fmt.Sprintf("get model %q", name), http.MethodGet, "registered-models/get", url.Values{"name": {name}}, &out)
		if errors.Is(err, ErrNotFound) {
			return model{}, false, nil
		}
		return out.Model, err == nil, err
	}
	found, err := ensure(ctx, c, get, func() (model, error) {
		tags := []pair{{key, value}}
		err := c.json(ctx, request{doing: fmt.Sprintf("create model %q", name), method: http.MethodPost, path: "registered-models/create", once: true},
			map[string]any{"name": name, "tags": tags}, nil)
		return model{tags}, err
	})
	if err != nil {
		return "", err
	}
	if has := unpair(found.Tags)[key]; has != "" {
		return has, nil
	}
	if err := c.call(ctx, fmt.Sprintf("set tag %q of model %q", key, name), http.MethodPost, "registered-models/set-tag",
		map[string]any{"name": name, "key": key, "value": value}, nil); err != nil {
		return "", err
	}
	found, _, err = get() // the last of two that set it at once has it
	return unpair(found.Tags)[key], err
}

// ModelVersions returns the versions of a model that carry all tags, the lowest number first; none if there is no such model.
func (c *Client) ModelVersions(ctx context.Context, name string, tags map[string]string) ([]ModelVersion, error) {
	quoted, err := quote(name)
	if err != nil {
		return nil, err
	}
	filter := "name = " + quoted
	if len(tags) > 0 {
		terms, err := tagFilter(tags)
		if err != nil {
			return nil, err
		}
		filter += " and " + terms
	}
	var versions []ModelVersion
	for token := ""; ; {
		var out struct {
			Versions []wireVersion `json:"model_versions"`
			Token    string        `json:"next_page_token"`
		}
		query := url.Values{"filter": {filter}, "max_results": {strconv.Itoa(pageSize)}}
		if token != "" {
			query.Set("page_token", token)
		}
		if err := c.call(ctx, fmt.Sprintf("search versions with %s", filter), http.MethodGet, "model-versions/search", query, &out); err != nil {
			return nil, err
		}
		for _, w := range out.Versions {
			v, err := w.version()
			if err != nil {
				return nil, err
			}
			versions = append(versions, v)
		}
		if token = out.Token; token == "" {
			slices.SortFunc(versions, func(a, b ModelVersion) int { return a.Version - b.Version })
			return versions, nil
		}
	}
}

// ModelVersion returns one version; ErrNotFound if there is none.
func (c *Client) ModelVersion(ctx context.Context, name string, version int) (ModelVersion, error) {
	return c.getVersion(ctx, fmt.Sprintf("get model %q version %d", name, version), "model-versions/get",
		url.Values{"name": {name}, "version": {strconv.Itoa(version)}})
}

// Alias returns the version that holds an alias; ErrNotFound if none does.
func (c *Client) Alias(ctx context.Context, name, alias string) (ModelVersion, error) {
	v, err := c.getVersion(ctx, fmt.Sprintf("get alias %q of model %q", alias, name), "registered-models/alias", url.Values{"name": {name}, "alias": {alias}})
	if hasCode(err, "INVALID_PARAMETER_VALUE") { // MLflow's answer for an alias that the model does not have
		err = fmt.Errorf("%w: %w", err, ErrNotFound)
	}
	return v, err
}

func (c *Client) getVersion(ctx context.Context, doing, path string, query url.Values) (ModelVersion, error) {
	var out struct {
		Version wireVersion `json:"model_version"`
	}
	if err := c.call(ctx, doing, http.MethodGet, path, query, &out); err != nil {
		return ModelVersion{}, err
	}
	return out.Version.version()
}

// EnsureModelVersion returns the lowest version of the model whose tag key has the value tags[key];
// it registers artifact path of the run, with all tags, unless there is one. created says that this call asked for it.
func (c *Client) EnsureModelVersion(ctx context.Context, name string, run Run, path, key string, tags map[string]string) (v ModelVersion, created bool, err error) {
	if err := c.EnsureModel(ctx, name); err != nil {
		return ModelVersion{}, false, err
	}
	v, err = ensure(ctx, c, func() (ModelVersion, bool, error) {
		versions, err := c.ModelVersions(ctx, name, map[string]string{key: tags[key]})
		if err != nil || len(versions) == 0 {
			return ModelVersion{}, false, err
		}
		return versions[0], true, nil
	}, func() (ModelVersion, error) {
		created = true
		var out struct {
			Version wireVersion `json:"model_version"`
		}
		err := c.json(ctx, request{doing: fmt.Sprintf("register a version of model %q", name), method: http.MethodPost, path: "model-versions/create", once: true}, map[string]any{
			"name": name, "source": run.ArtifactURI + "/" + path, "run_id": run.ID, "tags": pairs(tags),
		}, &out)
		if err != nil {
			return ModelVersion{}, err
		}
		return out.Version.version()
	})
	return v, created && err == nil, err
}

// SetVersionTag sets one tag of a version.
func (c *Client) SetVersionTag(ctx context.Context, name string, version int, key, value string) error {
	return c.call(ctx, fmt.Sprintf("set tag %q of model %q version %d", key, name, version), http.MethodPost, "model-versions/set-tag",
		map[string]any{"name": name, "version": strconv.Itoa(version), "key": key, "value": value}, nil)
}

// SetAlias moves an alias to one version, in one call: no moment passes without a holder.
func (c *Client) SetAlias(ctx context.Context, name, alias string, version int) error {
	return c.call(ctx, fmt.Sprintf("set alias %q of model %q to version %d", alias, name, version), http.MethodPost, "registered-models/alias",
		map[string]any{"name": name, "alias": alias, "version": strconv.Itoa(version)}, nil)
}

// DeleteAlias takes an alias away from whoever holds it; that nobody does is no error.
func (c *Client) DeleteAlias(ctx context.Context, name, alias string) error {
	err := c.call(ctx, fmt.Sprintf("delete alias %q of model %q", alias, name), http.MethodDelete, "registered-models/alias",
		map[string]any{"name": name, "alias": alias}, nil)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// FollowAlias gives a version the legacy stage that has the alias's name, if there is one and the version has another.
// supported is false where the server has no stages any more.
func (c *Client) FollowAlias(ctx context.Context, v ModelVersion, alias string) (supported bool, err error) {
	stage := map[string]string{"staging": "Staging", "production": "Production"}[strings.ToLower(alias)]
	if stage == "" || v.Stage == stage {
		return true, nil
	}
	return c.TransitionStage(ctx, v.Name, v.Version, stage)
}

// TransitionStage sets the legacy stage of a version (Staging, Production, Archived, None) and archives
// the other holders of that stage. supported is false where the server has no stages any more.
func (c *Client) TransitionStage(ctx context.Context, name string, version int, stage string) (supported bool, err error) {
	err = c.call(ctx, fmt.Sprintf("move model %q version %d to stage %q", name, version, stage), http.MethodPost, "model-versions/transition-stage",
		map[string]any{"name": name, "version": strconv.Itoa(version), "stage": stage, "archive_existing_versions": stage == "Staging" || stage == "Production"}, nil)
	var e *apiError
	if errors.As(err, &e) && (e.code == "" || e.code == "ENDPOINT_NOT_FOUND" || e.code == "NOT_IMPLEMENTED") &&
		(e.status == http.StatusNotFound || e.status == http.StatusMethodNotAllowed || e.status == http.StatusGone || e.status == http.StatusNotImplemented) {
		return false, nil
	}
	return err == nil, err
}

// CheckAlias refuses names of aliases that MLflow refuses.
func CheckAlias(name string) error {
	if !regexp.MustCompile(`^[A-Za-z0-9_-]{1,255}$`).MatchString(name) || regexp.MustCompile(`^(?i:v[0-9]+|latest)$`).MatchString(name) {
		return fmt.Errorf("--alias is %q, expected letters, digits, %q and %q, and neither %q nor a version like %q", name, "_", "-", "latest", "v1")
	}
	return nil
}
