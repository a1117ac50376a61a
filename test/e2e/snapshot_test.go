package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// An entry is one file, folder, link or socket of a tree.
type entry struct {
	Mode    fs.FileMode
	Content string // bytes of a file, target of a link
}

// A tree is what lies below a folder, by path relative to it. Times are not in it.
type tree map[string]entry

// snapshot reads the trees at the given paths below dir, or all of dir. What is not there is not in it.
func snapshot(t testing.TB, dir string, below ...string) tree {
	t.Helper()
	all := make(tree)
	if below == nil {
		below = []string{"."}
	}
	for _, top := range below {
		err := filepath.WalkDir(filepath.Join(dir, top), func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) && path == filepath.Join(dir, top) {
				return nil
			}
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(dir, path)
			if err != nil {
				return err
			}
			all[rel], err = readEntry(path, d)
			return err
		})
		must(t, err)
	}
	return all
}

func readEntry(path string, d fs.DirEntry) (e entry, err error) {
	info, err := d.Info()
	if err != nil {
		return e, err
	}
	e.Mode = info.Mode()
	switch {
	case e.Mode.IsRegular():
		content, err := os.ReadFile(path)
		e.Content = string(content)
		return e, err
	case e.Mode&fs.ModeSymlink != 0:
		e.Content, err = os.Readlink(path)
	}
	return e, err
}

// snapshot reads all that the program keeps.
func (m *Mesh) snapshot() tree {
	m.t.Helper()
	return snapshot(m.t, m.Dir, "data", "seal", "mesh")
}

// differences lists the paths in which two trees differ.
func differences(before, after tree) []string {
	var list []string
	for path, e := range before {
		switch now, there := after[path]; {
		case !there:
			list = append(list, path+" is gone")
		case now.Mode != e.Mode:
			list = append(list, fmt.Sprintf("%s has mode %v, had %v", path, now.Mode, e.Mode))
		case now.Content != e.Content:
			list = append(list, path+" has another content")
		}
	}
	for path := range after {
		if _, there := before[path]; !there {
			list = append(list, path+" is new")
		}
	}
	slices.Sort(list)
	return list
}

// checkUnchanged fails the test where two trees differ.
func checkUnchanged(t testing.TB, before, after tree) {
	t.Helper()
	for _, difference := range differences(before, after) {
		t.Errorf("changed: %s", difference)
	}
}

// restore makes what lies in dir what it was in a snapshot of it.
func restore(t testing.TB, dir string, to tree) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		must(t, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	for _, path := range slices.Sorted(maps.Keys(to)) {
		e, full := to[path], filepath.Join(dir, path)
		switch {
		case e.Mode.IsDir():
			must(t, os.MkdirAll(full, 0o700))
			must(t, os.Chmod(full, e.Mode.Perm()))
		case e.Mode.IsRegular():
			must(t, os.WriteFile(full, []byte(e.Content), 0o600))
			must(t, os.Chmod(full, e.Mode.Perm()))
		case e.Mode&fs.ModeSymlink != 0:
			must(t, os.Symlink(e.Content, full))
		}
	}
}

// copyFiles copies the files of a folder over those of another.
func copyFiles(t testing.TB, from, to string) {
	t.Helper()
	entries, err := os.ReadDir(from)
	must(t, err)
	for _, e := range entries {
		writeFile(t, filepath.Join(to, e.Name()), readFile(t, filepath.Join(from, e.Name())))
	}
}

// copyTree copies a tree, links as links.
func copyTree(t testing.TB, from, to string) {
	t.Helper()
	must(t, os.MkdirAll(to, 0o755))
	restore(t, to, snapshot(t, from))
}
