package registry

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strings"

	"github.com/insitu-ml/insitu/internal/fault"
)

// UploadArtifact stores content under path below the run's artifacts, over what was there.
func (c *Client) UploadArtifact(ctx context.Context, run Run, path string, content []byte) error {
	doing := fmt.Sprintf("upload artifact %q of run %q", path, run.ID)
	target, err := artifactPath(run.ArtifactURI, path)
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	_, err = c.send(ctx, request{
		doing: doing, method: http.MethodPut, path: target, body: content,
		typ: "application/octet-stream", timeout: transferTimeout, limit: maxReply,
	})
	return err
}

// DownloadArtifact returns the content stored under path below the run's artifacts;
// ErrNotFound if there is none, an error if it is larger than limit bytes.
func (c *Client) DownloadArtifact(ctx context.Context, run Run, path string, limit int64) ([]byte, error) {
	doing := fmt.Sprintf("download artifact %q of run %q", path, run.ID)
	target, err := artifactPath(run.ArtifactURI, path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	return c.send(ctx, request{doing: doing, method: http.MethodGet, path: target, timeout: transferTimeout, limit: limit})
}

// artifactPath is where the server's artifact proxy keeps a file of a run.
func artifactPath(uri, file string) (string, error) {
	u, err := url.Parse(uri)
	if err != nil || u.Scheme != "mlflow-artifacts" {
		return "", fault.AsConfiguration(fmt.Errorf("the run's artifact URI %q is not proxied by the server; "+
			"start MLflow with --serve-artifacts (and --artifacts-destination), and use an experiment created since", uri))
	}
	clean := path.Clean("/" + file)
	if clean == "/" || clean != "/"+file {
		return "", fault.AsPermanent(fmt.Errorf("artifact path %q is not a plain relative path", file))
	}
	segments := strings.Split(strings.Trim(u.Path, "/")+clean, "/")
	for i, s := range segments {
		segments[i] = url.PathEscape(s)
	}
	return "/api/2.0/mlflow-artifacts/artifacts/" + strings.Join(segments, "/"), nil
}
