package changelog

import (
	"strings"
	"testing"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/insitu-ml/insitu/internal/changelog/changelogtest"
	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/postgres"
)

func TestTheServerIsCheckedBeforeAnythingIsDeployed(t *testing.T) {
	t.Parallel()
	cfg := changelogtest.Database(t, changelogtest.Server(t))
	user := changelogtest.Role(t, cfg)
	sets := []Changeset{{SQL: "create function f() returns int language plpython3u as 'return 1'"}}
	check := func(as postgres.Config, pending []Changeset, want string) {
		t.Helper()
		c, err := postgres.Connect(t.Context(), as, postgres.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		err = checkServer(t.Context(), c, cfg.Database, pending, []string{"numpy"}, zap.NewNop())
		if want == "" && err != nil || want != "" && (err == nil || fault.Of(err) != fault.Configuration || !strings.Contains(err.Error(), want)) {
			t.Errorf("got %v, want a configuration error with %q", err, want)
		}
	}
	check(user, sets, "create extension plpython3u;")
	check(cfg, sets, "")
	check(user, sets, "is not a superuser")
	check(user, nil, "")
}

func TestFirstDeploymentsOfSeveralTenantsAtOnceCreateTheLanguageOnce(t *testing.T) {
	t.Parallel()
	cfg := changelogtest.Database(t, changelogtest.Server(t))
	const tenants = 4
	conns := make([]*postgres.Conn, tenants)
	for i := range conns {
		c, err := postgres.Connect(t.Context(), cfg, postgres.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conns[i] = c
	}
	var group errgroup.Group
	for _, c := range conns {
		group.Go(func() error { return createLanguage(t.Context(), c, cfg.Database) })
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
}

func TestMissingPythonPackagesAreNamed(t *testing.T) {
	t.Parallel()
	c, err := postgres.Connect(t.Context(), changelogtest.Database(t, changelogtest.Server(t)), postgres.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// The session's Python cannot import what it is told not to find.
	for _, sql := range []string{"create extension plpython3u", "do language plpython3u $$import sys; sys.modules['onnx'] = None$$"} {
		if _, err := c.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	err = checkModules(t.Context(), c, []string{"numpy", "onnx"}, zap.NewNop())
	if err == nil || fault.Of(err) != fault.Configuration || !strings.Contains(err.Error(), "cannot import onnx;") {
		t.Errorf("got %v", err)
	}
}
