// Package workflows holds the files of workflows/app, which insitu init puts beside a new ML app.
package workflows

import "embed"

// App are the files that kapp-controller reads; docs/deploy-carvel.md explains them.
//
//go:embed app/pipeline_app.yaml app/values.yaml app/pipeline.yaml
var App embed.FS
