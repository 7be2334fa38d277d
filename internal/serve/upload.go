package serve

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/png"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"os"
)

// maxFiles bounds the files of one request: they are predicted in one statement, within one request's time.
const maxFiles = 64

// receive bounds what a request's body may bring and how long that may take; finished ends the latter.
// The server goes on reading to notice a client that goes away; that must not end with the request's own time.
func receive(w http.ResponseWriter, r *http.Request, limit int64) (finished func()) {
	deadline, _ := r.Context().Deadline()
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(deadline) // recorders of tests have none
	r.Body = http.MaxBytesReader(w, r.Body, limit)
	return func() { _ = control.SetReadDeadline(deadline.Add(grace)) }
}

// files reads the fields named "file" of a multipart form into memory: at most limit bytes in all, and nothing to disk.
func files(w http.ResponseWriter, r *http.Request, limit int64, most int) ([][]byte, *problem) {
	if r.ContentLength > limit {
		return nil, bodyTooLarge(limit)
	}
	kind, parameters, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/form-data" {
		return nil, missing("expected multipart/form-data with a file in the field \"file\"")
	}
	if parameters["boundary"] == "" {
		return nil, broken(errors.New("its Content-Type names no boundary"))
	}
	finished := receive(w, r, limit)
	form := multipart.NewReader(r.Body, parameters["boundary"])
	var all [][]byte
	for {
		part, err := form.NextPart()
		if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return nil, unread(r.Context(), err, limit)
		}
		if part.FormName() != "file" {
			continue
		}
		if part.FileName() == "" {
			return nil, &problem{status: http.StatusUnprocessableEntity, loc: []any{"body", "file"}, msg: "expected a file with a file name, found a text field", kind: "value_error"}
		}
		if len(all) == most {
			return nil, &problem{status: http.StatusUnprocessableEntity, loc: []any{"body", "file"}, msg: fmt.Sprintf("more files than expected: %d at most", most), kind: "too_many"}
		}
		content, err := io.ReadAll(part)
		if err != nil {
			return nil, unread(r.Context(), err, limit)
		}
		all = append(all, content)
	}
	if len(all) == 0 {
		return nil, missing("")
	}
	finished()
	return all, nil
}

func broken(err error) *problem {
	return &problem{status: http.StatusBadRequest, loc: []any{"body"}, msg: "the form cannot be read: " + err.Error(), kind: "broken_form"}
}

func unread(ctx context.Context, err error, limit int64) *problem {
	if large := (*http.MaxBytesError)(nil); errors.As(err, &large) {
		return bodyTooLarge(limit)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return &problem{status: http.StatusRequestTimeout, loc: []any{"body"}, msg: "the request came too slowly", kind: "timeout"}
	}
	if ctx.Err() != nil {
		return refusal(ctx.Err())
	}
	return broken(err)
}

// probePicture is a grey picture that sessions predict to load their model.
func probePicture() ([]byte, error) {
	var b bytes.Buffer
	err := png.Encode(&b, image.NewGray(image.Rect(0, 0, 8, 8)))
	return b.Bytes(), err
}
