package evaluatemodel

import (
	"context"
	"fmt"
	"hash/fnv"
	"os"
	"testing"

	"github.com/insitu-ml/insitu/internal/postgres"
)

func server(t *testing.T) (postgres.Config, string) {
	t.Helper()
	if os.Getenv("EVAL_PG") == "" {
		t.Skip("EVAL_PG is not set")
	}
	cfg := postgres.Config{Host: "127.0.0.1", Port: 25917, Database: "postgres", Username: "postgres"}
	h := fnv.New64()
	h.Write([]byte(t.Name()))
	schema := fmt.Sprintf("Eval %x", h.Sum64())
	c, err := postgres.Connect(context.Background(), cfg, postgres.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, sql := range []string{"drop schema if exists " + postgres.Ident(schema) + " cascade", "create schema " + postgres.Ident(schema)} {
		if _, err := c.Exec(context.Background(), sql); err != nil {
			t.Fatal(err)
		}
	}
	return cfg, schema
}
