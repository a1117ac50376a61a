package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// others are the services beside pgadmin, whose folder is the one that cannot be kept in these tests.
func others() []string {
	return slices.DeleteFunc(slices.Clone(fiveServices), func(s string) bool { return s == "pgadmin" })
}

// nobody is the user of last resort, under whom a test of root's runs the program where rights matter.
var nobody = &syscall.Credential{Uid: 65534, Gid: 65534}

// newUnprivilegedMesh is a mesh whose program may not write where modes forbid it.
func newUnprivilegedMesh(t *testing.T, s Settings) *Mesh {
	t.Helper()
	if os.Geteuid() != 0 {
		return NewMesh(t, s)
	}
	dir := t.TempDir()
	must(t, os.Chmod(filepath.Dir(dir), 0o755)) // made for its owner alone
	must(t, os.Chown(dir, int(nobody.Uid), int(nobody.Gid)))
	m := NewMeshIn(t, dir, s)
	m.As = nobody
	return m
}

// TestReadOnlyFolder: the service whose folder cannot be written is failing, and named; the others are kept;
// nothing is issued for it; and it is kept again once the folder can be written.
func TestReadOnlyFolder(t *testing.T) {
	t.Parallel()
	m := newUnprivilegedMesh(t, Settings{})
	m.Start().Stop()
	CheckInvariants(t, m)

	must(t, os.Truncate(m.Path("pgadmin", keyFile), 0))
	must(t, os.Chmod(m.Path("pgadmin"), 0o555))
	t.Cleanup(func() { must(t, os.Chmod(m.Path("pgadmin"), 0o755)) })
	must(t, os.Truncate(m.Path("envoy", keyFile), 0))
	before := snapshot(t, m.Path("pgadmin"))

	p := m.Start()
	s := m.AwaitState(p, "pgadmin", "failing")
	if !strings.Contains(s.Error, m.Path("pgadmin")+" cannot be written") || s.Issued != 0 {
		t.Errorf("status of pgadmin: %+v", s)
	}
	checkNamed(t, m, "failing pgadmin", m.Path("pgadmin"))
	checkUnchanged(t, before, snapshot(t, m.Path("pgadmin")))
	m.Services = others()
	CheckInvariants(t, m)

	must(t, os.Chmod(m.Path("pgadmin"), 0o755))
	m.Services = fiveServices
	m.AwaitState(p, "pgadmin", "kept")
	CheckInvariants(t, m)
}

// checkNamed sees that the status ends with exit code 1, and says why in words for people.
func checkNamed(t *testing.T, m *Mesh, parts ...string) {
	t.Helper()
	a := m.Run("status", "--config", m.Config())
	if a.Code != 1 {
		t.Errorf("status ends with exit code %d, want 1", a.Code)
	}
	for _, part := range parts {
		if !strings.Contains(a.Stdout, part) {
			t.Errorf("status does not say %q:\n%s", part, a.Stdout)
		}
	}
}

// TestPartsOfNoMeshca: parts of a set that nobody could use are simply replaced.
func TestPartsOfNoMeshca(t *testing.T) {
	t.Parallel()
	forms := map[string][]string{"a key alone": {certFile, caFile}, "a bundle alone": {certFile, keyFile}}
	for name, without := range forms {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := NewMesh(t, Settings{})
			foreignFolder(t, m)
			for _, file := range without {
				must(t, os.Remove(m.Path("pgadmin", file)))
			}
			p := m.Start()
			m.AwaitSound(p)
			m.AwaitState(p, "pgadmin", "kept")
			CheckInvariants(t, m)
		})
	}
}

// foreignFolder gives pgadmin a set of another CA.
func foreignFolder(t *testing.T, m *Mesh) {
	t.Helper()
	must(t, os.MkdirAll(m.Path("pgadmin"), 0o755))
	newForeignCA(t).WriteSet(t, m.Path("pgadmin"), "pgadmin")
}

// TestTakeOver: a set that another CA signed is taken over: at once every ca.crt holds the union of trust, and
// leaf and key stay; who reads a folder cannot be seen, so the leaf is signed anew on the operator's word.
func TestTakeOver(t *testing.T) {
	t.Parallel()
	m := NewMesh(t, Settings{})
	foreignFolder(t, m)
	before := make(map[string][]byte)
	for _, file := range []string{certFile, keyFile, caFile} {
		var err error
		before[file], err = os.ReadFile(m.Path("pgadmin", file))
		must(t, err)
	}
	p := m.Start()
	m.AwaitState(p, "pgadmin", "taking over")
	during := m.View("pgadmin")
	for _, file := range []string{certFile, keyFile} {
		if !bytes.Equal(during.File[file], before[file]) {
			t.Errorf("%s was changed", file)
		}
	}
	for _, service := range fiveServices {
		if ca := m.View(service).File[caFile]; !bytes.Equal(ca, during.File[caFile]) || bytes.Count(ca, []byte("BEGIN CERTIFICATE")) != 2 ||
			!bytes.Contains(ca, bytes.TrimSpace(before[caFile])) {
			t.Errorf("%s does not hold the union of trust:\n%s", service, ca)
		}
	}
	p.Await("adopt says what is waited for", func() error {
		if a := m.Run("adopt", "--config", m.Config()); a.Code != 0 || !strings.Contains(a.Stdout, "unknown reader") {
			return fmt.Errorf("adopt: %d\n%s", a.Code, a.Stdout)
		}
		return nil
	})
	if a := m.Run("adopt", "pgadmin", "--config", m.Config(), "--continue"); a.Code != 0 || !strings.Contains(a.Stdout, "will refuse") {
		t.Errorf("adopt --continue: %d\n%s%s", a.Code, a.Stdout, a.Stderr)
	}
	m.AwaitState(p, "pgadmin", "kept")
	after := m.View("pgadmin")
	if bytes.Equal(after.File[certFile], before[certFile]) || !bytes.Equal(after.File[caFile], during.File[caFile]) {
		t.Error("the leaf was not signed anew, or the trust was changed in the same step")
	}
	if a := m.Run("adopt", "pgadmin", "--config", m.Config(), "--continue"); a.Code != 1 || !strings.Contains(a.Stderr, "nothing to do") {
		t.Errorf("adopt --continue again: %d\n%s%s", a.Code, a.Stdout, a.Stderr)
	}
}

// TestFoldersOfAnother: where the store has no record of a service, the mark says whose its folder is. It is refused
// alone where the store has records of others, at a start as when the catalogue is read again.
func TestFoldersOfAnother(t *testing.T) {
	t.Parallel()
	all := Settings{}
	few := Settings{Services: others()}
	foreign := stopped(t)

	m := NewMesh(t, few)
	m.Services = others()
	m.Start().Stop()
	CheckInvariants(t, m)
	copyTree(t, foreign.Path("pgadmin"), m.Path("pgadmin"))
	pgadmin := snapshot(t, m.Path("pgadmin"))

	for _, atStart := range []Settings{all, few} {
		m.Configure(atStart)
		p := m.Start()
		m.Configure(all)
		m.AwaitState(p, "pgadmin", "refused")
		checkNamed(t, m, "refused pgadmin", "was written by another meshca", "hint:")
		checkUnchanged(t, pgadmin, snapshot(t, m.Path("pgadmin")))
		CheckInvariants(t, m)
		p.Stop()
	}
}

// TestFirstStartInAnothersFolders: a first start beside folders that another meshca wrote is refused.
func TestFirstStartInAnothersFolders(t *testing.T) {
	t.Parallel()
	m := NewMesh(t, Settings{})
	copyTree(t, stopped(t).Folders(), m.Folders())
	checkRefused(t, m, nil, append([]string{"was written by store"}, waysOn...))
}

// TestMarkIsContent: where the store has records the store decides, and another's mark is healed like all else.
func TestMarkIsContent(t *testing.T) {
	t.Parallel()
	m := stopped(t)
	must(t, os.RemoveAll(m.Path("pgadmin")))
	copyTree(t, stopped(t).Path("pgadmin"), m.Path("pgadmin"))
	p := m.Start()
	m.AwaitSound(p)
	if n := len(p.Lines("healed", "service", "pgadmin")); n != 1 {
		t.Errorf("%d lines tell of the healing, want 1", n)
	}
	checkAllPairs(t, m)
}
