// Command bench measures training and predicting inside the database as ratios, in one run, against limits and peers:
// the same code without a database, the server's own COPY, what people do today.
// `make bench` starts the services it needs and runs it; docs/benchmarks.md says what each line means.
//
// Rounds of the compared sides alternate, and a figure is the median of the rounds' ratios.
// It compares what is equal and nothing else: the same rows, code, threads and malloc settings on both sides.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/insitu-ml/insitu/internal/binding"
	"github.com/insitu-ml/insitu/internal/localservices"
	"github.com/insitu-ml/insitu/internal/postgres"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// group is a part of the table that can be measured alone.
type group struct {
	name string
	run  func(context.Context, *bench) error
}

func groups() []group {
	return []group{
		{"load", load}, {"read", read}, {"train", train}, {"endtoend", endToEnd}, {"accuracy", accuracy}, {"growth", growth},
		{"resume", resume}, {"predict", predict}, {"serve", serve}, {"deploy", deploy}, {"cancel", cancelled}, {"start", start}, {"madlib", madlib},
	}
}

func run(ctx context.Context) error {
	b := &bench{}
	only := flag.String("only", "", "groups to measure, separated by commas; the page is written only when all are")
	list := flag.Bool("list", false, "name the groups and end")
	flag.StringVar(&b.bindings, "bindings", "", "directory of the service bindings of both databases, whose schemas named bench are dropped")
	python := flag.String("python", "", "the Python of the plain sides, with the database's packages")
	flag.StringVar(&b.peers, "peers", "", "the Python of the group serve, with requirements/bench.txt")
	flag.StringVar(&b.insitu, "insitu", filepath.Join("bin", "insitu"), "the program insitu")
	page := flag.String("page", "", "page whose block between the marks is written, and beside it the plot; empty: neither")
	flag.Float64Var(&b.scale, "scale", 1, "share of the full sizes; below 1 the figures mean less")
	flag.IntVar(&b.rounds, "rounds", 5, "rounds of a comparison")
	drive := flag.String("drive", "", "used by the program itself: drive the job in this file")
	flag.Parse()
	if *drive != "" {
		return driveFile(ctx, *drive)
	}
	picked, err := chosen(groups(), *only)
	if err != nil {
		return err
	}
	if *list {
		for _, g := range groups() {
			fmt.Fprintln(os.Stdout, g.name)
		}
		return nil
	}
	if b.scale <= 0 || b.rounds < 1 {
		return errors.New("-scale and -rounds: expected more than 0")
	}
	b.python = *python
	if b.training, err = databaseOf(b.bindings, localservices.TrainingBinding); err != nil {
		return err
	}
	if b.inference, err = databaseOf(b.bindings, localservices.InferenceBinding); err != nil {
		return err
	}
	if err := b.open(ctx); err != nil {
		return err
	}
	defer b.close()
	failed := b.measure(ctx, picked)
	fmt.Fprint(os.Stdout, table(b.rows))
	if *page != "" && *only == "" && ctx.Err() == nil {
		failed = errors.Join(failed, b.write(*page))
	}
	return failed
}

// measure runs groups; one that fails does not keep the others from running.
func (b *bench) measure(ctx context.Context, picked []group) (failed error) {
	for _, g := range picked {
		began := time.Now()
		b.group = g.name
		b.say("measuring")
		if err := g.run(ctx, b); err != nil {
			failed = errors.Join(failed, fmt.Errorf("group %q: %w", g.name, err))
			line, _, _ := strings.Cut(err.Error(), "\n")
			b.missing("the rest of the group", goal{}, ratio, "failed: "+line)
		}
		b.say("took %.0f s", time.Since(began).Seconds())
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return failed
}

// databaseOf reads a service binding of the local services.
func databaseOf(root, selector string) (postgres.Config, error) {
	found, err := binding.Find(root, selector)
	if err != nil {
		return postgres.Config{}, fmt.Errorf("-bindings: %w", err)
	}
	c := postgres.Config{SSLMode: "disable", ApplicationName: "insitu bench"}
	port := ""
	for name, into := range map[string]*string{"host": &c.Host, "port": &port, "database": &c.Database, "username": &c.Username, "password": &c.Password} {
		if *into, _, err = found.Value(name); err != nil {
			return c, err
		}
	}
	c.Port, err = strconv.Atoi(port)
	return c, err
}

// write puts the table on the page and the plot beside it.
func (b *bench) write(page string) error {
	old, err := os.ReadFile(page)
	if err != nil {
		return err
	}
	machine, err := b.machine()
	if err != nil {
		return err
	}
	text, err := replaceBlock(string(old), machine+"\n\n"+table(b.rows))
	if err != nil {
		return fmt.Errorf("page %q: %w", page, err)
	}
	plot := page[:len(page)-len(filepath.Ext(page))] + ".svg"
	return errors.Join(os.WriteFile(page, []byte(text), 0o644), os.WriteFile(plot, []byte(b.plot()), 0o644))
}
