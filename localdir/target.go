// Package localdir keeps services' certificates in folders, one a service, for machines without a cluster.
//
// # What it guarantees
//
// A folder is laid out and swapped as the kubelet does it: the files are links through ..data, which is
// a link to a timestamped folder that is written whole before ..data is renamed over. A reader who opens
// ..data once, or watches it as Envoy's watched_directory does, never sees half a set. The replaced folder
// stays for a while, for readers who are in the middle of it.
//
//	mesh/pgadmin/..data       → ..2026_11_24_03_00_00.123456789
//	mesh/pgadmin/tls.crt      → ..data/tls.crt
//	mesh/pgadmin/tls.key      → ..data/tls.key
//	mesh/pgadmin/ca.crt       → ..data/ca.crt
//	mesh/pgadmin/meshca.json  → ..data/meshca.json
//
// Other files in the folder are nobody's business here: they are left alone.
//
// # Whose key it is
//
// tls.key has mode 0600. Where the service's folder has the setgid bit, the files belong to the folder's
// group and tls.key has mode 0640, so that a service that does not run as meshca's user can read it.
package localdir

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshca/meshca/profile"
	"github.com/meshca/meshca/rotation"
)

// MarkFile holds the mark of the meshca that wrote a folder, as JSON.
const MarkFile = "meshca.json"

const (
	dataLink = "..data"
	// keep is how long a replaced folder stays for readers who opened it before the swap.
	keep = 60 * time.Second
	// maxFile is the most that is read of a file that others may have written.
	maxFile = 1 << 20
	// stamp is the form of a data folder's name, the kubelet's.
	stamp = "..2006_01_02_15_04_05.000000000"
)

// files are the names of a set, in the order in which they are written.
var files = []string{rotation.CertFile, rotation.KeyFile, rotation.CAFile, MarkFile}

// mark is the form of MarkFile.
type mark struct {
	Store    string `json:"store"`
	Service  string `json:"service"`
	Epoch    uint64 `json:"epoch"`
	Bundle   string `json:"bundleSHA256"`
	Serial   string `json:"serial"`
	NotAfter string `json:"notAfter,omitempty"`
	MAC      string `json:"mac"`
}

// A Target keeps the folders of services below one folder. It implements [rotation.Target].
type Target struct {
	root string
	now  func() time.Time
}

// New makes the target for the folder at root, which is made when it is first written to.
func New(root string, now func() time.Time) *Target {
	return &Target{root: filepath.Clean(root), now: now}
}

// Place implements [rotation.Target]: the service's folder.
func (t *Target) Place(service string) string { return filepath.Join(t.root, service) }

// Subject implements [rotation.Target]: the service's name, since a folder may be moved with all that is in it.
func (t *Target) Subject(service string) string { return service }

// Readers implements [rotation.Target]. Who reads a folder cannot be seen.
func (t *Target) Readers(context.Context, []string) map[string]rotation.Readers {
	return nil
}

// Publish implements [rotation.Target]. Every service's folder has the bundle, and nobody else knows of it.
func (t *Target) Publish(context.Context, []byte) ([]string, error) { return nil, nil }

// Tell implements [rotation.Target]. There is nowhere to tell it but the log, where it stands already.
func (t *Target) Tell(rotation.Notice) {}

// Ready implements [rotation.Target].
func (t *Target) Ready(context.Context) error { return writable(t.root) }

// open opens the service's folder, through which everything in it is reached: whoever may write there
// cannot lead us out of it by links. The folder itself must be one, not a link to one.
func (t *Target) open(service string) (*os.Root, error) {
	dir := t.Place(service)
	info, err := os.Lstat(dir)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("%s %w: it is not a folder", dir, rotation.ErrNotWritable)
	}
	all, err := os.OpenRoot(t.root)
	if err != nil {
		return nil, err
	}
	defer all.Close()
	return all.OpenRoot(service)
}

// Observe implements [rotation.Target]. It reads one set through one reading of ..data.
func (t *Target) Observe(_ context.Context, service string) (rotation.Observation, error) {
	o := rotation.Observation{MarkIn: MarkFile}
	dir := t.Place(service)
	root, err := t.open(service)
	if errors.Is(err, fs.ErrNotExist) {
		return o, writable(dir)
	}
	if err != nil {
		return o, err
	}
	defer root.Close()
	data, links := resolve(dir)
	if info, err := root.Stat(data); err == nil && info.Mode().Perm() != 0o755 {
		o.Deviations = append(o.Deviations, rotation.Deviation{File: dataLink, Seen: fmt.Sprintf("mode %04o", info.Mode().Perm()), Wanted: "0755"})
	}
	content := make(map[string][]byte, len(files))
	for _, name := range files {
		// A link that leads elsewhere is what readers follow, so it is what counts.
		path := name
		if links[name] {
			path = filepath.Join(data, name)
		}
		value, mode, err := readFile(root, path)
		if err != nil {
			return o, err
		}
		content[name] = value
		if value == nil {
			continue
		}
		if !links[name] {
			o.Deviations = append(o.Deviations, rotation.Deviation{File: name, Seen: "a file of its own", Wanted: "a link through " + dataLink})
		}
		if want := fileMode(name, value, shared(root)); mode != want {
			o.Deviations = append(o.Deviations, rotation.Deviation{File: name, Seen: fmt.Sprintf("mode %04o", mode), Wanted: fmt.Sprintf("%04o", want)})
		}
	}
	o.Cert, o.Key, o.CA = content[rotation.CertFile], content[rotation.KeyFile], content[rotation.CAFile]
	o.Mark = parseMark(content[MarkFile])
	if o.Mark != nil && !bytes.Equal(markJSON(*o.Mark), content[MarkFile]) {
		o.Deviations = append(o.Deviations, rotation.Deviation{File: MarkFile, Seen: "other spelling", Wanted: "as written"})
	}
	return o, writable(dir)
}

// resolve reads ..data once. It returns the name of the data folder, empty where ..data leads to nothing
// that was made here, and tells which files are links through it.
func resolve(dir string) (data string, links map[string]bool) {
	links = make(map[string]bool, len(files))
	data, err := os.Readlink(filepath.Join(dir, dataLink))
	if err != nil || !isStamp(data) {
		return "", links
	}
	for _, file := range files {
		to, err := os.Readlink(filepath.Join(dir, file))
		links[file] = err == nil && to == filepath.Join(dataLink, file)
	}
	return data, links
}

// isStamp says whether the name is one of a data folder.
func isStamp(name string) bool {
	_, err := time.Parse(stamp, name)
	return err == nil
}

// readFile reads a file that others may have replaced by anything. A missing one is nil. What leads out of
// the folder, is no regular file or cannot be read counts as foreign content; only a process that is out
// of resources has an error.
func readFile(root *os.Root, name string) (value []byte, mode fs.FileMode, err error) {
	// O_NONBLOCK: opening a pipe that somebody put there must not wait for its writer.
	f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err == nil {
		value, mode, err = readRegular(f)
	}
	switch {
	case err == nil:
		return value, mode, nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENOTDIR):
		return nil, 0, nil
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE), errors.Is(err, unix.ENOMEM):
		return nil, 0, err
	}
	return []byte("not a file of a set"), mode, nil
}

var errNotRegular = errors.New("not a regular file")

// readRegular reads a regular file and closes it: at most one byte more than maxFile.
func readRegular(f *os.File) (value []byte, mode fs.FileMode, err error) {
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	if !info.Mode().IsRegular() {
		return nil, info.Mode().Perm(), fmt.Errorf("%s is %w", f.Name(), errNotRegular)
	}
	value, err = io.ReadAll(io.LimitReader(f, maxFile+1))
	return value, info.Mode().Perm(), err
}

// fileMode is the mode that a file of a set has. A tls.crt that another CA has filled may hold the key too.
func fileMode(name string, content []byte, shared bool) fs.FileMode {
	switch {
	case name != rotation.KeyFile && !bytes.Contains(content, []byte("PRIVATE KEY-----")):
		return 0o644
	case shared:
		return 0o640
	}
	return 0o600
}

// shared says whether the folder is given to a group by its setgid bit.
func shared(root *os.Root) bool {
	info, err := root.Stat(".")
	return err == nil && info.Mode()&fs.ModeSetgid != 0
}

// writable says why nothing could be written into dir, or into the nearest folder above that exists.
func writable(dir string) error {
	for {
		info, err := os.Stat(dir)
		if errors.Is(err, fs.ErrNotExist) && dir != filepath.Dir(dir) {
			dir = filepath.Dir(dir)
			continue
		}
		if err != nil {
			return err
		}
		if !info.IsDir() {
			return fmt.Errorf("%s %w: it is not a folder", dir, rotation.ErrNotWritable)
		}
		if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
			return fmt.Errorf("folder %s %w: %w", dir, rotation.ErrNotWritable, err)
		}
		return nil
	}
}

func markJSON(m rotation.Mark) []byte {
	end := ""
	if !m.NotAfter.IsZero() {
		end = m.NotAfter.UTC().Format(time.RFC3339)
	}
	data, err := json.MarshalIndent(mark{m.Store, m.Service, m.Epoch, m.Bundle, m.Serial, end, m.MAC}, "", "  ")
	if err != nil {
		panic("localdir: a mark is strings and a number: " + err.Error())
	}
	return append(data, '\n')
}

// parseMark reads a mark, nil where it is none. It is strict, since others may write there and its words
// are shown to people: identities and numbers are hexadecimal, the service is a name, the end an instant in UTC.
func parseMark(data []byte) *rotation.Mark {
	var m mark
	if json.Unmarshal(data, &m) != nil || m.Store == "" || profile.CheckLabel(m.Service) != nil {
		return nil
	}
	for _, s := range []string{m.Store, m.Bundle, m.Serial, m.MAC} {
		if len(s) > 64 || strings.Trim(s, "0123456789abcdef") != "" {
			return nil
		}
	}
	end, err := time.Parse(time.RFC3339, m.NotAfter)
	if m.NotAfter != "" && (err != nil || end.UTC().Format(time.RFC3339) != m.NotAfter) {
		return nil
	}
	return &rotation.Mark{Store: m.Store, Service: m.Service, Epoch: m.Epoch, Bundle: m.Bundle, Serial: m.Serial, NotAfter: end, MAC: m.MAC}
}
