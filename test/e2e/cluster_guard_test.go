package e2e

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meshca/meshca/test/cluster"
)

// breaking are kubectl's flags to break the glass, as docs/guard.md has them for a cluster-admin.
var breaking = []string{"--as=meshca:break-glass", "--as-group=meshca:break-glass", "--as-group=system:masters"}

// TestGuarded has meshca and its guard beside each other: what the one prints, the API server enforces, in mode deny. It
// has an API server of its own, since policies are for the whole cluster.
func TestGuarded(t *testing.T) {
	t.Parallel()
	k := newKubernetes(t, cluster.Options{AuditLog: true})
	m := k.newMesh(t, "guarded", clusterSettings{Sweep: "1s"})
	p := m.Start()
	m.AwaitSound(p)
	m.guard(p)
	for _, service := range m.Services {
		if a := m.try(nil, "delete", "secret", service+"-mtls-cert"); a.Code == 0 || !strings.Contains(a.Stderr, "leave it; in an emergency") {
			t.Errorf("an outsider deletes %s: %+v", service, a)
		}
	}
	// What the guard leaves free to everybody ends no healing.
	if a := m.try(nil, "annotate", "secret", "envoy-mtls-cert", "cert-manager.io/x=y"); a.Code != 0 {
		t.Fatalf("%+v", a)
	}
	m.AwaitEvent(p, "envoy", "Alarm", "has marks of cert-manager, and is kept all the same")
	m.AwaitState(p, "envoy", "kept")
	// meshca passes its guard: it makes anew what was deleted through the glass.
	uid := k.secret(t, m.namespace, "pgadmin").Metadata.UID
	if a := m.try(breaking, "delete", "secret", "pgadmin-mtls-cert"); a.Code != 0 {
		t.Fatalf("%+v", a)
	}
	m.AwaitSound(p)
	if k.secret(t, m.namespace, "pgadmin").Metadata.UID == uid {
		t.Error("it was not deleted")
	}
	m.breakGlass(p)
}

// guard applies what meshca guard prints for the mesh's account, and waits until each of the policies is in effect.
func (m *clusterMesh) guard(p *Process) {
	m.t.Helper()
	printed := m.Run("guard", "--config", m.Config(), "--mode", "deny", "--user", "system:serviceaccount:"+m.namespace+"-ca:meshca")
	if printed.Code != 0 {
		m.t.Fatalf("meshca guard: %+v", printed)
	}
	m.k.kubectl(m.t, printed.Stdout, "apply", "-f", "-")
	patch := []string{"patch", "secret", "pgadmin-mtls-cert", "--dry-run=server", "-p", `{"data":{"ca.crt":""}}`}
	p.Await("the guard is in effect", func() error {
		for policy, a := range map[string]Answer{
			"meshca-managed-secrets": m.try(nil, patch...),
			"meshca-broken-glass":    m.try(breaking, patch...),
			"meshca-catalogue-names": m.try(nil, "create", "secret", "generic", "pgadmin-mtls-cert", "--dry-run=server"),
		} {
			if !strings.Contains(a.Stderr, "'"+policy+"' denied request") {
				return fmt.Errorf("%s: %+v", policy, a)
			}
		}
		return nil
	})
}

// try runs kubectl in the mesh's namespace as cluster-admin, with flags.
func (m *clusterMesh) try(flags []string, args ...string) Answer {
	m.t.Helper()
	return runCommand(m.t, m.Dir, m.k.Kubectl, append(append([]string{"--kubeconfig", m.k.Kubeconfig, "-n", m.namespace}, flags...), args...)...)
}

// breakGlass writes through the glass: without a reason that is refused, with one the Secret is left as it was
// written, until meshca is told to go on. The audit log shows who it was.
func (m *clusterMesh) breakGlass(p *Process) {
	m.t.Helper()
	theirs := newForeignCA(m.t).PEM()
	write := func(metadata string) []string {
		return []string{"patch", "secret", "bookapi-mtls-cert", "--type=merge", "-p",
			`{"metadata":` + metadata + `,"data":{"ca.crt":"` + base64.StdEncoding.EncodeToString(theirs) + `"}}`}
	}
	const reason = `{"annotations":{"meshca.io/break-glass":"ticket 42"}}`
	if a := m.try(nil, write(reason)...); a.Code == 0 || !strings.Contains(a.Stderr, "'meshca-managed-secrets' denied request") {
		m.t.Errorf("an outsider with a reason: %+v", a)
	}
	if a := m.try(breaking, write(`{}`)...); a.Code == 0 || !strings.Contains(a.Stderr, "give it the annotation meshca.io/break-glass=<reason> in the same write") {
		m.t.Errorf("without a reason: %+v", a)
	}
	if a := m.try(breaking, write(reason)...); a.Code != 0 {
		m.t.Fatalf("with a reason: %+v", a)
	}
	m.AwaitEvent(p, "bookapi", "Resting", "broken the glass: ticket 42")
	m.AwaitSweep(p)
	m.AwaitSweep(p)
	if err := same(theirs, m.k.secret(m.t, m.namespace, "bookapi").Data[caFile]); err != nil {
		m.t.Errorf("it is not left alone: %v", err)
	}
	m.AwaitSound(p, "envoy", "pgadmin", "bookapi-mcp-server", "timescaledb")
	if a := m.Run("heal", "--resume", "bookapi", "--config", m.Config()); a.Code != 0 {
		m.t.Errorf("meshca heal: %+v", a)
	}
	m.AwaitSound(p)
	p.Await("the audit log shows who broke the glass", func() error {
		for line := range bytes.Lines(readFile(m.t, filepath.Join(filepath.Dir(m.k.Kubeconfig), "audit.log"))) {
			if bytes.Contains(line, []byte(`"verb":"patch","user":{"username":"admin"`)) && bytes.Contains(line, []byte(`"name":"bookapi-mtls-cert"`)) &&
				bytes.Contains(line, []byte(`"impersonatedUser":{"username":"meshca:break-glass","groups":["meshca:break-glass"`)) && bytes.Contains(line, []byte(`"code":200`)) {
				return nil
			}
		}
		return errors.New("it does not")
	})
}
