// Package binding reads service bindings (servicebinding.io): directories of small files under $SERVICE_BINDING_ROOT.
//
// A binding is chosen by its type and provider, never by its directory's name.
// The package does not read the environment and keeps no value in an error text.
package binding

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// MaxFileBytes is the limit on each file of a binding: more is a mistake (a Kubernetes Secret holds 1 MiB in all).
const MaxFileBytes = 64 << 10

// ErrNotFound says that no binding matches; the error that wraps it names those that were found.
var ErrNotFound = errors.New("no service binding matches")

// Binding is one directory of files.
type Binding struct {
	Dir      string
	Type     string
	Provider string // "" when the binding does not say
}

// Find returns the one binding under root that selector ("type" or "type/provider") matches.
// A selector without provider matches every provider; postgresql and postgres are the same type.
// With none or several matching, the error names every binding found.
func Find(root, selector string) (*Binding, error) {
	wantType, wantProvider, _ := strings.Cut(selector, "/")
	if wantType == "" {
		return nil, fmt.Errorf("binding selector %q: expected type or type/provider", selector)
	}
	all, err := list(root)
	if err != nil {
		return nil, err
	}
	var matching []Binding
	for _, b := range all {
		if sameType(b.Type, wantType) && (wantProvider == "" || strings.EqualFold(b.Provider, wantProvider)) {
			matching = append(matching, b)
		}
	}
	switch len(matching) {
	case 1:
		return &matching[0], nil
	case 0:
		return nil, fmt.Errorf("%w %q under %s: %s", ErrNotFound, selector, root, describe(all))
	default:
		return nil, fmt.Errorf("%d service bindings match %q under %s, expected one: %s", len(matching), selector, root, describe(all))
	}
}

func sameType(a, b string) bool { return strings.EqualFold(canonical(a), canonical(b)) }

// Kind is the type in lower case, by one name where there are two: postgres.
func (b *Binding) Kind() string { return strings.ToLower(canonical(b.Type)) }

func canonical(t string) string {
	if strings.EqualFold(t, "postgresql") {
		return "postgres"
	}
	return t
}

// describe lists bindings as `type/provider in directory`.
func describe(all []Binding) string {
	if len(all) == 0 {
		return "found no bindings at all"
	}
	texts := make([]string, len(all))
	for i, b := range all {
		switch {
		case b.Type == "":
			texts[i] = fmt.Sprintf("one without a type in %q", filepath.Base(b.Dir))
		case b.Provider == "":
			texts[i] = fmt.Sprintf("%s in %q", b.Type, filepath.Base(b.Dir))
		default:
			texts[i] = fmt.Sprintf("%s/%s in %q", b.Type, b.Provider, filepath.Base(b.Dir))
		}
	}
	return "found " + strings.Join(texts, ", ")
}

// list returns the bindings under root by directory name.
func list(root string) ([]Binding, error) {
	entries, err := os.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: the directory %s (SERVICE_BINDING_ROOT) does not exist", ErrNotFound, root)
	}
	if err != nil {
		return nil, fmt.Errorf("list service bindings: %w", err)
	}
	var found []Binding
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), ".") { // Kubernetes' ..data and ..2024_01_01
			continue
		}
		b := Binding{Dir: filepath.Join(root, entry.Name())}
		info, err := os.Stat(b.Dir) // a binding may be a link to a mounted volume
		if err != nil || !info.IsDir() {
			continue
		}
		if b.Type, _, err = b.read("type"); err != nil {
			return nil, err
		}
		if b.Provider, _, err = b.read("provider"); err != nil {
			return nil, err
		}
		found = append(found, b)
	}
	return found, nil
}

// Value returns what the binding says about name: the file of that name or, when there is none,
// the part of the file "uri" that means the same (host, port, database, username, password, sslmode, sslrootcert).
// An empty file counts as none.
// For sslrootcert, which is a path, a file that holds the certificates themselves stands for its own path.
func (b *Binding) Value(name string) (value string, ok bool, err error) {
	if value, ok, err = b.read(name); err != nil {
		return "", false, err
	}
	if ok {
		if name == "sslrootcert" && strings.Contains(value, "-----BEGIN ") {
			return filepath.Join(b.Dir, name), true, nil
		}
		return value, true, nil
	}
	if !inURI(name) {
		return "", false, nil
	}
	uri, ok, err := b.read("uri")
	if err != nil || !ok {
		return "", false, err
	}
	parts, err := parseURI(uri)
	if err != nil {
		return "", false, fmt.Errorf("file %q of the service binding in %q: %w", "uri", b.Dir, err)
	}
	value = parts[name]
	return value, value != "", nil
}

// read returns a file's content without trailing newlines.
func (b *Binding) read(name string) (value string, ok bool, err error) {
	value, err = ReadValueFile(filepath.Join(b.Dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return "", false, nil
	}
	if err != nil {
		return "", false, fmt.Errorf("service binding: %w", err)
	}
	return value, value != "", nil
}

// ReadValueFile returns the text of a file of at most MaxFileBytes without trailing newlines.
// Errors name the path and never hold the content.
func ReadValueFile(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() { // a FIFO would block, a device may not end
		return "", fmt.Errorf("read %s: not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	content, err := io.ReadAll(io.LimitReader(f, MaxFileBytes+1))
	if err != nil {
		return "", err
	}
	if len(content) > MaxFileBytes {
		return "", fmt.Errorf("read %s: more than %d bytes, expected one value", path, MaxFileBytes)
	}
	return strings.TrimRight(string(content), "\r\n"), nil
}

func inURI(name string) bool {
	switch name {
	case "host", "port", "database", "username", "password", "sslmode", "sslrootcert":
		return true
	}
	return false
}

// errURI holds nothing of the URI, and nothing of url.Parse's error, which may quote the password.
var errURI = errors.New("expected postgresql://username:password@host:port/database?sslmode=... with special characters percent-encoded")

// parseURI returns the parts of a connection URI under the names of the binding's files; absent parts are "".
func parseURI(uri string) (map[string]string, error) {
	u, err := url.Parse(uri)
	if err != nil || u.Scheme == "" || u.Opaque != "" || u.Hostname() == "" {
		return nil, errURI
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, errURI
	}
	password, _ := u.User.Password()
	return map[string]string{
		"host":        u.Hostname(),
		"port":        u.Port(),
		"database":    strings.TrimPrefix(u.Path, "/"),
		"username":    u.User.Username(),
		"password":    password,
		"sslmode":     query.Get("sslmode"),
		"sslrootcert": query.Get("sslrootcert"),
	}, nil
}
