package localdir

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
)

// settle is how long after the first event of a burst a change is told: who writes a file empties it first,
// and the line that tells of the healing should name what was written.
const settle = 10 * time.Millisecond

// cover is how often all watches are set anew, whatever may have happened to them.
const cover = time.Minute

// Watch implements [rotation.Target]. It watches the folder above all services, theirs, each service's, and
// each service's current data folder: a write through a link lands there without an event in the folder
// that holds the link.
func (t *Target) Watch(ctx context.Context, services []string, changed func(service string)) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	watch := &watch{Target: t, fs: w, services: services, data: make(map[string]string)}
	defer w.Close()
	watch.cover()
	changed("") // what changed before the watch stood
	waiting := make(map[string]bool)
	settled := time.NewTimer(0)
	defer settled.Stop()
	again := time.NewTicker(cover)
	defer again.Stop()
	for watch.err == nil {
		select {
		case <-ctx.Done():
			return nil
		case <-again.C:
			watch.cover()
		case <-settled.C:
			for service := range waiting {
				changed(service)
			}
			clear(waiting)
		case event, ok := <-w.Events:
			if !ok {
				return errors.New("the watcher has ended")
			}
			if service, concerns := watch.concerns(filepath.Clean(event.Name)); concerns {
				watch.coverFor(service)
				if len(waiting) == 0 {
					settled.Reset(settle)
				}
				waiting[service] = true
			}
		case err, ok := <-w.Errors:
			if !ok {
				return errors.New("the watcher has ended")
			}
			if !errors.Is(err, fsnotify.ErrEventOverflow) {
				return err
			}
			watch.cover() // events were lost: look at all
			changed("")
		}
	}
	return watch.err
}

// watch is the state of one run of Watch, owned by its goroutine.
type watch struct {
	*Target
	fs       *fsnotify.Watcher
	services []string
	data     map[string]string // the name of the data folder that is watched for each service
	err      error             // the watches that could not be set
}

// concerns tells which service the path belongs to, "" for all of them.
func (w *watch) concerns(path string) (service string, concerns bool) {
	if path == w.root {
		return "", true
	}
	rest, below := strings.CutPrefix(path, w.root+string(filepath.Separator))
	if !below {
		return "", false // something beside our folder
	}
	name, inside, _ := strings.Cut(rest, string(filepath.Separator))
	if !slices.Contains(w.services, name) {
		return "", false
	}
	first, _, _ := strings.Cut(inside, string(filepath.Separator))
	ours := first == "" || first == dataLink || first == w.data[name] || slices.Contains(files, first)
	return name, ours // what others do with files of their own is not looked at
}

// cover sets all watches anew.
func (w *watch) cover() {
	w.add(filepath.Dir(w.root))
	w.add(w.root)
	for _, s := range w.services {
		w.coverFor(s)
	}
}

// coverFor sets the watches of one service, or all, anew: a folder that was removed and made again has
// lost its watch, and a swap has made another data folder the current one.
func (w *watch) coverFor(service string) {
	if service == "" {
		w.cover()
		return
	}
	dir := w.Place(service)
	w.add(dir)
	data, _ := resolve(dir)
	if old := w.data[service]; old != data && old != "" {
		// It may be gone, and its watch with it.
		_ = w.fs.Remove(filepath.Join(dir, old))
	}
	w.data[service] = data
	if data != "" {
		w.add(filepath.Join(dir, data))
	}
}

// add watches a folder. Where the system has no watches left, the watch as a whole ends. A place that cannot
// be watched for what it is (absent, no folder, a loop of links) is seen by the watch of the folder above.
func (w *watch) add(dir string) {
	err := w.fs.Add(dir)
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.ENOMEM) || errors.Is(err, unix.EMFILE) {
		w.err = errors.Join(w.err, fmt.Errorf("watch %s: %w", dir, err))
	}
}
