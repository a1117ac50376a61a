package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// startMeshca builds the real program and starts it as it is shipped, with five services in folders.
func startMeshca(dir string) (*server, error) {
	binary := filepath.Join(dir, "meshca")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", binary, "./cmd/meshca")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return nil, fmt.Errorf("build meshca: %w", err)
	}
	config := "version: 1\nlisten: {api: 127.0.0.1:0, metrics: 127.0.0.1:0}\ntarget: {directory: {path: mesh}}\nservices:\n"
	for _, name := range []string{"envoy", "pgadmin", service, "bookapi-mcp-server", "timescaledb"} {
		config += "- name: " + name + "\n"
	}
	path := filepath.Join(dir, "meshca.yaml")
	if err := os.WriteFile(path, []byte(config), 0o644); err != nil {
		return nil, err
	}
	s := &server{name: "meshca", cmd: exec.Command(binary, "serve", "--config", path, "--log", "json"), store: filepath.Join(dir, "data", "meshca.db")}
	if err := launch(dir, s.cmd); err != nil {
		return nil, err
	}
	err := await("meshca serves", func() bool {
		s.load.URL = servingAt(filepath.Join(dir, "log"))
		return s.load.URL != ""
	})
	if err != nil {
		return s, err
	}
	token, err := os.ReadFile(filepath.Join(dir, "data", "admin.token"))
	if err != nil {
		return s, err
	}
	bundle, err := os.ReadFile(filepath.Join(dir, "mesh", service, "ca.crt"))
	s.load.Token, s.load.CA = strings.TrimSpace(string(token)), string(bundle)
	return s, err
}

// servingAt finds in the log where certificates are asked for, "" as long as it does not say.
func servingAt(log string) string {
	text, err := os.ReadFile(log)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		var l struct{ Msg, API string }
		if json.Unmarshal([]byte(line), &l) == nil && l.Msg == "serving" {
			return "https://" + l.API + "/v1/certificates"
		}
	}
	return ""
}
