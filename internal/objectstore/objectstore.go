// Package objectstore keeps files in an S3 bucket under keys made from their content.
//
// It is the only importer of the S3 client. It knows nothing of datasets and
// never lists or deletes what it did not put there.
package objectstore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/insitu-ml/insitu/internal/fault"
)

// Config says where objects are kept and who asks for them.
type Config struct {
	Endpoint        string // URL with http:// or https://, without a path
	AccessKeyID     string
	SecretAccessKey string
	Bucket          string
	Region          string // "" lets the server say
}

// Store is one bucket.
type Store struct {
	client   *minio.Client
	bucket   string
	endpoint string
}

const (
	// partSize splits larger files into parts of an upload; two of them travel at once.
	partSize = 16 << 20
	// retries of one request by the client, at most a second apart: a restart of the server is the workflow's to wait for.
	retries = 4
	// sumKey is the metadata under which an object carries the SHA-256 of its content.
	sumKey = "Insitu-Sha256"
)

// New returns the bucket's store; it does not connect yet. Errors are configuration faults.
func New(c Config) (*Store, error) {
	u, err := url.Parse(c.Endpoint)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || strings.Trim(u.Path, "/") != "" || u.User != nil {
		return nil, fault.AsConfiguration(errors.New("object store endpoint: expected http://host:port or https://host without a path or credentials"))
	}
	if c.Bucket == "" {
		return nil, fault.AsConfiguration(errors.New("object store bucket: expected a name"))
	}
	client, err := minio.New(u.Host, &minio.Options{
		Creds:      credentials.NewStaticV4(c.AccessKeyID, c.SecretAccessKey, ""),
		Secure:     u.Scheme == "https",
		Region:     c.Region,
		MaxRetries: retries,
	})
	if err != nil {
		return nil, fault.AsConfiguration(fmt.Errorf("object store %s: %w", u.Host, err))
	}
	return &Store{client: client, bucket: c.Bucket, endpoint: u.Scheme + "://" + u.Host}, nil
}

// Bucket is the bucket's name.
func (s *Store) Bucket() string { return s.bucket }

// Exists tells whether the bucket is there; to ask is also the way to learn early whether the server takes the credentials.
func (s *Store) Exists(ctx context.Context) (bool, error) {
	exists, err := s.client.BucketExists(ctx, s.bucket)
	return exists, wrap(err, fmt.Sprintf("look for bucket %q at %s", s.bucket, s.endpoint))
}

// EnsureBucket creates the bucket unless it exists; two callers may do it at once.
func (s *Store) EnsureBucket(ctx context.Context) error {
	exists, err := s.Exists(ctx)
	if err != nil || exists {
		return err
	}
	err = s.client.MakeBucket(ctx, s.bucket, minio.MakeBucketOptions{})
	if code := minio.ToErrorResponse(err).Code; code == minio.BucketAlreadyOwnedByYou || code == minio.BucketAlreadyExists {
		return nil
	}
	return wrap(err, fmt.Sprintf("create bucket %q at %s", s.bucket, s.endpoint))
}

// PutFile stores size bytes of r, whose SHA-256 (hex) the caller knows, under key, in parts if it is large.
// If the object is there with that checksum and size, nothing is sent. Progress, unless nil, is told how many bytes were sent since its last call, on several goroutines.
// It returns the bytes sent. A failed or cancelled upload leaves no object and no parts.
func (s *Store) PutFile(ctx context.Context, key string, r io.ReaderAt, size int64, sha256Hex string, progress func(n int)) (int64, error) {
	there, err := s.has(ctx, key, size, sha256Hex)
	if err != nil || there {
		return 0, err
	}
	// Parts that a killed run left would be paid for for ever. Callers keep two uploads of one key apart by a lock.
	_ = s.client.RemoveIncompleteUpload(ctx, s.bucket, key)
	options := minio.PutObjectOptions{
		ContentType:  "application/octet-stream",
		UserMetadata: map[string]string{sumKey: sha256Hex},
		PartSize:     partSize,
		NumThreads:   2,
	}
	if progress != nil {
		options.Progress = countReader(progress)
	}
	if _, err := s.client.PutObject(ctx, s.bucket, key, io.NewSectionReader(r, 0, size), size, options); err != nil {
		return 0, s.wrap(err, "put object", key)
	}
	return size, nil
}

// Put stores a small object and returns the bytes sent: 0 if it is there with the same content.
func (s *Store) Put(ctx context.Context, key string, content []byte, contentType string) (int64, error) {
	sum := sha256.Sum256(content)
	size := int64(len(content))
	there, err := s.has(ctx, key, size, hex.EncodeToString(sum[:]))
	if err != nil || there {
		return 0, err
	}
	_, err = s.client.PutObject(ctx, s.bucket, key, bytes.NewReader(content), size, minio.PutObjectOptions{
		ContentType:  contentType,
		UserMetadata: map[string]string{sumKey: hex.EncodeToString(sum[:])},
	})
	if err != nil {
		return 0, s.wrap(err, "put object", key)
	}
	return size, nil
}

// has tells whether the object is there with that size and checksum.
func (s *Store) has(ctx context.Context, key string, size int64, sha256Hex string) (bool, error) {
	info, err := s.client.StatObject(ctx, s.bucket, key, minio.StatObjectOptions{})
	if err != nil {
		if minio.ToErrorResponse(err).Code == minio.NoSuchKey {
			return false, nil
		}
		return false, s.wrap(err, "look for object", key)
	}
	return info.Size == size && info.UserMetadata[sumKey] == sha256Hex, nil
}

// Open streams an object; bucket "" is the store's own. The caller closes it.
// A missing object or bucket is a permanent fault.
func (s *Store) Open(ctx context.Context, bucket, key string) (io.ReadCloser, int64, error) {
	if bucket == "" {
		bucket = s.bucket
	}
	doing := fmt.Sprintf("get object s3://%s/%s", bucket, key)
	object, err := s.client.GetObject(ctx, bucket, key, minio.GetObjectOptions{})
	if err != nil {
		return nil, 0, wrap(err, doing)
	}
	info, err := object.Stat()
	if err != nil {
		_ = object.Close()
		return nil, 0, wrap(err, doing)
	}
	return &reader{object, doing}, info.Size, nil
}

// Remove deletes an object; one that is not there is no error.
func (s *Store) Remove(ctx context.Context, key string) error {
	return s.wrap(s.client.RemoveObject(ctx, s.bucket, key, minio.RemoveObjectOptions{}), "remove object", key)
}

// reader says which object a read failed on.
type reader struct {
	*minio.Object
	doing string
}

func (r *reader) Read(p []byte) (int, error) {
	n, err := r.Object.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = wrap(err, r.doing)
	}
	return n, err
}

// countReader is what the client "reads" to report the bytes it sent.
type countReader func(n int)

func (f countReader) Read(p []byte) (int, error) {
	f(len(p))
	return len(p), nil
}

func (s *Store) wrap(err error, what, key string) error {
	return wrap(err, fmt.Sprintf("%s s3://%s/%s", what, s.bucket, key))
}

// wrap says what was being done and classifies: wrong credentials and missing buckets are configuration,
// servers that cannot be reached or answer 5xx are temporary, the rest is permanent. nil stays nil.
func wrap(err error, doing string) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s: %w", doing, err)
	}
	// The client wraps transport errors with the signed URL; what happened is inside.
	if inner := new(url.Error); errors.As(err, &inner) {
		err = inner.Err
	}
	var response minio.ErrorResponse
	if !errors.As(err, &response) {
		wrapped := fmt.Errorf("%s: %w", doing, err)
		if unknown, name, bad := new(x509.UnknownAuthorityError), new(x509.HostnameError), new(x509.CertificateInvalidError); errors.As(err, unknown) || errors.As(err, name) || errors.As(err, bad) ||
			strings.Contains(err.Error(), "server gave HTTP response to HTTPS client") {
			return fault.AsConfiguration(wrapped)
		}
		// No answer of the server: the connection, or its end.
		return fault.AsTemporary(wrapped)
	}
	wrapped := fmt.Errorf("%s: %s (HTTP %d): %w", doing, response.Code, response.StatusCode, err)
	switch {
	case response.StatusCode >= 500, response.StatusCode == http.StatusTooManyRequests, response.StatusCode == http.StatusRequestTimeout,
		slices.Contains([]string{"SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "NoSuchUpload"}, response.Code):
		return fault.AsTemporary(wrapped)
	case response.StatusCode == http.StatusUnauthorized, response.StatusCode == http.StatusForbidden,
		slices.Contains([]string{"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "AuthorizationHeaderMalformed", "InvalidBucketName", "NoSuchBucket"}, response.Code):
		return fault.AsConfiguration(wrapped)
	}
	return fault.AsPermanent(wrapped)
}
