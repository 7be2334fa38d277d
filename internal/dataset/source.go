package dataset

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/insitu-ml/insitu/internal/archive"
	"github.com/insitu-ml/insitu/internal/fault"
)

// File is a raw file on this machine, hashed. Close it.
type File struct {
	Name   string // last part of its location
	Source string // where it came from, without credentials
	Format string // "" or what the source is known to be: a folder is FormatImages
	SHA256 string // hex
	Size   int64  // bytes

	f       *os.File
	changed time.Time // zero for our own copy, which nobody can reach
}

// Objects opens objects of an S3 service.
type Objects interface {
	Open(ctx context.Context, bucket, key string) (io.ReadCloser, int64, error)
}

// FetchOptions say what Fetch may use.
type FetchOptions struct {
	Base     string // folder that relative paths start from; "" is the working directory
	WorkDir  string // where copies of remote files go; "" is the system's
	MaxBytes int64
	Objects  Objects       // for s3: sources
	HTTP     *http.Client  // nil: the default with timeouts
	Progress func(n int64) // told the bytes read so far; may be nil
}

func (o FetchOptions) withDefaults() FetchOptions {
	if o.Progress == nil {
		o.Progress = func(int64) {}
	}
	return o
}

const (
	connectTimeout = 15 * time.Second
	// headerTimeout is what a server may take to begin its answer.
	headerTimeout = 2 * time.Minute
)

// Fetch opens a dataset at a path, file:, http(s): or s3://bucket/key location and hashes it.
//
// A local file is read where it lies. Anything else is copied to a nameless file of the work directory, which is gone
// when it is closed or the process ends in whatever way; a folder is packed into a tar file there.
// Servers that cannot be reached, answer 5xx or break off are temporary faults, a wrong location is a
// configuration fault, an HTTP answer of 4xx a permanent one.
func Fetch(ctx context.Context, location string, o FetchOptions) (*File, error) {
	o = o.withDefaults()
	scheme, rest, found := strings.Cut(location, ":")
	if !found || len(scheme) < 2 || strings.ContainsAny(scheme, `/\.`) {
		scheme, rest = "", location
	}
	switch strings.ToLower(scheme) {
	case "":
		return openLocal(ctx, location, rest, o)
	case "file":
		p, err := filePath(rest)
		if err != nil {
			return nil, err
		}
		return openLocal(ctx, location, p, o)
	case "http", "https":
		return fetchHTTP(ctx, location, o)
	case "s3":
		return fetchObject(ctx, location, o)
	}
	return nil, fault.AsConfiguration(fmt.Errorf("dataset location of kind %q: expected a path, file:, http:, https: or s3://bucket/key", scheme))
}

// filePath is the path of a file: URL, after the colon: file:rel, file:/abs and file:///abs are all in use.
func filePath(rest string) (string, error) {
	if strings.HasPrefix(rest, "//") {
		host, p, _ := strings.Cut(rest[2:], "/")
		if host != "" && host != "localhost" {
			return "", fault.AsConfiguration(fmt.Errorf("dataset location file://%s/...: expected file:///path, a file of this machine", host))
		}
		rest = "/" + p
	}
	p, err := url.PathUnescape(rest)
	if err != nil {
		return "", fault.AsConfiguration(fmt.Errorf("dataset location: %w", err))
	}
	return p, nil
}

func openLocal(ctx context.Context, location, p string, o FetchOptions) (*File, error) {
	if p == "" {
		return nil, fault.AsConfiguration(fmt.Errorf("dataset location %q: the path is empty", location))
	}
	if !filepath.IsAbs(p) {
		p = filepath.Join(o.Base, p)
	}
	info, err := os.Stat(p)
	if err != nil {
		return nil, fault.AsConfiguration(fmt.Errorf("open dataset: %w", err))
	}
	if info.IsDir() {
		out, err := spool(ctx, func(w io.Writer) error { return tarFolder(ctx, p, w) }, o)
		if err != nil {
			return nil, fmt.Errorf("read folder %q: %w", p, err)
		}
		out.Name, out.Source, out.Format = filepath.Base(p), location, FormatImages
		return out, nil
	}
	if !info.Mode().IsRegular() {
		return nil, fault.AsConfiguration(fmt.Errorf("open dataset %q: it is neither a file nor a folder", p))
	}
	f, err := os.Open(p)
	if err != nil {
		return nil, fault.AsConfiguration(fmt.Errorf("open dataset: %w", err))
	}
	out := &File{Name: filepath.Base(p), Source: location, Size: info.Size(), f: f, changed: info.ModTime()}
	if err := out.hash(ctx, o); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("read %q: %w", p, err)
	}
	return out, nil
}

func (f *File) hash(ctx context.Context, o FetchOptions) error {
	if f.Size > o.MaxBytes {
		return tooLarge(f.Size, o.MaxBytes)
	}
	sum := sha256.New()
	n, err := io.Copy(&progressWriter{w: sum, report: o.Progress}, &contextReader{ctx, io.NewSectionReader(f.f, 0, f.Size)})
	if err != nil {
		return err
	}
	if n != f.Size {
		return errChanged
	}
	f.SHA256 = hex.EncodeToString(sum.Sum(nil))
	return nil
}

var errChanged = errors.New("the file changed while it was read")

func tooLarge(n, limit int64) error {
	return fmt.Errorf("it has %d bytes, the limit is %d: raise max-bytes to read it: %w", n, limit, archive.ErrTooLarge)
}

// spool copies what write produces to a nameless file and hashes it on the way.
func spool(ctx context.Context, write func(io.Writer) error, o FetchOptions) (*File, error) {
	f, err := scratch(o.WorkDir)
	if err != nil {
		return nil, err
	}
	sum := sha256.New()
	w := &progressWriter{w: io.MultiWriter(f, sum), report: o.Progress, limit: o.MaxBytes}
	if err := write(w); err != nil {
		_ = f.Close()
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		_ = f.Close()
		return nil, err
	}
	return &File{f: f, Size: w.n, SHA256: hex.EncodeToString(sum.Sum(nil))}, nil
}

func fetchHTTP(ctx context.Context, location string, o FetchOptions) (*File, error) {
	u, err := url.Parse(location)
	if err != nil || u.Host == "" {
		return nil, fault.AsConfiguration(errors.New("dataset location: expected http(s)://host/path"))
	}
	// A query may hold a signature, the user part a password: neither is shown.
	shown := (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, location, nil)
	if err != nil {
		return nil, fault.AsConfiguration(fmt.Errorf("get %s: the address is not valid", shown))
	}
	client := o.HTTP
	if client == nil {
		client = &http.Client{Transport: &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: connectTimeout}).DialContext,
			TLSHandshakeTimeout:   connectTimeout,
			ResponseHeaderTimeout: headerTimeout,
			DisableCompression:    true, // the digest is of the bytes as they are stored
			DisableKeepAlives:     true,
		}}
	}
	response, err := client.Do(request)
	if err != nil {
		if inner := new(url.Error); errors.As(err, &inner) {
			err = inner.Err // its text repeats the query
		}
		wrapped := fmt.Errorf("get %s: %w", shown, err)
		if unknown, name, bad := new(x509.UnknownAuthorityError), new(x509.HostnameError), new(x509.CertificateInvalidError); errors.As(err, unknown) || errors.As(err, name) || errors.As(err, bad) {
			return nil, fault.AsConfiguration(wrapped)
		}
		if ctx.Err() != nil {
			return nil, wrapped
		}
		return nil, fault.AsTemporary(wrapped)
	}
	defer func() { _ = response.Body.Close() }()
	switch code := response.StatusCode; {
	case code >= 500 || code == http.StatusTooManyRequests || code == http.StatusRequestTimeout:
		return nil, fault.AsTemporary(fmt.Errorf("get %s: the server answers %s", shown, response.Status))
	case code != http.StatusOK:
		return nil, fault.AsPermanent(fmt.Errorf("get %s: the server answers %s", shown, response.Status))
	}
	out, err := spoolStream(ctx, response.Body, response.ContentLength, o)
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", shown, err)
	}
	out.Name, out.Source = path.Base(u.Path), shown
	return out, nil
}

func fetchObject(ctx context.Context, location string, o FetchOptions) (*File, error) {
	u, err := url.Parse(location)
	if err != nil || u.Host == "" || strings.Trim(u.Path, "/") == "" {
		return nil, fault.AsConfiguration(errors.New("dataset location: expected s3://bucket/key"))
	}
	if o.Objects == nil {
		return nil, fault.AsConfiguration(errors.New("dataset location: s3: needs an object store"))
	}
	key := strings.TrimPrefix(u.Path, "/")
	body, size, err := o.Objects.Open(ctx, u.Host, key)
	if err != nil {
		return nil, err
	}
	defer func() { _ = body.Close() }()
	out, err := spoolStream(ctx, body, size, o)
	if err != nil {
		return nil, fmt.Errorf("get s3://%s/%s: %w", u.Host, key, err)
	}
	out.Name, out.Source = path.Base(key), "s3://"+u.Host+"/"+key
	return out, nil
}

// spoolStream copies a body of size bytes, -1 if unknown. A body that breaks off is a temporary fault.
func spoolStream(ctx context.Context, body io.Reader, size int64, o FetchOptions) (*File, error) {
	if size > o.MaxBytes {
		return nil, tooLarge(size, o.MaxBytes)
	}
	return spool(ctx, func(w io.Writer) error {
		from := &sourceReader{r: body}
		n, err := io.Copy(w, &contextReader{ctx, from})
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case from.err != nil:
			return fault.AsTemporary(fmt.Errorf("the transfer broke off after %d bytes: %w", n, from.err))
		case err != nil:
			return err
		case size >= 0 && n != size:
			return fault.AsTemporary(fmt.Errorf("the transfer broke off after %d of %d bytes", n, size))
		}
		return nil
	}, o)
}

// sourceReader remembers a read error, to tell it from a write error after io.Copy.
type sourceReader struct {
	r   io.Reader
	err error
}

func (s *sourceReader) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// tarFolder writes the folder's files as a tar stream that depends on their names and contents alone.
// Hidden files are left out; links are refused.
func tarFolder(ctx context.Context, root string, w io.Writer) error {
	t := tar.NewWriter(w)
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error { // in lexical order
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		name, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		name = filepath.ToSlash(name)
		switch {
		case name == ".":
			return nil
		case ignored(name) && d.IsDir():
			return fs.SkipDir
		case ignored(name) || d.IsDir():
			return nil
		case !d.Type().IsRegular():
			return fmt.Errorf("%q is a link or a device: only files and folders are read", name)
		}
		return tarFile(t, p, name)
	})
	if err != nil {
		return err
	}
	return t.Close()
}

func tarFile(t *tar.Writer, p, name string) error {
	f, err := os.Open(p)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: info.Size(), Format: tar.FormatPAX}); err != nil {
		return err
	}
	if n, err := io.Copy(t, io.LimitReader(f, info.Size())); err != nil {
		return err
	} else if n != info.Size() {
		return fmt.Errorf("%q: %w", name, errChanged)
	}
	return nil
}

// FetchReader takes what is read from r, a file as it is and anything else as a copy; it closes r.
// Source says where it came from.
func FetchReader(ctx context.Context, source string, r io.ReadCloser, o FetchOptions) (*File, error) {
	defer func() { _ = r.Close() }()
	o = o.withDefaults()
	var out *File
	var err error
	if f, ok := r.(*os.File); ok {
		out, err = openLocal(ctx, source, f.Name(), o)
	} else if out, err = spoolStream(ctx, r, -1, o); err != nil {
		err = fmt.Errorf("read %q: %w", source, err)
	}
	if err != nil {
		return nil, err
	}
	out.Name, out.Source = path.Base(source), source
	return out, nil
}

// Stream reads the raw file from its start and closes it.
func (f *File) Stream() io.ReadCloser {
	return struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(f.f, 0, f.Size), f}
}

// ReadAt reads the raw file; several readers may be in use.
func (f *File) ReadAt(p []byte, off int64) (int, error) { return f.f.ReadAt(p, off) }

// Unchanged fails if the file was written to since it was hashed.
func (f *File) Unchanged() error {
	if f.changed.IsZero() {
		return nil
	}
	info, err := f.f.Stat()
	if err != nil {
		return fmt.Errorf("read %q: %w", f.Name, err)
	}
	if info.Size() != f.Size || !info.ModTime().Equal(f.changed) {
		return fmt.Errorf("read %q: %w", f.Name, errChanged)
	}
	return nil
}

// Close gives the file back; a copy is gone then.
func (f *File) Close() error { return f.f.Close() }

// progressWriter counts what passes and stops at limit, if there is one.
type progressWriter struct {
	w      io.Writer
	n      int64
	limit  int64
	report func(int64)
}

func (p *progressWriter) Write(b []byte) (int, error) {
	if p.limit > 0 && p.n+int64(len(b)) > p.limit {
		return 0, fmt.Errorf("it has more than %d bytes: raise max-bytes to read it: %w", p.limit, archive.ErrTooLarge)
	}
	n, err := p.w.Write(b)
	p.n += int64(n)
	p.report(p.n)
	return n, err
}

// contextReader ends with its context.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
