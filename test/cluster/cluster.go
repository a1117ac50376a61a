// Package cluster starts a real etcd and kube-apiserver for tests and for people, without root and without a
// network: several at once, each on free ports of 127.0.0.1, with RBAC.
//
// # What it guarantees
//
// Every process that it starts ends with Stop, and also when the process that started it ends in any way: the
// kernel ends the children then.
package cluster

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/meshca/meshca/test/need"
)

// ServiceRange is the range of Service addresses: one that no host routes.
const ServiceRange = "198.19.0.0/16"

const (
	readyWithin = 60 * time.Second // on an idle machine some 4 s: docs/testing.md
	stopWithin  = 10 * time.Second
)

// A Kind is what a cluster consists of.
type Kind string

// API is etcd and kube-apiserver, and the controller manager on request. It keeps all objects, and runs no pod.
const API Kind = "api"

// starters start a cluster of each kind. One with a node has its place here.
var starters = map[Kind]func(context.Context, *Cluster, Options) error{API: startAPI}

// Options say what is started.
type Options struct {
	// Kind is what it consists of; API where it is "".
	Kind Kind
	// Dir is where everything lies: certificates, kubeconfig, logs, etcd's data. It must exist.
	Dir string
	// ControllerManager starts the controller manager too: garbage collection, ServiceAccounts, rollouts.
	ControllerManager bool
	// AuditLog writes who asked for what to DIR/audit.log, one line of JSON a request, without the objects.
	AuditLog bool
}

// A Cluster is a running API server.
type Cluster struct {
	Kubeconfig string // of cluster-admin
	Kubectl    string // path of the program
	Server     string // https URL

	bin, dir  string
	apiserver []string // its flags
	processes []*process
}

// Need starts a cluster for a test and stops it at its end. Where the programs are not built the test is
// skipped, or they are built where skips are failures.
func Need(t testing.TB, o Options) *Cluster {
	t.Helper()
	NeedPrograms(t)
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	c, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// NeedPrograms is Need for a test that starts clusters itself.
func NeedPrograms(t testing.TB) {
	t.Helper()
	if !Built() && os.Getenv("MESHCA_TEST_REQUIRE") != "all" {
		need.Skip(t, "kube-apiserver is not built (make cluster-up builds it)")
	}
	if err := Build(t.Context(), t.Output()); err != nil {
		t.Fatal(err)
	}
}

// Start starts a cluster of programs that are built, and returns when the API server is ready. After an error
// nothing is left running.
func Start(ctx context.Context, o Options) (*Cluster, error) {
	start, known := starters[cmp.Or(o.Kind, API)]
	if !known {
		return nil, fmt.Errorf("no kind of cluster is called %q: there is %q", o.Kind, slices.Sorted(maps.Keys(starters)))
	}
	bin, err := Binaries()
	if err != nil {
		return nil, err
	}
	c := &Cluster{Kubectl: filepath.Join(bin, "kubectl"), bin: bin, dir: o.Dir}
	if err := start(ctx, c, o); err != nil {
		return nil, errors.Join(err, c.Stop())
	}
	return c, nil
}

// startAPI starts the servers of kind API.
func startAPI(ctx context.Context, c *Cluster, o Options) error {
	ca, err := newAuthority(o.Dir)
	if err != nil {
		return err
	}
	ports, err := freePorts(3)
	if err != nil {
		return err
	}
	c.Server = fmt.Sprintf("https://127.0.0.1:%d", ports[2])
	if err := errors.Join(ca.issue("etcd", "etcd"), ca.issue("apiserver", "kube-apiserver"), ca.issue("serviceaccounts", "serviceaccounts"),
		ca.issue("admin", "admin", "system:masters"), ca.issue("controller-manager", "system:kube-controller-manager")); err != nil {
		return err
	}
	if c.Kubeconfig, err = ca.kubeconfig("admin", c.Server); err != nil {
		return err
	}
	if err := c.start("etcd", etcdFlags(o.Dir, ports)...); err != nil {
		return err
	}
	audit, err := auditFlags(o)
	if err != nil {
		return err
	}
	c.apiserver = append(apiserverFlags(o.Dir, ports), audit...)
	if err := c.startAPIServer(ctx); err != nil {
		return err
	}
	if !o.ControllerManager {
		return nil
	}
	return c.startControllerManager(ca)
}

// startControllerManager comes after the API server is ready: before, it ends for want of its role.
func (c *Cluster) startControllerManager(ca *authority) error {
	manager, err := ca.kubeconfig("controller-manager", c.Server)
	if err != nil {
		return err
	}
	return c.start("kube-controller-manager", "--kubeconfig="+manager, "--secure-port=0", "--leader-elect=false",
		"--use-service-account-credentials", "--service-account-private-key-file="+filepath.Join(c.dir, "serviceaccounts.key"),
		"--root-ca-file="+filepath.Join(c.dir, "ca.crt"))
}

// startAPIServer returns when it is ready.
func (c *Cluster) startAPIServer(ctx context.Context) error {
	if err := c.start("kube-apiserver", c.apiserver...); err != nil {
		return err
	}
	return c.awaitReady(ctx, c.dir)
}

// RestartAPIServer stops the API server, calls between while there is none, and starts it again on the same port and
// the same etcd. It returns when it is ready. Nobody else may call the cluster's methods at the same time.
func (c *Cluster) RestartAPIServer(ctx context.Context, between func()) error {
	i := slices.IndexFunc(c.processes, func(p *process) bool { return p.name == "kube-apiserver" })
	if i < 0 {
		return errors.New("no API server runs")
	}
	if err := c.processes[i].stop(); err != nil {
		return err
	}
	c.processes = slices.Delete(c.processes, i, i+1)
	between()
	return c.startAPIServer(ctx)
}

func etcdFlags(dir string, ports []int) []string {
	in := func(name string) string { return filepath.Join(dir, name) }
	client, peer := fmt.Sprintf("https://127.0.0.1:%d", ports[0]), fmt.Sprintf("http://127.0.0.1:%d", ports[1])
	return []string{
		"--data-dir=" + in("etcd"), "--unsafe-no-fsync",
		"--listen-client-urls=" + client, "--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer, "--initial-cluster=default=" + peer,
		"--cert-file=" + in("etcd.crt"), "--key-file=" + in("etcd.key"),
		"--client-cert-auth", "--trusted-ca-file=" + in("ca.crt"),
	}
}

func apiserverFlags(dir string, ports []int) []string {
	in := func(name string) string { return filepath.Join(dir, name) }
	return []string{
		fmt.Sprintf("--etcd-servers=https://127.0.0.1:%d", ports[0]),
		"--etcd-cafile=" + in("ca.crt"), "--etcd-certfile=" + in("apiserver.crt"), "--etcd-keyfile=" + in("apiserver.key"),
		"--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", ports[2]),
		"--endpoint-reconciler-type=none", "--service-cluster-ip-range=" + ServiceRange,
		"--client-ca-file=" + in("ca.crt"), "--tls-cert-file=" + in("apiserver.crt"), "--tls-private-key-file=" + in("apiserver.key"),
		"--authorization-mode=Node,RBAC",
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + in("serviceaccounts.pub"), "--service-account-signing-key-file=" + in("serviceaccounts.key"),
	}
}

// auditFlags writes the policy of the audit log, where one is wanted. A line may come after the answer.
func auditFlags(o Options) ([]string, error) {
	if !o.AuditLog {
		return nil, nil
	}
	const policy = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules: [{level: Metadata}]\n"
	path := filepath.Join(o.Dir, "audit.yaml")
	return []string{"--audit-policy-file=" + path, "--audit-log-path=" + filepath.Join(o.Dir, "audit.log")},
		os.WriteFile(path, []byte(policy), 0o600)
}

// awaitReady asks /readyz until it says yes, a server has ended, or ctx has.
func (c *Cluster) awaitReady(ctx context.Context, dir string) error {
	pem, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "admin.crt"), filepath.Join(dir, "admin.key"))
	if err != nil {
		return err
	}
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}},
	}}
	defer client.CloseIdleConnections()
	for deadline := time.Now().Add(readyWithin); time.Now().Before(deadline); {
		if response, err := client.Get(c.Server + "/readyz"); err == nil {
			response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return nil
			}
		}
		for _, p := range c.processes {
			if p.ended() {
				return fmt.Errorf("%s has ended: see %s", p.name, p.log)
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	return fmt.Errorf("the API server is not ready after %s: see the logs in %s", readyWithin, dir)
}

// Stop ends all processes, the last started first, and waits for their end.
func (c *Cluster) Stop() error {
	var errs []error
	for i := len(c.processes) - 1; i >= 0; i-- {
		errs = append(errs, c.processes[i].stop())
	}
	c.processes = nil
	return errors.Join(errs...)
}

// PIDs lists the running processes.
func (c *Cluster) PIDs() []int {
	var pids []int
	for _, p := range c.processes {
		pids = append(pids, p.cmd.Process.Pid)
	}
	return pids
}

// freePorts lists ports of 127.0.0.1 that nobody listens on. Somebody may take one before it is used: then
// the start fails, and says so.
func freePorts(n int) (ports []int, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

// A process is one running program.
type process struct {
	name, log string
	cmd       *exec.Cmd
	done      chan struct{} // closed at its end
}

// start starts a program with its output at the end of DIR/NAME.log.
func (c *Cluster) start(name string, args ...string) error {
	p := &process{name: name, log: filepath.Join(c.dir, name+".log"), done: make(chan struct{})}
	out, err := os.OpenFile(p.log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o666)
	if err != nil {
		return err
	}
	p.cmd = exec.Command(filepath.Join(c.bin, name), args...)
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() { // ends with the program: owned by p
		defer close(p.done)
		defer out.Close()
		// The kernel ends the child with the thread that made it, so that thread stays until the end.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			_ = p.cmd.Wait() // how it ended is in its log
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	c.processes = append(c.processes, p)
	return nil
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// stop asks the program to end, and ends it where it does not.
func (p *process) stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.done:
	case <-time.After(stopWithin):
		if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return err
		}
		<-p.done
	}
	return nil
}
