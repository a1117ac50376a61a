package guard_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshca/meshca/kube/guard"
	"github.com/meshca/meshca/test/cluster"
)

const (
	// patience is how long a condition may take that usually holds within a second.
	patience = 30 * time.Second
	// glance is the pause between two looks at a condition.
	glance = 50 * time.Millisecond

	namespace = "payments"
	managed   = "pgadmin-mtls-cert"
	absent    = "bookapi-mtls-cert" // a name of the catalogue under which there is nothing yet
	asMeshca  = "--as=" + guard.DefaultUser
)

// hidden begins every value of a Secret's data here: no message may hold it.
const hidden = "HIDDEN"

// managedYAML is what meshca keeps, with a key of somebody else's.
const managedYAML = `
apiVersion: v1
kind: Secret
metadata:
  name: pgadmin-mtls-cert
  namespace: payments
  labels: {meshca.io/service: pgadmin}
  annotations: {meshca.io/stamp: one}
stringData: {tls.crt: HIDDEN-leaf, tls.key: HIDDEN-key, ca.crt: HIDDEN-bundle, foreign: HIDDEN-foreign}
`

// foreignYAML is nobody's business here.
const foreignYAML = `
apiVersion: v1
kind: Secret
metadata: {name: foreign, namespace: payments, labels: {app: x}}
stringData: {tls.crt: HIDDEN-x}
`

// accountsYAML are who meets the guard: alice may do all with Secrets in the namespace, bob is its admin.
const accountsYAML = `
apiVersion: v1
kind: Namespace
metadata: {name: payments}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: secrets}
rules: [{apiGroups: [""], resources: [secrets, configmaps], verbs: ["*"]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: alice, namespace: payments}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: secrets}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: alice}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: bob, namespace: payments}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: admin}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: bob}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: meshca}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: secrets}
subjects: [{kind: ServiceAccount, namespace: meshca, name: meshca}]
`

// accounts are the flags by which each of them speaks.
var accounts = []struct {
	name  string
	flags []string
}{
	{"user", []string{"--as=alice"}},
	{"namespace admin", []string{"--as=bob"}},
	{"cluster-admin", nil},
}

// A world is a cluster with a guard. Whatever meets the guard comes by kubectl, as people do; what a test does for
// itself, each time, does not: a run of kubectl costs more than all that the API server does for it.
type world struct {
	t     testing.TB
	c     *cluster.Cluster
	dir   string
	admin *http.Client
}

func newWorld(t testing.TB) *world {
	w := &world{t: t, dir: t.TempDir()}
	w.c = cluster.Need(t, cluster.Options{Dir: w.dir, ControllerManager: true, AuditLog: true})
	ca, err := os.ReadFile(filepath.Join(w.dir, "ca.crt"))
	pair, keyErr := tls.LoadX509KeyPair(filepath.Join(w.dir, "admin.crt"), filepath.Join(w.dir, "admin.key"))
	if err := errors.Join(err, keyErr); err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	w.admin = &http.Client{Timeout: patience, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}}}}
	t.Cleanup(w.admin.CloseIdleConnections)
	w.must(accountsYAML, "apply", "-f", "-")
	// The controller manager puts the role of a namespace's admin together after the start.
	w.await("bob has his role", func() error {
		out, err := w.run("", "auth", "can-i", "deletecollection", "secrets", "--as=bob")
		if err != nil {
			return errors.New(out)
		}
		return nil
	})
	return w
}

// run runs kubectl with an input, as cluster-admin where the arguments name nobody else.
func (w *world) run(stdin string, args ...string) (out string, err error) {
	return w.kubectl(stdin, append([]string{"--kubeconfig=" + w.c.Kubeconfig, "--namespace=" + namespace}, args...))
}

// runWith runs kubectl with an account's own token.
func (w *world) runWith(token string, args ...string) (out string, err error) {
	return w.kubectl("", append([]string{"--kubeconfig=" + os.DevNull, "--server=" + w.c.Server, "--namespace=" + namespace,
		"--certificate-authority=" + filepath.Join(w.dir, "ca.crt"), "--token=" + token}, args...))
}

func (w *world) kubectl(stdin string, args []string) (out string, err error) {
	cmd := exec.CommandContext(w.t.Context(), w.c.Kubectl, args...)
	cmd.Dir = w.dir
	cmd.Stdin = strings.NewReader(stdin)
	var both bytes.Buffer
	cmd.Stdout, cmd.Stderr = &both, &both
	err = cmd.Run()
	return both.String(), err
}

// must runs what has to pass.
func (w *world) must(stdin string, args ...string) string {
	w.t.Helper()
	out, err := w.run(stdin, args...)
	if err != nil {
		w.t.Fatalf("kubectl %q: %v\n%s", args, err, out)
	}
	return out
}

// await looks at a condition until it holds: look returns nil then, and otherwise what is missing.
func (w *world) await(what string, look func() error) {
	w.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(glance) {
		err := look()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("%s: not within %s: %v", what, patience, err)
		}
	}
}

// guard applies the policies as people do, and waits until those of Secrets are in effect. The API server takes a policy up
// within a second, so each gets a sign of its own: the mode, and a new name in the catalogue.
func (w *world) guard(o guard.Options) {
	w.t.Helper()
	sign := guard.Name{Namespace: namespace, Name: fmt.Sprintf("sign-%d", time.Now().UnixNano())}
	o.Secrets = append(o.Secrets, sign)
	w.must(string(render(w.t, o)), "apply", "-f", "-")
	want := map[guard.Mode]string{guard.Warn: "Warning: Validation failed", guard.Deny: "denied request"}[o.Mode]
	w.await("the guard is in effect", func() error {
		byName, _ := w.run("", "create", "secret", "generic", sign.Name, "--dry-run=server")
		byLabel, _ := w.run(strings.NewReplacer(managed, "sign", "pgadmin", "sign").Replace(managedYAML), "create", "--dry-run=server", "-f", "-")
		if !strings.Contains(byName, want) || !strings.Contains(byLabel, want) {
			return fmt.Errorf("it answers\n%s%s", byName, byLabel)
		}
		return nil
	})
}

// secrets asks the API server for something of the namespace's Secrets in the name of meshca's account, which may do it
// all, and returns the answer.
func (w *world) secrets(method, path, body string) []byte {
	w.t.Helper()
	r, err := http.NewRequestWithContext(w.t.Context(), method, w.c.Server+"/api/v1/namespaces/"+namespace+"/secrets"+path, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/apply-patch+yaml")
	r.Header.Set("Impersonate-User", guard.DefaultUser)
	response, err := w.admin.Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode/100 != 2 {
		w.t.Fatalf("%s %s: %d %s %v", method, path, response.StatusCode, answer, err)
	}
	return answer
}

// reset puts the namespace's Secrets as they are at the beginning of each attack.
func (w *world) reset() {
	w.t.Helper()
	w.secrets(http.MethodDelete, "", "")
	w.secrets(http.MethodPatch, "/"+managed+"?fieldManager=meshca", managedYAML)
	w.secrets(http.MethodPatch, "/foreign?fieldManager=meshca", foreignYAML)
}

// state is all that the namespace's Secrets are, with their versions.
func (w *world) state() string {
	w.t.Helper()
	var list struct{ Items json.RawMessage } // the list has a version of its own
	if err := json.Unmarshal(w.secrets(http.MethodGet, "", ""), &list); err != nil {
		w.t.Fatal(err)
	}
	return string(list.Items)
}

// token is one for a new ServiceAccount.
func (w *world) token(account string) string {
	w.t.Helper()
	w.must("", "create", "serviceaccount", account)
	return strings.TrimSpace(w.must("", "create", "token", account))
}

// wantNoData fails where an answer holds what a Secret holds, or the guard's message in it what somebody wanted
// to put there. What kubectl says of itself is its author's own: a refused client-side apply prints its patch.
func wantNoData(t testing.TB, answer string) {
	t.Helper()
	_, message, _ := strings.Cut(answer, "ValidatingAdmissionPolicy")
	for data, where := range map[string]string{hidden: answer, "PLACEHOLDER": message} {
		// In base64 the same beginning is the same text up to the last group of three.
		spelled := base64.StdEncoding.EncodeToString([]byte(data))[:8]
		if strings.Contains(where, data) || strings.Contains(where, spelled) {
			t.Errorf("the answer holds data:\n%s", answer)
		}
	}
}

// audited waits for a line of the audit log that has all the parts.
func (w *world) audited(parts ...string) {
	w.t.Helper()
	w.await(fmt.Sprintf("a line of the audit log with %q", parts), func() error {
		log, err := os.ReadFile(filepath.Join(w.dir, "audit.log"))
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(log)) {
			found := true
			for _, part := range parts {
				found = found && strings.Contains(line, part)
			}
			if found {
				return nil
			}
		}
		return errors.New("none")
	})
}
