package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strconv"

	"github.com/insitu-ml/insitu/internal/binding"
	"github.com/insitu-ml/insitu/internal/fault"
	"github.com/insitu-ml/insitu/internal/objectstore"
	"github.com/insitu-ml/insitu/internal/postgres"
)

// settings reads files of the service binding a selector chooses; files that are not there are "".
func settings(root, selector string, names ...string) (map[string]string, error) {
	b, err := binding.Find(root, selector)
	if err != nil {
		return nil, fault.AsConfiguration(err)
	}
	out := map[string]string{}
	for _, name := range names {
		value, _, err := b.Value(name)
		if err != nil {
			return nil, fault.AsConfiguration(err)
		}
		out[name] = value
	}
	return out, nil
}

// setting is one value of a service binding, "" when it cannot be read: for display only.
func setting(root, selector, name string) string {
	values, err := settings(root, selector, name)
	if err != nil {
		return ""
	}
	return values[name]
}

// address is a URL of a service binding without user and password, "" when it cannot be read: for display only.
func address(root, selector, name string) string {
	u, err := url.Parse(setting(root, selector, name))
	if err != nil {
		return ""
	}
	u.User = nil
	return u.String()
}

// databaseConfig says where the database behind a service binding is, and who connects.
func databaseConfig(root, selector string) (postgres.Config, error) {
	v, err := settings(root, selector, "host", "port", "database", "username", "password", "sslmode", "sslrootcert")
	if err != nil {
		return postgres.Config{}, err
	}
	for _, name := range []string{"host", "database", "username"} {
		if v[name] == "" { // libpq's own defaults mean a database nobody asked for
			return postgres.Config{}, fault.AsConfiguration(fmt.Errorf("service binding %q has no %s, expected a file %q or uri", selector, name, name))
		}
	}
	port := 5432
	if v["port"] != "" {
		if port, err = strconv.Atoi(v["port"]); err != nil {
			return postgres.Config{}, fault.AsConfiguration(fmt.Errorf("service binding %q: port %q is no number", selector, v["port"]))
		}
	}
	return postgres.Config{
		Host: v["host"], Port: port, Database: v["database"], Username: v["username"], Password: v["password"],
		SSLMode: v["sslmode"], SSLRootCert: v["sslrootcert"],
	}, nil
}

// fileStore keeps the files of a run in object storage.
type fileStore struct{ bucket *objectstore.Store }

func openStore(ctx context.Context, bindings string) (fileStore, error) {
	v, err := settings(bindings, "s3", "endpoint", "access-key-id", "secret-access-key", "bucket", "region")
	if err != nil {
		return fileStore{}, err
	}
	bucket, err := objectstore.New(objectstore.Config{
		Endpoint: v["endpoint"], AccessKeyID: v["access-key-id"], SecretAccessKey: v["secret-access-key"], Bucket: v["bucket"], Region: v["region"],
	})
	if err != nil {
		return fileStore{}, err
	}
	return fileStore{bucket}, bucket.EnsureBucket(ctx)
}

// Put stores a file under key.
func (s fileStore) Put(ctx context.Context, key, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	size, err := io.Copy(sum, f)
	if err != nil {
		return err
	}
	_, err = s.bucket.PutFile(ctx, key, f, size, hex.EncodeToString(sum.Sum(nil)), nil)
	return err
}

// Get writes the object under key to a file.
func (s fileStore) Get(ctx context.Context, key, file string) error {
	object, _, err := s.bucket.Open(ctx, "", key)
	if err != nil {
		return err
	}
	defer object.Close()
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, object)
	return errors.Join(err, f.Close())
}

// putApp stores a packed ML app under its SHA-256 and returns its s3: URL.
func (s fileStore) putApp(ctx context.Context, packed []byte) (string, error) {
	sum := sha256.Sum256(packed)
	key := "apps/" + hex.EncodeToString(sum[:]) + ".tar.gz"
	if _, err := s.bucket.Put(ctx, key, packed, "application/gzip"); err != nil {
		return "", err
	}
	return "s3://" + s.bucket.Bucket() + "/" + key, nil
}
