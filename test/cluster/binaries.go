package cluster

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// The versions that kubernetes/go.mod pins; binaries of different ones lie apart.
const (
	kubernetesVersion = "v1.37.2"
	etcdVersion       = "v3.7.3"
)

// programs are what is built, with their packages.
var programs = map[string]string{
	"etcd":                    "go.etcd.io/etcd/server/v3",
	"kube-apiserver":          "k8s.io/kubernetes/cmd/kube-apiserver",
	"kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
	"kubectl":                 "k8s.io/kubernetes/cmd/kubectl",
}

// Binaries is the folder that holds the built programs: in the user's cache, outside of the checkout, so that
// a clean checkout does not build them again.
func Binaries() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(cache, "meshca", kubernetesVersion+"-etcd-"+etcdVersion), nil
}

// Built says whether all programs are there.
func Built() bool {
	dir, err := Binaries()
	if err != nil {
		return false
	}
	for name := range programs {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return false
		}
	}
	return true
}

// Build builds what is missing from the Go module proxy, some fourteen minutes of one core at the first time,
// and tells of it. Several processes may call it at once: one builds, the others wait.
func Build(ctx context.Context, progress io.Writer) error {
	if Built() {
		return nil
	}
	dir, err := Binaries()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	unlock, err := lock(filepath.Join(dir, ".lock"))
	if err != nil {
		return err
	}
	defer unlock()
	module, err := moduleDir(ctx)
	if err != nil {
		return err
	}
	for _, name := range []string{"etcd", "kube-apiserver", "kube-controller-manager", "kubectl"} {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err == nil {
			continue
		}
		begin := time.Now()
		fmt.Fprintf(progress, "building %s, once for all checkouts …\n", name)
		if err := build(ctx, module, programs[name], path); err != nil {
			return fmt.Errorf("build %s: %w", name, err)
		}
		fmt.Fprintf(progress, "built %s in %s\n", name, time.Since(begin).Round(time.Second))
	}
	return nil
}

// build builds one program, and puts it in place when it is whole.
func build(ctx context.Context, module, pkg, path string) error {
	const component = "k8s.io/component-base/version."
	flags := "-s -w -X " + component + "gitVersion=" + kubernetesVersion + " -X " + component + "gitMajor=1 -X " + component + "gitMinor=37"
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", flags, "-o", path+".new", pkg)
	cmd.Dir = module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=readonly -buildvcs=false")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, bytes.TrimSpace(out))
	}
	return os.Rename(path+".new", path)
}

// moduleDir is the folder of the module that pins the programs.
func moduleDir(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/meshca/meshca").Output()
	if err != nil {
		return "", fmt.Errorf("find the checkout: %w", err)
	}
	return filepath.Join(strings.TrimSpace(string(out)), "test", "cluster", "kubernetes"), nil
}

// lock waits for an exclusive lock on a file.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}
