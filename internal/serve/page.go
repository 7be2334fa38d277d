package serve

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"strings"
)

// The page at / is one answer without remote assets; it asks /v1/model and /v1/predict like any other client.
var (
	//go:embed page.html
	startHTML string
	//go:embed page.css
	startStyle string
	//go:embed page.js
	startScript string
)

// startPage lets the browser run and show what is embedded, talk to this service, and nothing else.
func startPage() page {
	html := strings.NewReplacer("{{style}}", startStyle, "{{script}}", startScript).Replace(startHTML)
	return page{
		html: []byte(html),
		policy: "default-src 'none'; style-src " + hashSource(startStyle) + "; script-src " + hashSource(startScript) +
			"; img-src blob: data:; connect-src 'self'; frame-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
	}
}

// hashSource allows exactly this text in a Content-Security-Policy.
func hashSource(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}
