// Package socket makes and opens Unix sockets whose paths may be of any length, and that only their owner can open.
package socket

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
)

// Listen listens on a Unix socket at path, mode 0600. One that a crash left is replaced; one on which
// somebody answers is refused. Paths of any length work. The socket's file is removed when the listener is
// closed.
func Listen(path string) (net.Listener, error) {
	if c, err := Dial(context.Background(), path); err == nil {
		return nil, errors.Join(fmt.Errorf("listen on %s: another process answers there", path), c.Close())
	}
	dir, short, err := shorten(path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	// It is made under another name, and takes its own only when nobody else can open it.
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: short + ".new"})
	if errors.Is(err, errInUse) {
		if err = os.Remove(path + ".new"); err == nil {
			l, err = net.ListenUnix("unix", &net.UnixAddr{Name: short + ".new"})
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen on %s: %w", path, err), dir.Close())
	}
	l.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(path+".new", 0o600), os.Rename(path+".new", path)); err != nil {
		return nil, errors.Join(err, l.Close(), dir.Close())
	}
	return &listener{UnixListener: l, path: path, dir: dir}, nil
}

type listener struct {
	*net.UnixListener
	path string
	dir  *os.File
}

func (l *listener) Close() error {
	err := os.Remove(l.path)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(l.UnixListener.Close(), err, l.dir.Close())
}

// Dial connects to the socket at path, of any length.
func Dial(ctx context.Context, path string) (net.Conn, error) {
	dir, short, err := shorten(path)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return (&net.Dialer{}).DialContext(ctx, "unix", short)
}

// shorten names the socket in at most the 107 bytes that a Unix address holds. dir is kept open while the
// name is used.
func shorten(path string) (dir *os.File, short string, err error) {
	if dir, err = os.Open(filepath.Dir(path)); err != nil {
		return nil, "", err
	}
	return dir, shortName(dir, path), nil
}
