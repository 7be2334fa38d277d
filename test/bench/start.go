package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
)

// start compares how long it takes until a program has run SELECT 1 and ended.
func start(ctx context.Context, b *bench) error {
	program := filepath.Join(b.dir, "connect")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, "./test/bench/connect")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build connect: %w\n%s", err, out)
	}
	c := b.training
	port := strconv.Itoa(c.Port)
	command := func(name string, args ...string) func() error {
		return func() error {
			cmd := exec.CommandContext(ctx, name, args...)
			cmd.Env = append(os.Environ(), "PGPASSWORD="+c.Password, "PGSSLMODE=disable")
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("%s: %w\n%s", name, err, out)
			}
			return nil
		}
	}
	ours := command(program, "-host", c.Host, "-port", port, "-database", c.Database, "-username", c.Username)
	psql := command(psqlProgram(), "-X", "-h", c.Host, "-p", port, "-U", c.Username, "-d", c.Database, "-Atc", "select 1")
	python := command(b.python, "-c", `import sys, psycopg2, sklearn.linear_model
connection = psycopg2.connect(host=sys.argv[1], port=sys.argv[2], dbname=sys.argv[3], user=sys.argv[4])
cursor = connection.cursor()
cursor.execute("select 1")
cursor.fetchone()`, c.Host, port, c.Database, c.Username)

	rounds := 6*b.rounds + 1
	var a, p []float64
	for round := range rounds {
		s, err := timed(ours)
		if err != nil {
			return err
		}
		t, err := timed(psql)
		if err != nil {
			return err
		}
		if round > 0 {
			a, p = append(a, s), append(p, t)
		}
	}
	b.add("a Go program of ours connects and runs SELECT 1 / psql -c 'select 1'", atMost(1.1), times, paired(a, p))
	b.add("seconds of ours", goal{}, milliseconds, summarize(a))
	const what = "Python imports psycopg2 and scikit-learn, connects and runs SELECT 1 / ours"
	if err := exec.CommandContext(ctx, b.python, "-c", "import psycopg2, sklearn").Run(); err != nil {
		b.missing(what, atLeast(50), times, "psycopg2 or scikit-learn is not installed for "+filepath.Base(b.python))
		return nil
	}
	var slow []float64
	for round := range b.rounds + 1 {
		s, err := timed(ours)
		if err != nil {
			return err
		}
		t, err := timed(python)
		if err != nil {
			return err
		}
		if round > 0 {
			a[round-1], slow = s, append(slow, t)
		}
	}
	b.add(what, atLeast(50), times, paired(slow, a))
	return nil
}
