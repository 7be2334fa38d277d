package deploytrainingcode

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"

	"github.com/insitu-ml/insitu/internal/dataset"
	"github.com/insitu-ml/insitu/internal/mlapp"
	"github.com/insitu-ml/insitu/internal/objectstore"
	"github.com/insitu-ml/insitu/internal/services"
	"github.com/insitu-ml/insitu/internal/step"
)

// maxApp bounds a packed ML app, in bytes.
const maxApp = 64 << 20

// storeFlags are those of the object store, none of them required: most apps come from elsewhere.
func storeFlags() []step.Flag {
	flags := slices.Clone(services.S3Flags())
	for i := range flags {
		flags[i].Required = false
	}
	return flags
}

// source is where the app is and what opens it.
type source struct {
	location, workDir string
	store             services.S3Config
}

func (s source) inStore() bool { return strings.HasPrefix(strings.ToLower(s.location), "s3:") }

// check says what is missing before anything is opened.
func (s source) check() error {
	if !s.inStore() {
		return nil
	}
	if s.store.Endpoint == "" || s.store.AccessKeyID == "" || s.store.SecretAccessKey == "" {
		return errors.New("--app is an object of S3: expected --s3-endpoint, --s3-access-key-id and the secret key, or a service binding of type s3")
	}
	return s.store.Check()
}

// load reads the app, lets check refuse it, and returns it as a release without an ordinal.
func (s source) load(ctx context.Context, check func(*mlapp.Manifest) error) (release, error) {
	app, err := mlapp.Open(ctx, s.location, s.fetch)
	if err != nil {
		return release{}, err
	}
	if err := check(&app.Manifest); err != nil {
		return release{}, err
	}
	bundle, err := app.Bundle()
	if err != nil {
		return release{}, err
	}
	manifest, err := app.ManifestJSON()
	if err != nil {
		return release{}, err
	}
	return release{app: app.Manifest.Name, digest: app.Digest, manifest: manifest, bundle: bundle}, nil
}

// fetch opens a packed app that is not on this machine.
func (s source) fetch(ctx context.Context, location string) (io.ReadCloser, error) {
	o := dataset.FetchOptions{WorkDir: s.workDir, MaxBytes: maxApp}
	if s.inStore() {
		store, err := objectstore.New(objectstore.Config(s.store))
		if err != nil {
			return nil, err
		}
		o.Objects = store
	}
	file, err := dataset.Fetch(ctx, location, o)
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(file, 0, file.Size), file}, nil
}
