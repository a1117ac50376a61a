package verify

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode/utf8"
)

const (
	// wholeMatrix is up to how many services the matrix is printed whole; above it, and along each axis, only
	// that many of those with the most refusals are.
	wholeMatrix = 12
	// tableWidth is what the matrix must fit into to be printed in words.
	tableWidth = 100
	// shownSerial is how many digits of a serial number are printed; JSON has them all.
	shownSerial = 16
)

// WriteTable prints the report for people: the services, the matrix of who would refuse whom, the findings
// and one closing line. The error is w's.
func (r *Report) WriteTable(w io.Writer) error {
	var b bytes.Buffer
	r.writeServices(&b)
	b.WriteByte('\n')
	r.writeMatrix(&b)
	b.WriteByte('\n')
	for _, f := range r.Findings {
		fmt.Fprintln(&b, f)
		if f.Hint != "" {
			fmt.Fprintf(&b, "  hint: %s\n", f.Hint)
		}
	}
	if len(r.Findings) > 0 {
		b.WriteByte('\n')
	}
	fmt.Fprintln(&b, r.Summary())
	_, err := w.Write(b.Bytes())
	return err
}

// writeRows aligns rows of cells; the blanks that padding leaves at the ends of lines are taken away.
func writeRows(b *bytes.Buffer, rows [][]string) {
	var padded bytes.Buffer
	tw := tabwriter.NewWriter(&padded, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(tw, strings.Join(row, "\t"))
	}
	tw.Flush() // into a buffer: cannot fail
	for line := range strings.Lines(padded.String()) {
		fmt.Fprintln(b, strings.TrimRight(line, " \n"))
	}
}

func (r *Report) writeServices(b *bytes.Buffer) {
	rows := [][]string{{"SERVICE", "CA (SHA-256)", "LEAF SERIAL", "EXPIRES", "VERDICT"}}
	for _, s := range r.Services {
		serial, expires := cmp.Or(s.Serial, "-"), "-"
		if len(serial) > shownSerial {
			serial = serial[:shownSerial] + "…"
		}
		if s.Compared {
			expires = s.NotAfter.UTC().Format("2006-01-02 15:04Z")
		}
		rows = append(rows, []string{s.Name, shownCA(s.CA), serial, expires, s.Verdict})
	}
	writeRows(b, rows)
}

func shownCA(ca []string) string {
	switch n := len(ca); {
	case n == 0:
		return "-"
	case n > 2:
		return fmt.Sprintf("%s and %d more", ca[0], n-1)
	}
	return strings.Join(ca, " ")
}

// A cell is who refuses in the pair of a client and a server.
type cell struct{ client, server bool }

func (c cell) words() string {
	switch c {
	case cell{true, true}:
		return "both refuse"
	case cell{client: true}:
		return "client refuses"
	case cell{server: true}:
		return "server refuses"
	}
	return "ok"
}

func (c cell) letter() string {
	if c == (cell{}) {
		return "ok"
	}
	return strings.ToUpper(c.words()[:1])
}

type pair struct{ client, server string }

// cells gives the pairs of which an end refuses.
func (r *Report) cells() map[pair]cell {
	cells := map[pair]cell{}
	for _, f := range r.Refusals {
		if f.RefuserRole == Client {
			k := pair{f.Refuser, f.Refused}
			cells[k] = cell{true, cells[k].server}
		} else {
			k := pair{f.Refused, f.Refuser}
			cells[k] = cell{cells[k].client, true}
		}
	}
	return cells
}

func (r *Report) writeMatrix(b *bytes.Buffer) {
	cells, n := r.cells(), len(r.Services)
	compared := 0
	for _, s := range r.Services {
		if s.Compared {
			compared++
		}
	}
	switch {
	case n == 0:
		fmt.Fprintln(b, "no service to compare")
		return
	case n > wholeMatrix && len(cells) == 0:
		fmt.Fprintf(b, "no service would refuse another (%d services, %d×%d pairs)\n", compared, compared, max(compared-1, 0))
		return
	}
	clients := r.axis(cells, func(p pair) string { return p.client })
	servers := r.axis(cells, func(p pair) string { return p.server })
	fmt.Fprintln(b, "who would refuse whom (rows: client, columns: server)")
	rows := r.matrix(cells, clients, servers, cell.words)
	if width(rows) > tableWidth {
		rows = r.matrix(cells, clients, servers, cell.letter)
		fmt.Fprintln(b, "C client refuses, S server refuses, B both refuse")
	}
	writeRows(b, rows)
	if n > wholeMatrix {
		fmt.Fprintf(b, "%d of %d clients and %d of %d servers, those with the most refusals; -o json has every pair\n",
			len(clients), n, len(servers), n)
	}
}

// axis gives the services, by index, that are shown along one side of the matrix.
func (r *Report) axis(cells map[pair]cell, end func(pair) string) []int {
	counts := map[string]int{}
	for p := range cells {
		counts[end(p)]++
	}
	var shown []int
	for i, s := range r.Services {
		if len(r.Services) <= wholeMatrix || counts[s.Name] > 0 {
			shown = append(shown, i)
		}
	}
	slices.SortStableFunc(shown, func(a, b int) int {
		return cmp.Compare(counts[r.Services[b].Name], counts[r.Services[a].Name])
	})
	shown = shown[:min(len(shown), wholeMatrix)]
	slices.Sort(shown)
	return shown
}

// matrix makes the rows of the matrix. Columns are numbered as the rows are, since names would not fit.
func (r *Report) matrix(cells map[pair]cell, clients, servers []int, show func(cell) string) [][]string {
	head := []string{""}
	for _, q := range servers {
		head = append(head, strconv.Itoa(q+1))
	}
	rows := [][]string{head}
	for _, p := range clients {
		client := r.Services[p]
		row := []string{fmt.Sprintf("%d %s", p+1, client.Name)}
		for _, q := range servers {
			server := r.Services[q]
			if p == q || !client.Compared || !server.Compared {
				row = append(row, "-")
				continue
			}
			row = append(row, show(cells[pair{client.Name, server.Name}]))
		}
		rows = append(rows, row)
	}
	return rows
}

// width is how wide the rows are once aligned.
func width(rows [][]string) int {
	total := 0
	for col := range rows[0] {
		widest := 0
		for _, row := range rows {
			widest = max(widest, utf8.RuneCountInString(row[col]))
		}
		total += widest + 2
	}
	return total - 2
}

// Summary sums the report up in one line.
func (r *Report) Summary() string {
	line := fmt.Sprintf("%s, %s", plural(len(r.Services), "service"), plural(r.Pairs, "pair"))
	switch refused := len(r.cells()); {
	case r.OK():
		return line + ": all go together"
	case refused == 0:
		return line + ", none refused: " + plural(len(r.Findings), "finding")
	default:
		return line + fmt.Sprintf(", %d refused: %s", refused, plural(len(r.Findings), "finding"))
	}
}

func plural(n int, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return fmt.Sprintf("%d %ss", n, word)
}
