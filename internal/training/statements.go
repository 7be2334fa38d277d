package training

import (
	"embed"
	"strings"

	"github.com/insitu-ml/insitu/internal/postgres"
)

//go:embed sql/*.sql
var files embed.FS

// dialect is how a kind of server trains the shards of an epoch.
type dialect struct {
	fit             string // file of the statement
	sessionPerShard bool   // a session a shard, else one statement for all of them
}

func dialectOf(d postgres.Dialect) dialect {
	if d.Greenplum {
		return dialect{fit: "fit_greenplum.sql"}
	}
	return dialect{fit: "fit.sql", sessionPerShard: true}
}

// statement is the text of a file, with the job's pack table in place of packs_x.
func statement(name string, job Job) string {
	text, err := files.ReadFile("sql/" + name)
	if err != nil { // the files are part of the program
		panic(err)
	}
	return strings.ReplaceAll(string(text), "packs_x", postgres.Ident(job.PackTable))
}
