package verify_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshca/meshca/verify"
)

var incidentNames = []string{"envoy", "pgadmin", "bookapi", "bookapi-mcp-server", "timescaledb"}

// incident is the mesh of the outage that this package exists for: pgadmin's ca.crt is from another CA,
// every leaf is signed by the first.
func incident(t *testing.T) (services []verify.Service, first, other *issued) {
	t.Helper()
	first, other = newCA(t, "first"), newCA(t, "other")
	services = healthy(t, first, incidentNames...)
	services[1].CA = other.pem()
	return services, first, other
}

func findings(r *verify.Report, code verify.Code) []verify.Finding {
	var all []verify.Finding
	for _, f := range r.Findings {
		if f.Code == code {
			all = append(all, f)
		}
	}
	return all
}

func TestCheckAllGoTogether(t *testing.T) {
	r := verify.Check(healthy(t, newCA(t, "root"), incidentNames...), now)
	if len(r.Findings) > 0 || len(r.Refusals) > 0 || !r.OK() {
		t.Fatalf("a healthy mesh: %v %v", r.Findings, r.Refusals)
	}
	if r.Pairs != 20 {
		t.Errorf("pairs = %d, want 20", r.Pairs)
	}
	for _, row := range r.Services {
		if row.Verdict != "ok" || !row.Compared {
			t.Errorf("row %+v", row)
		}
	}
}

func TestCheckIncident(t *testing.T) {
	services, first, other := incident(t)
	r := verify.Check(services, now)
	if r.OK() {
		t.Fatal("OK on the day of the incident")
	}
	a, b := verify.ShortFingerprint(first.cert), verify.ShortFingerprint(other.cert)
	if got, want := r.Services[3].Name, "pgadmin"; got != want {
		t.Fatalf("row 3 is %s, want %s", got, want)
	}
	if got, want := r.Services[3].Verdict, "bundle-differs, leaf-not-signed-by-own-bundle, would-refuse"; got != want {
		t.Errorf("verdict of pgadmin %q, want %q", got, want)
	}
	for _, f := range r.Findings {
		if f.Service != "pgadmin" {
			t.Errorf("finding at another service: %s", f)
		}
		if !strings.Contains(f.Sentence, a) || !strings.Contains(f.Sentence, b) || f.Hint == "" {
			t.Errorf("finding without both fingerprints or a hint: %s", f)
		}
	}
	peers := []string{"bookapi", "bookapi-mcp-server", "envoy", "timescaledb"}
	want := fmt.Sprintf("as client and as server, pgadmin would refuse bookapi, bookapi-mcp-server, envoy and timescaledb with "+
		"CERTIFICATE_VERIFY_FAILED (unable to get local issuer certificate): their certificates were signed by %s, pgadmin trusts %s; "+
		`they see "tlsv1 alert unknown ca"`, a, b)
	got := findings(r, verify.WouldRefuse)
	if len(got) != 1 || got[0].Sentence != want || !slices.Equal(got[0].Peers, peers) {
		t.Errorf("would-refuse\n got %v\nwant %s", got, want)
	}
	if d := findings(r, verify.BundleDiffers); len(d) != 1 ||
		d[0].Sentence != fmt.Sprintf("ca.crt holds %s, while 4 of 5 services hold %s: pgadmin is the odd one out", b, a) {
		t.Errorf("bundle-differs: %v", d)
	}
	for _, f := range r.Refusals {
		if f.Refuser != "pgadmin" || f.Cause != verify.NoLocalIssuer ||
			f.Reason != "TLS_error:|268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED: unable to get local issuer certificate" {
			t.Errorf("refusal %+v", f)
		}
	}
	if len(r.Refusals) != 8 {
		t.Errorf("%d refusals, want 8", len(r.Refusals))
	}
}

// TestCheckIncidentBothWays has pgadmin's leaf from the other CA as well: then each refuses the other.
func TestCheckIncidentBothWays(t *testing.T) {
	services, _, other := incident(t)
	services[1] = service(t, "pgadmin", other.leaf(t, "pgadmin"), other)
	r := verify.Check(services, now)
	if len(r.Refusals) != 16 {
		t.Errorf("%d refusals, want 16", len(r.Refusals))
	}
	if got := len(findings(r, verify.WouldRefuse)); got != 5 {
		t.Errorf("%d would-refuse findings, want one for each refuser", got)
	}
	if got := findings(r, verify.LeafNotSignedByOwnBundle); len(got) > 0 {
		t.Errorf("pgadmin's own files go together: %v", got)
	}
}

func TestCheckOrderDoesNotMatter(t *testing.T) {
	services, _, other := incident(t)
	services[4].CA = join(other.pem(), services[4].CA)
	want := verify.Check(services, now)
	slices.Reverse(services)
	if diff := cmp.Diff(want, verify.Check(services, now)); diff != "" {
		t.Errorf("the reversed list gives another report (-want +got):\n%s", diff)
	}
}

func TestCheckNothing(t *testing.T) {
	r := verify.Check(nil, now)
	got, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"now":"2026-03-01T12:00:00Z","services":[],"pairs":0,"findings":[],"refusals":[]}`
	if string(got) != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestFingerprint(t *testing.T) {
	ca := newCA(t, "root")
	full, short := verify.Fingerprint(ca.cert), verify.ShortFingerprint(ca.cert)
	if len(full) != 95 || len(short) != 11 || !strings.HasPrefix(full, short+":") || full != strings.ToUpper(full) {
		t.Errorf("full %q, short %q", full, short)
	}
}

func TestEveryCodeHasAHint(t *testing.T) {
	seen := map[verify.Code]bool{}
	for _, c := range verify.Codes() {
		if c.Hint() == "" || seen[c] {
			t.Errorf("code %s: hint %q, twice %t", c, c.Hint(), seen[c])
		}
		seen[c] = true
	}
}

// TestAdd: what is found elsewhere is named at its service, and what is said of none comes last.
func TestAdd(t *testing.T) {
	services, _, _ := incident(t)
	services[0].Cert = nil
	r := verify.Check(services, now)
	at := func(service string) verify.Finding {
		return verify.Finding{Code: "immutable-secret", Service: service, Sentence: "…"}
	}
	r.Add(at("demo/meshca-ca"), at("timescaledb"), at("envoy"), at("envoy"), at("pgadmin"))
	var order, verdicts []string
	for _, f := range r.Findings {
		order = append(order, f.Service+" "+string(f.Code))
	}
	for _, row := range r.Services {
		verdicts = append(verdicts, row.Verdict)
	}
	if diff := cmp.Diff([]string{
		"envoy missing-file", "envoy immutable-secret", "envoy immutable-secret",
		"pgadmin bundle-differs", "pgadmin leaf-not-signed-by-own-bundle", "pgadmin would-refuse", "pgadmin immutable-secret",
		"timescaledb immutable-secret", "demo/meshca-ca immutable-secret",
	}, order); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{
		"refused by 1 of 3", "refused by 1 of 3", "not compared: missing-file, immutable-secret",
		"bundle-differs, leaf-not-signed-by-own-bundle, would-refuse, immutable-secret", "immutable-secret",
	}, verdicts); diff != "" {
		t.Errorf("verdicts (-want +got):\n%s", diff)
	}
}

// TestCheckUnreadableLeafLeavesOthers: the rest of the mesh is compared.
func TestCheckUnreadableLeafLeavesOthers(t *testing.T) {
	services, _, _ := incident(t)
	services[0].Cert = nil
	r := verify.Check(services, now)
	if r.Pairs != 12 {
		t.Errorf("pairs = %d, want 12", r.Pairs)
	}
	if got, want := r.Services[2].Verdict, "not compared: missing-file"; got != want {
		t.Errorf("verdict %q, want %q", got, want)
	}
	for _, f := range r.Refusals {
		if f.Refuser == "envoy" || f.Refused == "envoy" {
			t.Errorf("refusal of a service without a leaf: %+v", f)
		}
	}
	if len(r.Refusals) != 6 {
		t.Errorf("%d refusals, want 6", len(r.Refusals))
	}
}

// TestCheckLargeFleet: one odd bundle among many services is one finding, not one a pair.
func TestCheckLargeFleet(t *testing.T) {
	ca := newCA(t, "root")
	var services []verify.Service
	for i := range 200 {
		n := fmt.Sprintf("svc-%03d", i)
		services = append(services, service(t, n, ca.leaf(t, n), ca))
	}
	services[50].CA = newCA(t, "other").pem()
	r := verify.Check(services, now)
	if len(r.Refusals) != 2*199 || len(findings(r, verify.WouldRefuse)) != 1 {
		t.Errorf("%d refusals, %d findings", len(r.Refusals), len(r.Findings))
	}
}
