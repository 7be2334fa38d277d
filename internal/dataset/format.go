package dataset

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/insitu-ml/insitu/internal/archive"
)

// The formats. FormatImages is a folder, zip, tar or tar.gz of images whose folder is their class.
const (
	FormatCSV     = "csv"
	FormatCIFAR10 = "cifar10"
	FormatNPZ     = "npz"
	FormatParquet = "parquet"
	FormatImages  = "images"
)

// Formats lists the formats.
func Formats() []string {
	return []string{FormatCSV, FormatCIFAR10, FormatNPZ, FormatParquet, FormatImages}
}

// container is how a file is wrapped.
type container int

const (
	plain container = iota
	gzipped
	tarred
	tarGz
	zipped
)

var errFound = errors.New("found")

// raw is the raw file as the decoders see it: reading ends with the context and is reported.
type raw struct {
	*File
	ctx    context.Context
	report func(n int)
	limits archive.Limits
}

func (r *raw) ReadAt(p []byte, off int64) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := r.f.ReadAt(p, off)
	r.report(n)
	return n, err
}

// reader reads the file from its start; several may be in use.
func (r *raw) reader() *io.SectionReader { return io.NewSectionReader(r, 0, r.Size) }

// inspect tells a file's wrapping from its first bytes, and returns those of the content.
func (r *raw) inspect() (container, []byte, error) {
	head := make([]byte, 512)
	n, err := io.ReadFull(r.reader(), head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return plain, nil, err
	}
	head = head[:n]
	switch {
	case n == 0:
		return plain, nil, errors.New("the file is empty")
	case bytes.HasPrefix(head, []byte("PK\x03\x04")), bytes.HasPrefix(head, []byte("PK\x05\x06")):
		return zipped, head, nil
	case isTar(head):
		return tarred, head, nil
	case !bytes.HasPrefix(head, []byte("\x1f\x8b")):
		return plain, head, nil
	}
	z, err := archive.Gunzip(r.reader(), r.limits)
	if err != nil {
		return gzipped, nil, err
	}
	inner := make([]byte, 512)
	n, err = io.ReadFull(z, inner)
	switch {
	case errors.Is(err, io.EOF):
		return gzipped, nil, errors.New("the file is empty once decompressed")
	case err != nil && !errors.Is(err, io.ErrUnexpectedEOF):
		return gzipped, nil, fmt.Errorf("read gzip stream: %w", err)
	case isTar(inner[:n]):
		return tarGz, inner, nil
	}
	return gzipped, inner[:n], nil
}

func isTar(head []byte) bool { return len(head) == 512 && string(head[257:262]) == "ustar" }

// detect finds the format by content, and by name where content leaves it open.
func (r *raw) detect() (string, error) {
	if r.Format != "" {
		return r.Format, nil
	}
	wrap, head, err := r.inspect()
	if err != nil {
		return "", err
	}
	switch wrap {
	case zipped:
		return r.detectZip()
	case tarred, tarGz:
		found := FormatImages
		err := r.walk(wrap, func(name string, _ int64, _ io.Reader) error {
			switch base := path.Base(name); {
			case isBatch(base), base == cifarNames:
				found = FormatCIFAR10
			case !isImage(base):
				return nil
			}
			return errFound
		})
		if err != nil && !errors.Is(err, errFound) {
			return "", err
		}
		return found, nil
	case plain:
		if bytes.HasPrefix(head, []byte("PAR1")) {
			return FormatParquet, nil
		}
	}
	name := strings.ToLower(r.Name)
	for ending, what := range map[string]string{
		".parquet": FormatParquet, ".npz": FormatNPZ, ".zip": "zip", ".tar": "tar", ".tar.gz": "tar.gz", ".tgz": "tar.gz",
	} {
		if strings.HasSuffix(name, ending) {
			return "", fmt.Errorf("the name %q says %s, but the content does not begin like one: the file is corrupt or misnamed", r.Name, what)
		}
	}
	if wrap == plain && strings.HasSuffix(name, ".gz") {
		return "", fmt.Errorf("the name %q says gzip, but the content does not begin like it: the file is corrupt or misnamed", r.Name)
	}
	if bytes.ContainsRune(head, 0) && !utf16Mark(head) {
		return "", fmt.Errorf("the format cannot be told from the content: expected one of %s", strings.Join(Formats(), ", "))
	}
	return FormatCSV, nil
}

func (r *raw) detectZip() (string, error) {
	z, err := zip.NewReader(r, r.Size)
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) {
		return "", fmt.Errorf("read zip archive: %w", err)
	}
	for _, m := range z.File {
		if strings.HasSuffix(m.Name, ".npy") {
			return FormatNPZ, nil
		}
	}
	return FormatImages, nil
}

// open returns the decoder of a file of known format.
func (r *raw) open(format string, o Options) (*decoder, error) {
	switch format {
	case FormatCSV:
		return openCSV(r, o)
	case FormatCIFAR10:
		return openCIFAR(r, o)
	case FormatNPZ:
		return openNPZ(r, o)
	case FormatParquet:
		return openParquet(r, o)
	case FormatImages:
		return openImages(r, o)
	}
	return nil, fmt.Errorf("format %q: expected one of %s", format, strings.Join(Formats(), ", "))
}

// walk goes through the members of an archive file.
func (r *raw) walk(wrap container, each archive.File) error {
	switch wrap {
	case zipped:
		return archive.WalkZip(r, r.Size, r.limits, each)
	case tarred:
		return archive.WalkTar(r.reader(), r.limits, each)
	case tarGz:
		return archive.WalkTarGz(r.reader(), r.limits, each)
	}
	return errors.New("expected a zip, tar or tar.gz archive")
}
