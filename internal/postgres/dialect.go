package postgres

import "strings"

// Dialect is a kind of server and what tells it from the others. Whatever differs between them is decided by these
// fields, by the clauses of DistributedBy, and by SQL files that lie in a folder named Name.
type Dialect struct {
	Name    string // "postgresql" or "greenplum": the folder of SQL files that only this kind understands
	Version string // the server's version() text

	// Distributed says that rows lie on segments: tables say where, one statement works on all segments at once,
	// and a function that runs on one cannot query tables that are distributed.
	Distributed bool
}

// DialectOf reads a server's version() text.
func DialectOf(version string) Dialect {
	d := Dialect{Name: "postgresql", Version: version}
	if text := strings.ToLower(version); strings.Contains(text, "greenplum") || strings.Contains(text, "cloudberry") {
		d.Name, d.Distributed = "greenplum", true
	}
	return d
}

// DistributedBy is the clause that places rows by the hash of a column: empty where rows have one place only.
func (d Dialect) DistributedBy(column string) string {
	if !d.Distributed {
		return ""
	}
	return " distributed by (" + Ident(column) + ")"
}
