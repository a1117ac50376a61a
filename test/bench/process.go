package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/meshca/meshca/test/bench/measure"
)

var services = []string{"envoy", "pgadmin", "bookapi", "bookapi-mcp-server", "timescaledb"}

const patience = 10 * time.Second

// process measures the real program: first start, heal, memory and idle time.
func process(dir, binary string, passes int, idle time.Duration) error {
	var starts, startFloors, heals, healFloors []time.Duration
	var resident int64
	var cpu float64
	for pass := range passes {
		home := filepath.Join(dir, fmt.Sprint(pass))
		p, took, err := firstStart(home, binary)
		if err != nil {
			return err
		}
		starts = append(starts, took)
		some, err := healEach(home)
		if err == nil && pass == passes-1 {
			resident, cpu, err = atRest(p.Process.Pid, idle)
		}
		if err := errors.Join(err, stop(p)); err != nil {
			return err
		}
		heals = append(heals, some...)
		floors, err := floors(filepath.Join(home, "floor"))
		if err != nil {
			return err
		}
		startFloors, healFloors = append(startFloors, floors[0]), append(healFloors, floors[1])
	}
	info, err := os.Stat(binary)
	if err != nil {
		return err
	}
	row("first start to five folders", starts, "7 keys and 33 synced files", startFloors)
	row("heal of one ca.crt", heals, "one synced set", healFloors)
	fmt.Printf("\n| resource | is |\n|---|---|\n| resident memory | %.1f MiB |\n| idle, of one core | %.3f %% |\n| stripped binary | %.1f MB |\n",
		float64(resident)/(1<<20), cpu, float64(info.Size())/1e6)
	return nil
}

// firstStart starts the program in an empty folder, and waits until all five folders stand.
func firstStart(home, binary string) (*exec.Cmd, time.Duration, error) {
	if err := os.Mkdir(home, 0o755); err != nil {
		return nil, 0, err
	}
	config := "version: 1\nlisten: {api: 127.0.0.1:0, metrics: 127.0.0.1:0}\ntarget: {directory: {path: mesh}}\nservices:\n"
	for _, s := range services {
		config += "- name: " + s + "\n"
	}
	path := filepath.Join(home, "meshca.yaml")
	if err := os.WriteFile(path, []byte(config), 0o644); err != nil {
		return nil, 0, err
	}
	p := exec.Command(binary, "serve", "--config", path)
	begin := time.Now()
	if err := p.Start(); err != nil {
		return nil, 0, err
	}
	err := await(func() bool {
		for _, s := range services {
			if _, err := os.Stat(filepath.Join(home, "mesh", s, "..data", "meshca.json")); err != nil {
				return false
			}
		}
		return true
	})
	return p, time.Since(begin), err
}

// healEach replaces each service's ca.crt through its link, three times, and measures until it is whole again.
func healEach(home string) ([]time.Duration, error) {
	var took []time.Duration
	for range 3 {
		for _, s := range services {
			path := filepath.Join(home, "mesh", s, "ca.crt")
			want, err := os.ReadFile(path)
			if err != nil {
				return nil, err
			}
			begin := time.Now()
			if err := os.WriteFile(path, []byte("foreign"), 0o644); err != nil {
				return nil, err
			}
			if err := await(func() bool {
				is, err := os.ReadFile(path)
				return err == nil && bytes.Equal(is, want)
			}); err != nil {
				return nil, fmt.Errorf("heal %s: %w", s, err)
			}
			took = append(took, time.Since(begin))
		}
	}
	return took, nil
}

// await looks every 200 µs until the condition holds.
func await(holds func() bool) error {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(200 * time.Microsecond) {
		if holds() {
			return nil
		}
	}
	return errors.New("did not happen in " + patience.String())
}

// atRest reads the resident memory, and the share of a core that the idle process uses over a while.
func atRest(pid int, idle time.Duration) (resident int64, percent float64, err error) {
	before, err := measure.CPU(pid)
	if err != nil {
		return 0, 0, err
	}
	time.Sleep(idle)
	after, err := measure.CPU(pid)
	if err != nil {
		return 0, 0, err
	}
	resident, err = measure.Resident(pid)
	return resident, 100 * (after - before).Seconds() / idle.Seconds(), err
}

// floors does the bare work of a first start and of a heal: keys, synced files and folders.
func floors(dir string) ([2]time.Duration, error) {
	begin := time.Now()
	for range len(services) + 2 {
		if _, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return [2]time.Duration{}, err
		}
	}
	for i := range len(services) {
		if err := syncedSet(filepath.Join(dir, fmt.Sprint(i))); err != nil {
			return [2]time.Duration{}, err
		}
	}
	for i := range 13 { // the store's commits, the seal and its identity
		if err := syncedFile(filepath.Join(dir, fmt.Sprint("commit", i))); err != nil {
			return [2]time.Duration{}, err
		}
	}
	start := time.Since(begin)
	begin = time.Now()
	err := syncedSet(filepath.Join(dir, "heal"))
	return [2]time.Duration{start, time.Since(begin)}, err
}

// syncedSet writes four files into a new folder and syncs all of it.
func syncedSet(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for i := range 4 {
		if err := syncedFile(filepath.Join(dir, fmt.Sprint(i))); err != nil {
			return err
		}
	}
	return errors.Join(syncFolder(dir), syncFolder(filepath.Dir(dir)))
}

func syncedFile(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = f.Write(make([]byte, 1000))
	return errors.Join(err, f.Sync(), f.Close())
}

func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
