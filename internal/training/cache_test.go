package training_test

import (
	"strings"
	"testing"

	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/training"
	"github.com/insitu-ml/insitu/internal/training/trainingtest"
)

// What is done to the packs after the first epoch shows whether the second reads them.
func TestPacksInTheCacheAreNotReadAgain(t *testing.T) {
	t.Parallel()
	config, schema := trainingtest.Server(t)
	f := trainingtest.New(t, config, schema, 2)
	distributed := f.Connect(t).Dialect.Distributed
	j := job(t, f, 3, nil)
	if _, err := train(t.Context(), f, j, training.Options{}); err != nil {
		t.Fatal(err)
	}
	want := states(t, f, j.ID)
	table := postgres.Ident(f.Dataset.Table)
	execute(t, f.Connect(t), "create table original as select * from "+table) // Greenplum distributes it as it likes: it is only read
	columns := "split, shard, 1000 + id, n, labels, data"
	if distributed {
		columns += ", place"
	}
	const (
		dropCaches = "do $$ for host in list(GD.values()): getattr(host, 'cache', {}).clear() $$ language plpython3u"
		otherData  = "update packs set data = decode(repeat('00', length(data)), 'hex') where split = 'train'"
	)
	for name, c := range map[string]struct {
		cache   int64
		sql     string // on the table packs, between the first two epochs
		session string // on the driver's sessions
		wrong   string // error; "": the same states
		differ  bool
	}{
		"nothing happens":                {cache: 1 << 20},
		"other data":                     {cache: 1 << 20, sql: otherData},
		"other data, read every epoch":   {sql: otherData, differ: true},
		"other data, too much to keep":   {cache: f.Dataset.Splits.Train.Rows/2*32 - 1, sql: otherData, differ: true},
		"the cache is gone":              {cache: 1 << 20, session: dropCaches},
		"the cache and the data is gone": {cache: 1 << 20, session: dropCaches, sql: otherData, differ: true},
		"a pack less":                    {cache: 1 << 20, sql: "delete from packs where id = (select max(id) from packs where split = 'train')", wrong: "have changed"},
		"a pack more": {cache: 1 << 20, wrong: "have changed",
			sql: "insert into packs select " + columns + " from packs where split = 'train' and id = 0"},
		"other labels": {cache: 1 << 20, wrong: "have changed",
			sql: "update packs set labels = decode(repeat('00', length(labels)), 'hex') where split = 'train'"},
	} {
		t.Run(name, func(t *testing.T) { // one after the other: they share a table
			if c.session != "" && distributed {
				t.Skip("the caches are the segments' and cannot be reached from here")
			}
			forget(t, f)
			execute(t, f.Connect(t), "delete from "+table)
			execute(t, f.Connect(t), "insert into "+table+" select * from original")
			var driver *training.Driver
			var err error
			driver, err = training.Open(t.Context(), f.Config, j, training.Options{Schema: f.Schema, Cache: c.cache, Epoch: func(e training.Epoch, _ bool) {
				if e.Epoch > 1 {
					return
				}
				if c.sql != "" {
					execute(t, f.Connect(t), strings.ReplaceAll(c.sql, "packs", table))
				}
				for _, s := range driver.Sessions() {
					if c.session != "" {
						execute(t, s, c.session)
					}
				}
			}})
			if err != nil {
				t.Fatal(err)
			}
			defer driver.Close()
			_, err = driver.Train(t.Context())
			if c.wrong != "" {
				if err == nil || !strings.Contains(err.Error(), c.wrong) {
					t.Fatalf("error %v, want %q in it", err, c.wrong)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if same := equal(want, states(t, f, j.ID)); same == c.differ {
				t.Errorf("the states equal those without a cache: %v, want %v", same, !c.differ)
			}
		})
	}
}
