package training_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/insitu-ml/insitu/internal/postgres"
)

func server(t *testing.T) (postgres.Config, string) {
	t.Helper()
	if os.Getenv("TRN_PG") == "" {
		t.Skip("no server")
	}
	cfg := postgres.Config{Host: "127.0.0.1", Port: 55999, Database: "postgres", Username: "postgres"}
	c, err := postgres.Connect(t.Context(), cfg, postgres.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	schema := fmt.Sprintf("Trn %s %d", t.Name(), time.Now().UnixNano()%1e9)
	if _, err := c.Exec(t.Context(), "create schema "+postgres.Ident(schema)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.Background()
		c, err := postgres.Connect(ctx, cfg, postgres.Options{})
		if err == nil {
			_, _ = c.Exec(ctx, "drop schema "+postgres.Ident(schema)+" cascade")
			c.Close()
		}
	})
	return cfg, schema
}
