package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"

	"github.com/meshca/meshca/api/client"
	"github.com/meshca/meshca/config"
	"github.com/meshca/meshca/rotation"
)

// socketPath is the Unix socket of the process that holds the store: it lies beside it.
func socketPath(cfg *config.Config) string {
	return filepath.Join(filepath.Dir(cfg.Store.Bolt.Path), "meshca.sock")
}

// askStatus asks the process that runs for a config what it keeps.
func askStatus(ctx context.Context, configPath string) (*rotation.Status, []byte, error) {
	body, err := ask(configPath, func(raw client.ClientInterface) (*http.Response, error) { return raw.GetStatus(ctx) })
	if err != nil {
		return nil, nil, err
	}
	s := &rotation.Status{}
	if err := json.Unmarshal(body, s); err != nil {
		return nil, nil, fmt.Errorf("read the status: %w", err)
	}
	return s, body, nil
}

// ask asks the process that runs for a config, once: who looks wants to know now, also that it is not to be had now.
func ask(configPath string, call func(client.ClientInterface) (*http.Response, error)) ([]byte, error) {
	cfg, err := loadConfig(configPath)
	if err != nil {
		return nil, err
	}
	c, err := client.New(client.Config{Socket: socketPath(cfg), Once: true})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	body, err := client.Read(call(c.Raw().ClientInterface))
	return body, (&door{config: configPath}).refused(err)
}
