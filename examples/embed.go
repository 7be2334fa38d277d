// Package examples holds the ML apps that insitu init makes new ones from.
package examples

import "embed"

// Files are the examples with an algorithm each that bring their data with them, by folder.
//
//go:embed boosting linear logistic shapes sklearn
var Files embed.FS
