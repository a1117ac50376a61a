package e2e

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"
)

// A refusal is one state of the disk in which the program must not start.
type refusal struct {
	// prepare makes the state out of a mesh whose process has ended.
	prepare func(t *testing.T, m *Mesh)
	flags   []string
	// says are the parts of what it must answer, in any order; {dir} stands for the mesh's folder.
	says []string
}

var waysOn = []string{"hint: put the store back at {dir}/data/meshca.db", "start with --accept, which says first what will break"}

// refusals are all that TestRefusals tries.
func refusals() map[string]refusal {
	all := wrongRefusals()
	maps.Copy(all, lostRefusals())
	return all
}

// wrongRefusals are those in which something is there that must not be taken as it is.
func wrongRefusals() map[string]refusal {
	return map[string]refusal{
		"newer schema": {
			prepare: func(t *testing.T, m *Mesh) { setSchema(t, m.Store(), 9) },
			says:    []string{"schema 9", "schema 1", "{dir}/data/meshca.db"},
		},
		"older schema": {
			prepare: func(t *testing.T, m *Mesh) { setSchema(t, m.Store(), 0) },
			says:    []string{"schema 0", "schema 1"},
		},
		"store put back": {
			prepare: putStoreBack,
			says: []string{"{dir}/mesh/pgadmin holds leaf", "the store is older than what it serves",
				"hint: {dir}/mesh/pgadmin: put the newest copy of the store back"},
		},
		"another's seal with its identity": {
			prepare: func(t *testing.T, m *Mesh) {
				copyFiles(t, filepath.Dir(stopped(t).Seal()), filepath.Dir(m.Seal()))
				chmodSeal(t, m)
			},
			says: []string{"another store's seal", "{dir}/seal/seal.key belongs to store", "hint: put the seal of this store back",
				"start with --new-root"},
		},
		"another's seal alone": {
			prepare: func(t *testing.T, m *Mesh) { writeFile(t, m.Seal(), readFile(t, stopped(t).Seal())) },
			says:    []string{"another store's seal", "{dir}/seal/seal.key", "hint: put the seal of this store back"},
		},
		"seal readable by others": {
			prepare: func(t *testing.T, m *Mesh) { must(t, os.Chmod(m.Seal(), 0o644)) },
			says:    []string{"{dir}/seal/seal.key has mode 0644", "chmod 600"},
		},
		"seal cut short": {
			prepare: func(t *testing.T, m *Mesh) { must(t, os.Truncate(m.Seal(), 16)) },
			says:    []string{"{dir}/seal/seal.key has 16 bytes"},
		},
		"new root over a CA": {
			prepare: func(*testing.T, *Mesh) {},
			flags:   []string{"--new-root", "--yes"},
			says:    []string{"store {dir}/data/meshca.db holds a CA", "hint: start without --new-root"},
		},
		"store is damaged": {
			prepare: func(t *testing.T, m *Mesh) { writeFile(t, m.Store(), []byte(strings.Repeat("not a database ", 2000))) },
			says:    []string{"open store {dir}/data/meshca.db"},
		},
		"service name that climbs": {
			prepare: func(_ *testing.T, m *Mesh) { m.Configure(Settings{Services: []string{"envoy", "../pgadmin"}}) },
			says:    []string{"services[1].name", `"../pgadmin"`, "{dir}/meshca.yaml:"},
		},
		"unknown key": {
			prepare: func(_ *testing.T, m *Mesh) { m.ConfigureText(Settings{}.yaml() + "sweeep: 1s\n") },
			says:    []string{"{dir}/meshca.yaml:", "sweeep: unknown key (nearest: sweep)"},
		},
	}
}

// lostRefusals are those in which store, seal or both are lost: no new root in silence.
func lostRefusals() map[string]refusal {
	return map[string]refusal{
		"seal missing": {
			prepare: func(t *testing.T, m *Mesh) { must(t, os.RemoveAll(filepath.Dir(m.Seal()))) },
			says: []string{"store {dir}/data/meshca.db is there, but its seal {dir}/seal/seal.key: the seal is missing",
				"hint: put the seal of this store back"},
		},
		"store missing": {
			prepare: removeStore,
			says:    append([]string{"{dir}/data/meshca.db is empty, but there was one", "seal {dir}/seal/seal.key belongs to store"}, waysOn...),
		},
		"store emptied": {
			prepare: func(t *testing.T, m *Mesh) { must(t, os.Truncate(m.Store(), 0)) },
			says:    append([]string{"{dir}/data/meshca.db is empty, but there was one"}, waysOn...),
		},
		"store and mesh missing": {
			prepare: func(t *testing.T, m *Mesh) { removeStore(t, m); must(t, os.RemoveAll(m.Folders())) },
			says:    append([]string{"seal {dir}/seal/seal.key belongs to store"}, waysOn...),
		},
		"only mesh left": {
			prepare: func(t *testing.T, m *Mesh) { removeStore(t, m); must(t, os.RemoveAll(filepath.Dir(m.Seal()))) },
			says:    append([]string{"{dir}/mesh/", "was written by store"}, waysOn...),
		},
		"new root without a yes": {
			prepare: removeStore,
			flags:   []string{"--new-root"},
			says: []string{"{dir}/mesh/pgadmin", "CERTIFICATE_VERIFY_FAILED",
				"this needs a yes, and there is no terminal to ask on", "hint: run it on a terminal, or add --yes"},
		},
	}
}

// TestRefusals prepares one state each, and sees it refused by name, with a way on, and nothing changed.
func TestRefusals(t *testing.T) {
	t.Parallel()
	for name, r := range refusals() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := stopped(t)
			r.prepare(t, m)
			checkRefused(t, m, r.flags, r.says)
		})
	}
}

// checkRefused starts the program and sees that it ends with exit code 1, says why, and changes nothing.
func checkRefused(t *testing.T, m *Mesh, flags, says []string) {
	t.Helper()
	before := m.snapshot()
	p := m.Serve(flags...)
	if p.AwaitDecision() {
		t.Fatal("it serves instead of refusing")
	}
	if code := p.Wait(); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	out := p.out.String()
	for _, part := range says {
		if part = strings.ReplaceAll(part, "{dir}", m.Dir); !strings.Contains(out, part) {
			t.Errorf("it does not say %q", part)
		}
	}
	if !strings.Contains(out, "meshca: ") {
		t.Error("no line is the program's error")
	}
	checkUnchanged(t, before, m.snapshot())
}

// stopped is a mesh that was served and is not any more.
func stopped(t *testing.T) *Mesh {
	t.Helper()
	m := NewMesh(t, Settings{})
	if code := m.Start().Stop(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	CheckInvariants(t, m)
	return m
}

// setSchema writes another schema number into a store.
func setSchema(t *testing.T, path string, schema uint64) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, nil)
	must(t, err)
	must(t, db.Update(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte("meta")).Put([]byte("schema"), binary.BigEndian.AppendUint64(nil, schema))
	}))
	must(t, db.Close())
}

// putStoreBack makes the store what it was before pgadmin's newest leaf.
func putStoreBack(t *testing.T, m *Mesh) {
	t.Helper()
	old, before := readFile(t, m.Store()), m.View("pgadmin").Leaf(t)
	p := m.Start()
	must(t, os.Remove(m.Path("pgadmin", keyFile)))
	p.AwaitLine("healed", "service", "pgadmin")
	p.Stop()
	CheckInvariants(t, m)
	if m.View("pgadmin").Leaf(t).Equal(before) {
		t.Fatal("no new leaf was issued")
	}
	writeFile(t, m.Store(), old)
}

func removeStore(t *testing.T, m *Mesh) {
	t.Helper()
	must(t, os.RemoveAll(filepath.Dir(m.Store())))
}

// chmodSeal gives the seal's folder the modes that it has when the program makes it.
func chmodSeal(t *testing.T, m *Mesh) {
	t.Helper()
	must(t, os.Chmod(m.Seal(), 0o600))
}

// TestTwoProcesses starts a second process on one store: it names the first, which goes on.
func TestTwoProcesses(t *testing.T) {
	t.Parallel()
	m := NewMesh(t, Settings{})
	first := m.Start()
	checkRefused(t, m, nil, []string{"another process holds it", fmt.Sprintf("(pid %d, meshca)", first.PID()),
		"hint: one process holds a store"})
	if _, a := m.Status(); a.Code != 0 {
		t.Errorf("the first process answers with exit code %d", a.Code)
	}
	CheckInvariants(t, m)
}

// TestTwoFirstStarts starts two processes at once where there is nothing: one founds the CA, the other is
// refused, and what was founded can be opened again.
func TestTwoFirstStarts(t *testing.T) {
	for n := range 4 {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			m := NewMesh(t, Settings{})
			both := []*Process{m.Serve(), m.Serve()}
			served := 0
			for _, p := range both {
				if p.AwaitDecision() {
					served++
				}
			}
			if served != 1 {
				t.Fatalf("%d of two processes serve", served)
			}
			for _, p := range both {
				if !p.Ended() {
					m.AwaitSound(p)
					p.Stop()
				}
			}
			m.AwaitSound(m.Start())
			CheckInvariants(t, m)
		})
	}
}

// TestPortTaken names the field to change.
func TestPortTaken(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	says := []string{fmt.Sprintf("listen.metrics: %s is taken by another process", l.Addr()), "hint: change listen.metrics in {dir}/meshca.yaml"}

	m := stopped(t)
	m.Configure(Settings{Metrics: l.Addr().String()})
	checkRefused(t, m, nil, says)

	fresh := NewMesh(t, Settings{Metrics: l.Addr().String()})
	if code := fresh.Serve().Wait(); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	if _, err := os.Stat(fresh.Folders()); !os.IsNotExist(err) {
		t.Errorf("a first start that is refused has made %s: %v", fresh.Folders(), err)
	}
}

// TestNewRoot founds a new CA over the folders of a lost one, because somebody has said so.
func TestNewRoot(t *testing.T) {
	t.Parallel()
	m := stopped(t)
	old := m.root
	removeStore(t, m)
	m.root = ""
	p := m.Start("--new-root", "--yes")
	for _, part := range append([]string{"CERTIFICATE_VERIFY_FAILED", "putting it back breaks nothing"}, fiveServices...) {
		if !strings.Contains(p.out.String(), part) {
			t.Errorf("what breaks does not tell of %q", part)
		}
	}
	CheckInvariants(t, m)
	if m.root == old {
		t.Error("the root is the old one")
	}
	checkAllPairs(t, m)
	p.Stop()
	m.Start()
	CheckInvariants(t, m)
}

// TestMeshRemovedAlone: the folders can be made again from store and seal.
func TestMeshRemovedAlone(t *testing.T) {
	t.Parallel()
	m := stopped(t)
	must(t, os.RemoveAll(m.Folders()))
	m.Start()
	CheckInvariants(t, m)
	checkAllPairs(t, m)
}
