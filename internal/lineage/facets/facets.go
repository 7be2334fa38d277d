// Package facets holds the JSON schemas of the facets that Insitu adds to OpenLineage's events.
package facets

import "embed"

// Schemas are the schemas by file name.
//
//go:embed *.json
var Schemas embed.FS
