package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"

	"github.com/fsnotify/fsnotify"

	"github.com/meshca/meshca/config"
)

// reloadOnChange takes up the list of services anew on SIGHUP and when the file changes, until ctx ends.
func (s *server) reloadOnChange(ctx context.Context) error {
	changed, lost, err := s.watchFile(ctx)
	if err != nil {
		s.log.Warn("cannot watch the config file: send SIGHUP after a change", "file", s.path, "error", err)
	}
	last := s.loaded
	for {
		// A file that is away for a moment is being replaced: its coming back is another event.
		if now, err := config.Read(s.path); err == nil && !bytes.Equal(now, last) {
			last = now
			s.reload(ctx)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.hangup:
			last = nil
		case <-changed:
		case <-lost: // events were lost: look whether the file has changed
		}
	}
}

// watchFile tells of events in the file's folder, until ctx ends: editors and the kubelet replace a file
// instead of writing it. Where the system has no watch left, the channels are nil, and silent.
func (s *server) watchFile(ctx context.Context) (changed <-chan fsnotify.Event, lost <-chan error, err error) {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, nil, err
	}
	if err := watcher.Add(filepath.Dir(s.path)); err != nil {
		return nil, nil, errors.Join(err, watcher.Close())
	}
	context.AfterFunc(ctx, func() { watcher.Close() })
	return watcher.Events, watcher.Errors, nil
}

// reload takes up the file's services. A bad file changes nothing and is named.
func (s *server) reload(ctx context.Context) {
	cfg, err := config.Load(s.path)
	if err != nil {
		s.log.Error("config file refused: nothing changes", "file", s.path, "error", err)
		return
	}
	for _, field := range needRestart(s.cfg, cfg) {
		s.log.Warn("this change needs a restart", "file", s.path, "field", field)
	}
	next := *s.cfg
	next.Services = cfg.Services
	if err := s.engine.Reload(ctx, policies(&next), func() {
		s.target.setCatalogue(&next)
		s.grants.Set(grants(&next))
	}); err != nil {
		return // the program is ending
	}
	s.cfg.Services = cfg.Services
	s.log.Info("config file read again", "file", s.path, "services", len(cfg.Services))
}

// needRestart lists the top-level fields, other than the services, in which two configs differ.
func needRestart(running, read *config.Config) []string {
	var fields []string
	a, b := reflect.ValueOf(running).Elem(), reflect.ValueOf(read).Elem()
	for i := range a.NumField() {
		field := a.Type().Field(i)
		if !field.IsExported() || field.Name == "Services" {
			continue
		}
		if !reflect.DeepEqual(a.Field(i).Interface(), b.Field(i).Interface()) {
			fields = append(fields, fmt.Sprint(field.Tag.Get("yaml")))
		}
	}
	return fields
}
