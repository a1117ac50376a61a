package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/meshca/meshca/api/socket"
	"github.com/meshca/meshca/config"
	"github.com/meshca/meshca/rotation"
)

// socketPath is the Unix socket of the process that holds the store: it lies beside it.
func socketPath(cfg *config.Config) string {
	return filepath.Join(filepath.Dir(cfg.Store.Bolt.Path), "meshca.sock")
}

// askStatus asks the process that runs for a config what it keeps.
func askStatus(ctx context.Context, configPath string) (*rotation.Status, []byte, error) {
	body, err := ask(ctx, configPath, http.MethodGet, "/v1/status", nil)
	if err != nil {
		return nil, nil, err
	}
	s := &rotation.Status{}
	if err := json.Unmarshal(body, s); err != nil {
		return nil, nil, fmt.Errorf("read the status: %w", err)
	}
	return s, body, nil
}

// order has the process that runs for a config do something for a service.
func order(ctx context.Context, configPath, path, service string) error {
	body, err := json.Marshal(struct {
		Service string `json:"service,omitempty"` // left out: all
	}{service})
	if err != nil {
		return err
	}
	_, err = ask(ctx, configPath, http.MethodPost, path, body)
	return err
}

// ask sends a request to the process that runs for a config.
func ask(ctx context.Context, configPath, method, path string, body []byte) ([]byte, error) {
	cfg, err := loadConfig(configPath)
	if err != nil {
		return nil, err
	}
	at := socketPath(cfg)
	answer, code, err := send(ctx, at, method, path, body)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, &failure{err: fmt.Errorf("no process runs for %s: %w", configPath, err), code: exitUnknown,
			hints: []string{"meshca serve --config " + configPath}}
	case err != nil:
		return nil, fmt.Errorf("the process for %s cannot be asked: %w", configPath, err)
	case code != http.StatusOK:
		return nil, refusal(at, code, answer)
	}
	return answer, nil
}

// refusal is what an answer that is none says.
func refusal(at string, code int, answer []byte) error {
	var problem struct {
		Detail string `json:"detail"`
	}
	if err := json.Unmarshal(answer, &problem); err != nil || problem.Detail == "" {
		return fmt.Errorf("%s answered %d: %s", at, code, strings.TrimSpace(string(answer)))
	}
	f := &failure{err: errors.New(problem.Detail), code: exitUnknown}
	if code < http.StatusInternalServerError {
		f.code = exitNo
	}
	return f
}

// maxStatus bounds an answer: some 600 bytes for each service.
const maxStatus = 64 << 20

// send sends one request through the socket at a path.
func send(ctx context.Context, at, method, path string, body []byte) (answer []byte, code int, err error) {
	client := &http.Client{
		Timeout: 30 * time.Second,
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return socket.Dial(ctx, at)
		}},
	}
	defer client.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, method, "http://meshca"+path, bytes.NewReader(body))
	if err != nil {
		return nil, 0, err
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := client.Do(request)
	if err != nil {
		// What is said of the made-up URL, and of the short name of a long path, tells people nothing.
		var request *url.Error
		if errors.As(err, &request) {
			err = request.Err
		}
		var op *net.OpError
		if errors.As(err, &op) {
			err = op.Err
		}
		return nil, 0, fmt.Errorf("%s: %w", at, err)
	}
	defer response.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(response.Body, maxStatus))
	return answer, response.StatusCode, err
}
