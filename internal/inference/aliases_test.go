package inference

import (
	"context"
	"maps"
	"strconv"

	"github.com/insitu-ml/insitu/internal/registry"
)

// aliases is the registry of one alias and one model.
type aliases struct {
	at    int
	tags  map[string]string // of every version
	stage string            // what followed the alias last
	fail  map[string]error  // by method
}

func (a *aliases) ModelVersion(_ context.Context, name string, version int) (registry.ModelVersion, error) {
	return registry.ModelVersion{Name: name, Version: version, Tags: maps.Clone(a.tags)}, a.fail["ModelVersion"]
}

func (a *aliases) Alias(ctx context.Context, name, _ string) (registry.ModelVersion, error) {
	if err := a.fail["Alias"]; err != nil {
		return registry.ModelVersion{}, err
	}
	if a.at == 0 {
		return registry.ModelVersion{}, registry.ErrNotFound
	}
	return a.ModelVersion(ctx, name, a.at)
}

func (a *aliases) SetAlias(_ context.Context, _, _ string, version int) error {
	if err := a.fail["SetAlias"]; err != nil {
		return err
	}
	a.at = version
	return nil
}

func (a *aliases) DeleteAlias(context.Context, string, string) error {
	a.at = 0
	return a.fail["DeleteAlias"]
}

func (a *aliases) FollowAlias(_ context.Context, v registry.ModelVersion, alias string) (bool, error) {
	a.stage = alias + " " + strconv.Itoa(v.Version)
	return true, a.fail["FollowAlias"]
}
