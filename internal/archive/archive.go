// Package archive walks tar and zip archives that come from strangers.
//
// It hands every regular file to a callback as a stream and refuses names that
// leave the archive, links and devices, and archives that expand beyond stated
// limits. It never writes to disk and never holds a member in memory.
package archive

import (
	"archive/tar"
	"archive/zip"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"unicode/utf8"
)

// Limits bound what an archive may expand to. Zero fields mean the defaults.
type Limits struct {
	MaxFiles int64 // regular files; default 10 million
	MaxFile  int64 // bytes of one file after decompression; default: MaxBytes
	MaxBytes int64 // bytes of all files and headers after decompression; default 1 TiB
	MaxRatio int64 // bytes out per byte in, looked at after the first MiB; default 200
}

const (
	defaultFiles = 10_000_000
	defaultBytes = 1 << 40
	defaultRatio = 200
	// ratioGrace is what may come out before the ratio counts: a small file of one repeated line is no bomb.
	ratioGrace = 1 << 20
	// maxName is longer than any file system's path.
	maxName = 4096
)

func (l Limits) withDefaults() Limits {
	if l.MaxFiles <= 0 {
		l.MaxFiles = defaultFiles
	}
	if l.MaxBytes <= 0 {
		l.MaxBytes = defaultBytes
	}
	if l.MaxFile <= 0 || l.MaxFile > l.MaxBytes {
		l.MaxFile = l.MaxBytes
	}
	if l.MaxRatio <= 0 {
		l.MaxRatio = defaultRatio
	}
	return l
}

// ErrTooLarge is wrapped by every error about a limit.
var ErrTooLarge = errors.New("larger than allowed")

// File receives one regular file: its cleaned slash-separated name, its declared size in bytes and its content.
// Content that is not read is skipped. An error ends the walk and is returned as it is.
type File func(name string, size int64, r io.Reader) error

// WalkTarGz walks a gzip-compressed tar stream to its very end, so that a truncated file is noticed.
func WalkTarGz(r io.Reader, limits Limits, each File) error {
	z, err := Gunzip(r, limits)
	if err != nil {
		return err
	}
	return WalkTar(z, limits, each)
}

// WalkTar walks a tar stream to its end.
func WalkTar(r io.Reader, limits Limits, each File) error {
	limits = limits.withDefaults()
	r = &limited{r: r, limit: limits.MaxBytes, what: "the archive"}
	t := tar.NewReader(r)
	var files int64
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("read tar archive: %w", broken(err))
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		name, err := CleanName(h.Name)
		if err != nil {
			return err
		}
		switch h.Typeflag {
		case tar.TypeDir:
			continue
		case tar.TypeReg:
		default:
			return fmt.Errorf("archive member %q is a link or a device: only files and folders are read", h.Name)
		}
		if files++; files > limits.MaxFiles {
			return fmt.Errorf("archive holds more than %d files: %w", limits.MaxFiles, ErrTooLarge)
		}
		if h.Size > limits.MaxFile {
			return fmt.Errorf("archive member %q has %d bytes, the limit is %d: %w", name, h.Size, limits.MaxFile, ErrTooLarge)
		}
		if err := each(name, h.Size, memberReader{t, name}); err != nil {
			return err
		}
	}
	// What follows the last member is read too: the checksum of a compressed stream comes last.
	if _, err := io.Copy(io.Discard, r); err != nil {
		return fmt.Errorf("read tar archive: %w", broken(err))
	}
	return nil
}

// WalkZip walks a zip archive of the given size in bytes, in the order of its directory.
func WalkZip(r io.ReaderAt, size int64, limits Limits, each File) error {
	limits = limits.withDefaults()
	z, err := zip.NewReader(r, size)
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) {
		return fmt.Errorf("read zip archive: %w", broken(err))
	}
	var files, total int64
	for _, f := range z.File {
		name, err := CleanName(f.Name)
		if err != nil {
			return err
		}
		if f.Mode().IsDir() {
			continue
		}
		switch {
		case !f.Mode().IsRegular():
			return fmt.Errorf("archive member %q is a link or a device: only files and folders are read", f.Name)
		case f.Flags&1 != 0:
			return fmt.Errorf("archive member %q is encrypted: only plain archives are read", f.Name)
		}
		if files++; files > limits.MaxFiles {
			return fmt.Errorf("archive holds more than %d files: %w", limits.MaxFiles, ErrTooLarge)
		}
		out := int64(min(f.UncompressedSize64, 1<<62))
		total += out
		switch {
		case out > limits.MaxFile:
			return fmt.Errorf("archive member %q has %d bytes, the limit is %d: %w", name, out, limits.MaxFile, ErrTooLarge)
		case total > limits.MaxBytes:
			return fmt.Errorf("archive expands to more than %d bytes: %w", limits.MaxBytes, ErrTooLarge)
		// Members may overlap in the file, so the sum counts too.
		case out > ratioGrace && out/limits.MaxRatio > int64(min(f.CompressedSize64, 1<<62)),
			total > ratioGrace && total/limits.MaxRatio > size:
			return fmt.Errorf("archive member %q expands more than %d-fold: %w", name, limits.MaxRatio, ErrTooLarge)
		}
		if err := walkZipFile(f, name, out, each); err != nil {
			return err
		}
	}
	return nil
}

func walkZipFile(f *zip.File, name string, size int64, each File) error {
	r, err := f.Open()
	if err != nil {
		return fmt.Errorf("read archive member %q: %w", name, broken(err))
	}
	defer func() { _ = r.Close() }()
	// When the directory lies about the size, the zip reader fails at that many bytes.
	return each(name, size, memberReader{r, name})
}

// Gunzip decompresses a gzip stream and fails when it expands beyond limits.MaxBytes or limits.MaxRatio.
func Gunzip(r io.Reader, limits Limits) (io.Reader, error) {
	limits = limits.withDefaults()
	in := &counter{r: r}
	z, err := gzip.NewReader(in)
	if err != nil {
		return nil, fmt.Errorf("read gzip stream: %w", broken(err))
	}
	return &limited{r: z, limit: limits.MaxBytes, ratio: limits.MaxRatio, in: in, what: "the gzip stream"}, nil
}

// CleanName checks a member's name and returns it slash-separated and without "./".
// Absolute names, names with "..", backslashes, drive letters, NUL or text that is not UTF-8 are refused.
func CleanName(name string) (string, error) {
	switch {
	case len(name) > maxName:
		return "", fmt.Errorf("archive member %.40q...: the name has more than %d bytes", name, maxName)
	case !utf8.ValidString(name):
		return "", fmt.Errorf("archive member %q: the name is not UTF-8", name)
	case strings.ContainsAny(name, "\x00\\"), strings.HasPrefix(name, "/"), len(name) > 1 && name[1] == ':':
		return "", fmt.Errorf("archive member %q: the name must be a relative path with forward slashes", name)
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", fmt.Errorf("archive member %q: the path leaves the archive", name)
		}
	}
	return path.Clean(name), nil
}

// broken turns the end of the input in the middle of something into words.
func broken(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("the file is truncated: %w", io.ErrUnexpectedEOF)
	}
	return err
}

// memberReader names the member in read errors.
type memberReader struct {
	r    io.Reader
	name string
}

func (m memberReader) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("read archive member %q: %w", m.name, broken(err))
	}
	return n, err
}

type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// limited fails, instead of ending, when more than limit bytes come out, or more than ratio times what went in.
type limited struct {
	r     io.Reader
	n     int64
	limit int64
	ratio int64
	in    *counter
	what  string
}

func (l *limited) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	l.n += int64(n)
	if l.n > l.limit {
		return 0, fmt.Errorf("%s expands to more than %d bytes: %w", l.what, l.limit, ErrTooLarge)
	}
	if l.in != nil && l.n > ratioGrace && l.n/l.ratio > l.in.n {
		return 0, fmt.Errorf("%s expands more than %d-fold: %w", l.what, l.ratio, ErrTooLarge)
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = broken(err)
	}
	return n, err
}
