package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meshca/meshca/api/client"
)

// TestWay: a pod asks with what its volume holds, unless the command line says otherwise.
func TestWay(t *testing.T) {
	const at = "https://meshca:8443"
	volume, empty := t.TempDir(), t.TempDir()
	for _, name := range []string{"token", "ca.crt"} {
		if err := os.WriteFile(filepath.Join(volume, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	token, bundle := filepath.Join(volume, "token"), filepath.Join(volume, "ca.crt")
	for name, tt := range map[string]struct {
		volume string
		door   door
		want   client.Config
	}{
		"nothing else":       {volume, door{over: client.Config{Server: at}}, client.Config{Server: at, CAFile: bundle, TokenFile: token}},
		"no volume":          {empty, door{over: client.Config{Server: at}}, client.Config{Server: at}},
		"own trust":          {volume, door{over: client.Config{Server: at, CAFile: "a"}}, client.Config{Server: at, CAFile: "a", TokenFile: token}},
		"fingerprint":        {volume, door{over: client.Config{Server: at, CAFingerprint: "a"}}, client.Config{Server: at, CAFingerprint: "a", TokenFile: token}},
		"own token":          {volume, door{over: client.Config{Server: at, TokenFile: "a"}}, client.Config{Server: at, CAFile: bundle, TokenFile: "a"}},
		"certificate":        {volume, door{over: client.Config{Server: at, CertFile: "a", KeyFile: "b"}}, client.Config{Server: at, CAFile: bundle, CertFile: "a", KeyFile: "b"}},
		"certificate itself": {volume, proving(door{over: client.Config{Server: at}}), client.Config{Server: at, CAFile: bundle, CertFile: "a", KeyFile: "b"}},
		"token over itself":  {volume, proving(door{over: client.Config{Server: at, TokenFile: "c"}}), client.Config{Server: at, CAFile: bundle, TokenFile: "c"}},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := tt.door.way(tt.volume); err != nil || got != tt.want {
				t.Errorf("%+v, %v, want %+v", got, err, tt.want)
			}
		})
	}
	if _, err := (&door{over: client.Config{TokenFile: "a"}}).way(volume); err == nil || !strings.Contains(err.Error(), "go with --server") {
		t.Errorf("a token without a server: %v", err)
	}
}

// proving is the door with a certificate that proves who asks, as renew has it.
func proving(d door) door {
	d.prove("a", "b")
	return d
}
