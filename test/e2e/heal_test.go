package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const catFromShell = "cat from a shell"

// overwrites are the ways in which people replace a ca.crt.
var overwrites = map[string]func(t *testing.T, path string, content []byte){
	"written through the link": func(t *testing.T, path string, content []byte) { writeFile(t, path, content) },
	"replaced by rename": func(t *testing.T, path string, content []byte) {
		next := filepath.Join(t.TempDir(), caFile)
		writeFile(t, next, content)
		must(t, os.Rename(next, path))
	},
	// A shell empties the file before the program that fills it has even started: under load that may be told as it was then.
	catFromShell: func(t *testing.T, path string, content []byte) {
		source := filepath.Join(t.TempDir(), "other-ca.crt")
		writeFile(t, source, content)
		if a := runCommand(t, "", "sh", "-c", fmt.Sprintf("cat %q > %q", source, path)); a.Code != 0 {
			t.Fatal(a.Stderr)
		}
	},
}

// TestMesh uses the five folders for real, makes the incident by hand, and sees it healed.
func TestMesh(t *testing.T) {
	t.Parallel()
	for name, overwrite := range overwrites {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := NewMesh(t, Settings{Sweep: "1s"})
			p := m.Start()
			CheckInvariants(t, m)
			checkAllPairs(t, m)
			healthy, foreign := m.Views(), newForeignCA(t)
			checkBroken(t, healthy, "pgadmin", foreign.PEM())

			overwrite(t, m.Path("pgadmin", caFile), foreign.PEM())
			p.AwaitLine("healed")
			m.AwaitSound(p)
			m.AwaitSweep(p) // whatever else it wanted to do, it has done
			checkAllPairs(t, m)
			seen := []string{shortFingerprint(foreign.cert)}
			if name == catFromShell {
				seen = append(seen, "empty")
			}
			checkTold(t, m, p, seen)
			if !m.View("pgadmin").Leaf(t).Equal(healthy["pgadmin"].Leaf(t)) {
				t.Error("the leaf was replaced, though its key was there")
			}
		})
	}
}

// checkTold sees that exactly one line tells of the incident's healing: where, what was seen, which may be one of some,
// and what was wanted.
func checkTold(t *testing.T, m *Mesh, p *Process, seen []string) {
	t.Helper()
	lines := p.Lines("healed")
	if len(lines) != 1 {
		t.Errorf("%d lines tell of the healing, want 1", len(lines))
	}
	if got := lines[0].Get("seen"); !slices.ContainsFunc(seen, func(s string) bool { return strings.Contains(got, s) }) {
		t.Errorf("the line says that %q was seen, want one of %q", got, seen)
	}
	wanted := map[string]string{"service": "pgadmin", "file": caFile, "wanted": m.root[:11], "leaf": "kept"}
	for field, want := range wanted {
		if got := lines[0].Get(field); !strings.Contains(got, want) {
			t.Errorf("the line says %s %q, want %q", field, got, want)
		}
	}
}

// checkBroken shows that the incident is one: with a foreign ca.crt in its view a service refuses all
// others, as a client and as a server, because it does not know their authority.
func checkBroken(t *testing.T, healthy map[string]View, service string, bundle []byte) {
	t.Helper()
	broken := healthy[service].Trusting(bundle)
	for name, other := range healthy {
		if name == service {
			continue
		}
		if refused, _ := handshake(broken, other); !unknownAuthority(refused) {
			t.Errorf("%s with a foreign ca.crt dials %s: %v, want an unknown authority", service, name, refused)
		}
		if alert, refused := handshake(other, broken); !unknownAuthority(refused) || alert == nil {
			t.Errorf("%s dials %s with a foreign ca.crt: %v there, %v here, want an unknown authority", name, service, refused, alert)
		}
	}
}

// A harm is one thing that somebody does to the folders of a mesh.
type harm struct {
	do        func(t *testing.T, m *Mesh)
	renewed   []string // services whose key did not survive
	extraGone bool     // it takes what else is in the folder with it
}

// harms are what TestHeal heals. The service in the middle is pgadmin.
func harms() map[string]harm {
	const victim = "pgadmin"
	all := map[string]harm{
		"the service's folder deleted": {do: remove(victim), renewed: []string{victim}, extraGone: true},
		"all folders deleted":          {do: remove(""), renewed: fiveServices, extraGone: true},
		"..data deleted":               {do: remove(victim, dataLink), renewed: []string{victim}},
		"..data leads to another's":    {do: relink(victim, "../envoy/..data"), renewed: []string{victim}},
		"..data leads nowhere":         {do: relink(victim, "..2026_01_01_00_00_00.000000000"), renewed: []string{victim}},
		"..data leads to itself":       {do: relink(victim, dataLink), renewed: []string{victim}},
		"..data is a folder":           {do: dataAsFolder(victim)},
		"tls.crt is a folder":          {do: fileAsFolder(victim, certFile)},
		"mark edited":                  {do: edit(victim, markFile, `"epoch": 1`, `"epoch": 7`)},
		"mark of another service":      {do: edit(victim, markFile, victim, "envoy")},
		"mark respaced":                {do: edit(victim, markFile, "  ", "\t")},
		"comment in ca.crt":            {do: edit(victim, caFile, "-----BEGIN", "# ours\n-----BEGIN")},
		"leaf without its chain":       {do: cutChain(victim)},
		"two services' sets swapped":   {do: swap(victim, "envoy", setFiles...), renewed: []string{victim, "envoy"}},
		"two services' leaves swapped": {do: swap(victim, "envoy", certFile)},
		"two services' keys swapped":   {do: swap(victim, "envoy", keyFile), renewed: []string{victim, "envoy"}},
		"a foreign set":                {do: foreignSet(victim), renewed: []string{victim}},
	}
	for _, name := range setFiles {
		var renewed []string
		if name == keyFile {
			renewed = []string{victim}
		}
		all[name+" deleted"] = harm{do: remove(victim, name), renewed: renewed}
		all[name+" deleted in ..data"] = harm{do: remove(victim, dataLink, name), renewed: renewed}
		all[name+" emptied"] = harm{do: truncate(victim, name, 0), renewed: renewed}
		all[name+" cut in half"] = harm{do: truncate(victim, name, 100), renewed: renewed}
		all[name+" chmod 0666"] = harm{do: chmod(0o666, victim, name)}
		all[name+" chmod 0400"] = harm{do: chmod(0o400, victim, name)}
	}
	return all
}

// TestHeal does one harm to a mesh each, and waits until all folders stand again. A leaf is kept where its
// key survived and new otherwise, and what is nobody's business stays.
func TestHeal(t *testing.T) {
	t.Parallel()
	for name, h := range harms() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			checkHealed(t, NewMesh(t, Settings{}), h)
		})
	}
}

// TestHealRelativePaths runs the program as README's reader does, with a config file in the working folder.
func TestHealRelativePaths(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"all folders deleted", "the service's folder deleted", "ca.crt emptied"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := NewMesh(t, Settings{})
			p := startProcess(t, m.Dir, nil, "serve", "--config", "meshca.yaml", "--log", "json")
			p.AwaitServing()
			CheckInvariants(t, m)
			p.Paused(func() { harms()[name].do(t, m) })
			m.AwaitSound(p)
		})
	}
}

func checkHealed(t *testing.T, m *Mesh, h harm) {
	p := m.Start()
	CheckInvariants(t, m)
	before := m.Views()
	must(t, os.MkdirAll(m.Path("pgadmin", "extra"), 0o755))
	writeFile(t, m.Path("pgadmin", "extra", "notes.txt"), []byte("not meshca's"))
	extra := snapshot(t, m.Path("pgadmin"), "extra")

	p.Paused(func() { h.do(t, m) })
	m.AwaitSound(p)
	checkAllPairs(t, m)
	after := m.Views()
	renewed := make(map[string]bool)
	for _, service := range h.renewed {
		renewed[service] = true
	}
	for service, v := range after {
		kept := v.Leaf(t).Equal(before[service].Leaf(t))
		if kept == renewed[service] {
			t.Errorf("%s: leaf kept is %v", service, kept)
		}
	}
	if !h.extraGone {
		checkUnchanged(t, extra, snapshot(t, m.Path("pgadmin"), "extra"))
	}
	if code := p.Stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	CheckInvariants(t, m)
}

func remove(service string, path ...string) func(*testing.T, *Mesh) {
	return func(t *testing.T, m *Mesh) { must(t, os.RemoveAll(m.Path(service, path...))) }
}

// relink makes ..data lead elsewhere, in one step.
func relink(service, to string) func(*testing.T, *Mesh) {
	return func(t *testing.T, m *Mesh) {
		next := m.Path(service, "next")
		must(t, os.Symlink(to, next))
		must(t, os.Rename(next, m.Path(service, dataLink)))
	}
}

func truncate(service, name string, size int64) func(*testing.T, *Mesh) {
	return func(t *testing.T, m *Mesh) { must(t, os.Truncate(m.Path(service, name), size)) }
}

func chmod(mode os.FileMode, service, name string) func(*testing.T, *Mesh) {
	return func(t *testing.T, m *Mesh) { must(t, os.Chmod(m.Path(service, name), mode)) }
}

// edit replaces words in a file by others, through the link and without emptying the file first.
func edit(service, name, old, new string) func(*testing.T, *Mesh) {
	return func(t *testing.T, m *Mesh) {
		content := strings.ReplaceAll(string(readFile(t, m.Path(service, name))), old, new)
		f, err := os.OpenFile(m.Path(service, name), os.O_WRONLY, 0)
		must(t, err)
		_, err = f.WriteString(content)
		must(t, errors.Join(err, f.Close()))
	}
}

// cutChain takes the issuing CA from tls.crt.
func cutChain(service string) func(*testing.T, *Mesh) {
	return func(t *testing.T, m *Mesh) {
		leaf, _, _ := strings.Cut(string(readFile(t, m.Path(service, certFile))), "-----END")
		size := int64(len(leaf) + len("-----END CERTIFICATE-----\n"))
		must(t, os.Truncate(m.Path(service, certFile), size))
	}
}

// dataAsFolder makes ..data a folder with the same files.
func dataAsFolder(service string) func(*testing.T, *Mesh) {
	return func(t *testing.T, m *Mesh) {
		v := m.View(service)
		must(t, os.Remove(m.Path(service, dataLink)))
		must(t, os.Rename(v.Data, m.Path(service, dataLink)))
	}
}

// fileAsFolder makes the link to a file a folder.
func fileAsFolder(service, name string) func(*testing.T, *Mesh) {
	return func(t *testing.T, m *Mesh) {
		must(t, os.Remove(m.Path(service, name)))
		must(t, os.Mkdir(m.Path(service, name), 0o755))
	}
}

// swap exchanges files of two services, each in one step.
func swap(a, b string, names ...string) func(*testing.T, *Mesh) {
	return func(t *testing.T, m *Mesh) {
		va, vb := m.View(a), m.View(b)
		for _, name := range names {
			next := m.Path(a, "next")
			writeFile(t, next, va.File[name])
			other := m.Path(b, "next")
			writeFile(t, other, vb.File[name])
			must(t, os.Rename(other, filepath.Join(va.Data, name)))
			must(t, os.Rename(next, filepath.Join(vb.Data, name)))
		}
	}
}

// foreignSet replaces all of a service's files by another CA's, as a deployment script does.
func foreignSet(service string) func(*testing.T, *Mesh) {
	return func(t *testing.T, m *Mesh) {
		next := t.TempDir()
		newForeignCA(t).WriteSet(t, next, service)
		for _, name := range []string{keyFile, certFile, caFile} {
			must(t, os.Rename(filepath.Join(next, name), m.Path(service, name)))
		}
	}
}
