package changelog

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Literal writes text as an SQL string that PostgreSQL, its JDBC driver and
// Liquibase all read as the same text, and people can read too.
//
// Every line of the text is a quoted piece on a line of its own (SQL joins pieces that are a line apart);
// JSON is broken after its escaped line ends.
// A line of the changelog thus never starts with anything but a quote, whatever the text holds:
// "--changeset" in somebody's Python is no directive. Beyond that
//   - quotes and backslashes are doubled, so a reader that knows E” and one that does not find the same ends;
//   - "${" is broken, so Liquibase finds no parameter;
//   - whatever is not printable ASCII is escaped, so encodings and line ends on the way do not matter.
//
// It refuses what PostgreSQL cannot store: zero bytes and broken UTF-8.
func Literal(text string) (string, error) {
	if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
		return "", fmt.Errorf("expected UTF-8 text without zero bytes")
	}
	if text == "" {
		return "''", nil
	}
	var out strings.Builder
	out.WriteString("E''")
	for piece := range pieces(text) {
		out.WriteString("\n  '")
		for i, r := range piece {
			escape(&out, r, piece[i+utf8.RuneLen(r):])
		}
		out.WriteByte('\'')
	}
	return out.String(), nil
}

func escape(out *strings.Builder, r rune, rest string) {
	switch {
	case r == '\'' || r == '\\':
		out.WriteRune(r)
		out.WriteRune(r)
	case r == '\n':
		out.WriteString(`\n`)
	case r == '\t':
		out.WriteString(`\t`)
	case r == '$' && strings.HasPrefix(rest, "{"):
		out.WriteString(`\044`)
	case r >= ' ' && r <= '~':
		out.WriteRune(r)
	case r <= 0x7f:
		fmt.Fprintf(out, `\%03o`, r)
	case r <= 0xffff:
		fmt.Fprintf(out, `\u%04x`, r)
	default:
		fmt.Fprintf(out, `\U%08x`, r)
	}
}

// maxPiece bounds the length of a line in the changelog, in bytes of text: editors and reviewers choke on longer ones.
const maxPiece = 2000

// pieces cuts text after line ends, and after the escaped line ends of JSON, and wherever a piece grows too long.
func pieces(text string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for text != "" {
			n := len(text)
			for _, end := range []string{"\n", `\n`} {
				if i := strings.Index(text[:min(n, maxPiece)], end); i >= 0 {
					n = min(n, i+len(end))
				}
			}
			if n > maxPiece {
				for n = maxPiece; !utf8.RuneStart(text[n]); n-- {
				}
			}
			if !yield(text[:n]) {
				return
			}
			text = text[n:]
		}
	}
}
