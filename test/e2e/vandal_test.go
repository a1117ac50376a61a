package e2e

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A vandal damages random files of a mesh in random ways, while the program heals them: any of its steps may
// find that the file has just gone, which is no concern of it. The same seed strikes in the same order.
type vandal struct {
	m       *Mesh
	rng     *rand.Rand
	foreign []byte // another CA's ca.crt
}

// rampage strikes until ctx ends, with pauses of at most the given length. It returns a function that waits
// for the end.
func (v *vandal) rampage(t testing.TB, ctx context.Context, pause time.Duration) (wait func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { // ends with ctx; owned by the caller, who waits
		defer close(done)
		for ctx.Err() == nil {
			v.strike(v.service())
			time.Sleep(time.Duration(v.rng.Int64N(int64(pause)))) // its pace, nothing waits for it
		}
	}()
	return func() { <-done }
}

func (v *vandal) service() string { return v.m.Services[v.rng.IntN(len(v.m.Services))] }

// strike does one harm to a service. Errors are of no concern: see [vandal].
func (v *vandal) strike(service string) {
	name := setFiles[v.rng.IntN(len(setFiles))]
	link, next := v.m.Path(service, name), v.m.Path(service, "next")
	switch v.rng.IntN(10) {
	case 0:
		_ = os.WriteFile(link, v.foreign, 0o644)
	case 1:
		_ = os.WriteFile(next, v.foreign, 0o644)
		_ = os.Rename(next, link)
	case 2:
		_ = os.Truncate(link, v.rng.Int64N(200))
	case 3:
		_ = os.Remove(link)
	case 4:
		_ = os.Remove(v.m.Path(service, dataLink, name))
	case 5:
		_ = os.Chmod(link, 0o666)
	case 6:
		_ = os.RemoveAll(v.m.Path(service))
	case 7:
		_ = os.Symlink(filepath.Join("..", v.service(), dataLink), next)
		_ = os.Rename(next, v.m.Path(service, dataLink))
	case 8:
		v.copyFrom(v.service(), service, name)
	case 9:
		_ = os.Remove(v.m.Path(service, dataLink))
	}
}

// copyFrom puts another service's file in a service's place.
func (v *vandal) copyFrom(from, to, name string) {
	content, err := os.ReadFile(v.m.Path(from, name))
	if err == nil {
		_ = os.WriteFile(v.m.Path(to, name), content, 0o600)
	}
}
