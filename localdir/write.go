package localdir

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshca/meshca/rotation"
)

// temporary begins the name of a link that is about to be renamed into place.
const temporary = "..tmp_"

// Write implements [rotation.Target]: a new data folder is written and synced, then ..data is renamed over
// to it. Before the rename readers see the old set whole, after it the new one.
//
// All of it goes through an [os.Root]: whoever may write into the folder cannot lead us out of it by links.
func (t *Target) Write(ctx context.Context, service string, m rotation.Material, _ rotation.Version) error {
	dir := t.Place(service)
	if m.Key == nil { // leaf and key stay: they go into the new data folder with the rest
		o, err := t.Observe(ctx, service)
		if err != nil {
			return err
		}
		m.Cert, m.Key = o.Cert, o.Key
	}
	if err := t.makeFolder(dir); err != nil {
		return err
	}
	root, err := t.open(service)
	if err != nil {
		return err
	}
	defer root.Close()
	data, err := t.makeData(root, shared(root), m)
	if err == nil {
		err = t.swap(root, data, m)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", dir, err), discard(root, data))
	}
	return syncDir(root, ".")
}

// swap puts a data folder in place. The links of the files lead through ..data, so they are right before
// and after it.
func (t *Target) swap(root *os.Root, data string, m rotation.Material) error {
	content := contents(m)
	for _, name := range files {
		if content[name] == nil {
			continue
		}
		if err := t.link(root, name, filepath.Join(dataLink, name)); err != nil {
			return err
		}
	}
	return t.link(root, dataLink, data)
}

// discard removes a data folder that did not come into place: it holds a key that nobody will use.
func discard(root *os.Root, data string) error {
	if current, err := root.Readlink(dataLink); data == "" || err == nil && current == data {
		return nil
	}
	return removeData(root, data)
}

// removeData removes a data folder with the files of a set. What others have put into it is not removed:
// they could go on for ever.
func removeData(root *os.Root, data string) error {
	for _, file := range files {
		if err := root.Remove(filepath.Join(data, file)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return root.Remove(data)
}

// makeFolder makes the service's folder, and the one of all services, where they are missing.
func (t *Target) makeFolder(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	above, err := os.OpenRoot(filepath.Dir(t.root))
	if err != nil {
		return err
	}
	defer above.Close()
	return errors.Join(syncDir(above, filepath.Base(t.root)), syncDir(above, "."))
}

// makeData writes the set into a new timestamped folder and returns its name, also with an error.
func (t *Target) makeData(root *os.Root, shared bool, m rotation.Material) (name string, err error) {
	mode := fs.FileMode(0o755)
	if shared {
		mode |= fs.ModeSetgid
	}
	for at := t.now(); ; at = at.Add(time.Nanosecond) {
		name = at.UTC().Format(stamp)
		if err := root.Mkdir(name, 0o700); err == nil {
			break
		} else if !errors.Is(err, fs.ErrExist) {
			return "", err
		}
	}
	if err := root.Chmod(name, mode); err != nil { // past the umask
		return name, err
	}
	content := contents(m)
	for _, file := range files {
		if content[file] == nil {
			continue
		}
		if err := writeFile(root, filepath.Join(name, file), content[file], fileMode(file, content[file], shared)); err != nil {
			return name, err
		}
	}
	return name, syncDir(root, name)
}

// contents are the files of a set; nil is none.
func contents(m rotation.Material) map[string][]byte {
	return map[string][]byte{
		rotation.CertFile: m.Cert, rotation.KeyFile: m.Key, rotation.CAFile: m.CA, MarkFile: markJSON(m.Mark),
	}
}

// writeFile writes a new file of the given mode, durably.
func writeFile(root *os.Root, name string, content []byte, mode fs.FileMode) error {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
}

// link makes name a link to target, in one step and whatever is there: a file, a link or a folder.
func (t *Target) link(root *os.Root, name, target string) error {
	if to, err := root.Readlink(name); err == nil && to == target {
		return nil
	}
	if info, err := root.Lstat(name); err == nil && info.IsDir() {
		// A folder cannot be renamed over. It is moved aside and not deleted: it is not ours.
		if err := root.Rename(name, name+t.now().UTC().Format(".foreign_2006_01_02_15_04_05.000000000")); err != nil {
			return err
		}
	}
	next := temporary + rand.Text() // which nobody else has taken
	if err := root.Symlink(target, next); err != nil {
		return err
	}
	return root.Rename(next, name)
}

// Tidy implements [rotation.Target]: it removes data folders that were replaced more than a minute ago, or
// never put in place, and temporary links that a crash left.
func (t *Target) Tidy(_ context.Context, service string) error {
	root, err := t.open(service)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, rotation.ErrNotWritable) {
		return nil // Observe names what is wrong
	}
	if err != nil {
		return err
	}
	defer root.Close()
	entries, err := entries(root)
	if err != nil {
		return err
	}
	current, err := root.Readlink(dataLink)
	if err != nil {
		return nil // nothing is in place: what is there may be all that is left
	}
	var names []string
	var failed []error
	for _, e := range entries {
		switch {
		case e.IsDir() && isStamp(e.Name()):
			names = append(names, e.Name())
		case e.Type() == fs.ModeSymlink && strings.HasPrefix(e.Name(), temporary):
			failed = append(failed, root.Remove(e.Name()))
		}
	}
	for _, name := range replaced(names, current, t.now()) {
		failed = append(failed, removeData(root, name))
	}
	return errors.Join(failed...)
}

// maxEntries is how many names of a folder Tidy looks at: more is somebody else's doing.
const maxEntries = 4096

func entries(root *os.Root) ([]fs.DirEntry, error) {
	d, err := root.Open(".")
	if err != nil {
		return nil, err
	}
	defer d.Close()
	list, err := d.ReadDir(maxEntries)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return list, err
}

// replaced picks the data folders that no reader needs any more. A folder was replaced when the next newer
// one was made; one that is newer than the current, which a crash or a clock that went back leaves, when
// the current was.
func replaced(names []string, current string, now time.Time) []string {
	var stale []string
	slices.Sort(names)
	for i, name := range names {
		if name == current {
			continue
		}
		successor := current
		if name < current && i+1 < len(names) {
			successor = names[i+1]
		}
		at, err := time.Parse(stamp, successor)
		if err == nil && now.Sub(at).Abs() >= keep {
			stale = append(stale, name)
		}
	}
	return stale
}

func syncDir(root *os.Root, name string) error {
	// O_NONBLOCK: it may have been exchanged for a pipe.
	d, err := root.OpenFile(name, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
