package verify

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files of this package")

// The reports of this file are written by hand, so that the golden files do not change with every key.

func rows(n int) []Row {
	names := []string{"bookapi", "bookapi-mcp-server", "envoy", "pgadmin", "timescaledb"}
	var all []Row
	for i := range n {
		name := fmt.Sprintf("service-%02d", i+1)
		if n == len(names) {
			name = names[i]
		}
		all = append(all, Row{
			Name: name, CA: []string{"87:4A:C2:58"}, Serial: fmt.Sprintf("%x", 0x1f00+i), Compared: true,
			NotAfter: time.Date(2026, 3, 30, 12, i, 0, 0, time.UTC), Verdict: "ok",
		})
	}
	return all
}

func (r *Report) refusal(client, server int, role Role) {
	f := Refusal{Refuser: r.Services[client].Name, Refused: r.Services[server].Name, RefuserRole: role, Cause: NoLocalIssuer}
	if role == Server {
		f.Refuser, f.Refused = f.Refused, f.Refuser
	}
	r.Refusals = append(r.Refusals, f)
}

func healthyReport(n int) *Report { return &Report{Services: rows(n), Pairs: n * max(n-1, 0)} }

func incidentReport() *Report {
	r := healthyReport(5)
	odd := &r.Services[3]
	odd.CA, odd.Verdict = []string{"E2:CB:01:A3"}, "bundle-differs, leaf-not-signed-by-own-bundle, would-refuse"
	odd.Serial = "7d1e0b5cf3a24986b0c1d2e3f4a5b6c7d8e9fa0b"
	for i := range r.Services {
		if i != 3 {
			r.refusal(3, i, Client)
			r.refusal(i, 3, Server)
		}
	}
	r.Findings = []Finding{
		{Code: BundleDiffers, Service: "pgadmin", Hint: BundleDiffers.Hint(),
			Sentence: "ca.crt holds E2:CB:01:A3, while 4 of 5 services hold 87:4A:C2:58: pgadmin is the odd one out"},
		{Code: WouldRefuse, Service: "pgadmin", Hint: WouldRefuse.Hint(), Sentence: "as client and as server, pgadmin would refuse …"},
	}
	return r
}

func TestWriteTable(t *testing.T) {
	both := healthyReport(3)
	both.refusal(0, 1, Client)
	both.refusal(0, 1, Server)
	both.refusal(1, 2, Server)
	both.Services[2].CA = []string{"87:4A:C2:58", "E2:CB:01:A3", "00:01:02:03"}
	both.Findings = []Finding{{Code: WouldRefuse, Service: both.Services[0].Name, Sentence: "…"}}

	unread := healthyReport(3)
	unread.Services[1] = Row{Name: "broken", Verdict: "not compared: missing-file"}
	unread.Pairs = 2
	unread.Findings = []Finding{{Code: MissingFile, Service: "broken", Sentence: "tls.crt is missing", Hint: MissingFile.Hint()}}

	wide := healthyReport(12)
	for i := range 11 {
		wide.refusal(11, i, Client)
		wide.refusal(i, 11, Server)
		wide.refusal(i, (i+1)%11, Client)
	}
	wide.refusal(11, 0, Server)
	wide.Findings = []Finding{{Code: WouldRefuse, Service: "service-12", Sentence: "…"}}

	large := healthyReport(40)
	for i := range 39 {
		large.refusal(39, i, Client)
		large.refusal(i, 39, Server)
	}
	large.Findings = []Finding{{Code: WouldRefuse, Service: "service-40", Sentence: "…"}}

	remarked := healthyReport(1)
	remarked.Findings = []Finding{{Code: ExpiresSoon, Service: "service-01", Sentence: "…", Hint: ExpiresSoon.Hint()}}

	for name, r := range map[string]*Report{
		"healthy": healthyReport(5), "incident": incidentReport(), "both": both, "unreadable": unread,
		"twelve": wide, "fleet": healthyReport(13), "fleet-refusing": large, "none-refused": remarked, "none": {},
	} {
		t.Run(name, func(t *testing.T) {
			var got bytes.Buffer
			if err := r.WriteTable(&got); err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", name+".golden")
			if *update {
				if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got.String()); diff != "" {
				t.Errorf("%s (-want +got):\n%s", golden, diff)
			}
			_, matrix, _ := strings.Cut(got.String(), "who would")
			matrix, _, _ = strings.Cut(matrix, "\n\n")
			for line := range strings.Lines(matrix) {
				if len([]rune(line)) > tableWidth+1 {
					t.Errorf("line of the matrix is wider than %d: %q", tableWidth, line)
				}
			}
		})
	}
}

type brokenWriter struct{}

var errBroken = errors.New("broken pipe")

func (brokenWriter) Write([]byte) (int, error) { return 0, errBroken }

func TestWriteTableSaysThatItCouldNot(t *testing.T) {
	if err := healthyReport(2).WriteTable(brokenWriter{}); !errors.Is(err, errBroken) {
		t.Errorf("got %v, want %v", err, errBroken)
	}
}
