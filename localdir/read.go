package localdir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/meshca/meshca/rotation"
	"github.com/meshca/meshca/verify"
)

// ReadService reads what one service presents and trusts from its folder, made by meshca or not. ..data is
// read once, so that the set is whole even while it is being replaced; a file that does not lead through
// it is read as the service itself would.
func ReadService(name, dir string) (verify.Service, error) {
	s := verify.Service{Name: name, CertName: rotation.CertFile, KeyName: rotation.KeyFile, CAName: rotation.CAFile}
	data, links := resolve(dir)
	for file, into := range map[string]*[]byte{rotation.CertFile: &s.Cert, rotation.KeyFile: &s.Key, rotation.CAFile: &s.CA} {
		path := filepath.Join(dir, file)
		if links[file] {
			path = filepath.Join(dir, data, file)
		}
		var err error
		if *into, err = readIfThere(path); err != nil {
			return s, err
		}
	}
	return s, nil
}

// readIfThere reads a file: nil where it is absent, empty and not nil where it is empty.
func readIfThere(path string) ([]byte, error) {
	// Looked at before it is opened: opening some devices does something.
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is %w", path, errNotRegular)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	data, _, err := readRegular(f)
	return data, err
}

// ReadDir reads the services of a folder in any of the three forms that people keep them in: the folder of
// one service (tls.crt, tls.key, ca.crt), a folder of such folders, or a flat folder of NAME.crt, NAME.key
// and one ca.crt.
func ReadDir(dir string) ([]verify.Service, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	if isService(dir) {
		abs, err := filepath.Abs(dir)
		if err != nil {
			return nil, err
		}
		s, err := ReadService(filepath.Base(abs), dir)
		return []verify.Service{s}, err
	}
	var services []verify.Service
	for _, e := range entries {
		sub := filepath.Join(dir, e.Name())
		if strings.HasPrefix(e.Name(), ".") || !isService(sub) {
			continue
		}
		s, err := ReadService(e.Name(), sub)
		if err != nil {
			return nil, err
		}
		services = append(services, s)
	}
	if len(services) == 0 {
		services, err = readFlat(dir, entries)
	}
	if err == nil && len(services) == 0 {
		err = fmt.Errorf("%s holds no services: expected tls.crt, tls.key and ca.crt, folders of them, or NAME.crt, NAME.key and ca.crt", dir)
	}
	return services, err
}

// isService says whether dir is the folder of one service: it holds tls.crt or tls.key, or ca.crt and no
// other certificate. A flat folder of several services holds ca.crt too.
func isService(dir string) bool {
	for _, file := range []string{rotation.CertFile, rotation.KeyFile} {
		if _, err := os.Stat(filepath.Join(dir, file)); err == nil {
			return true
		}
	}
	certificates, err := fs.Glob(os.DirFS(dir), "*.crt")
	return err == nil && len(certificates) == 1 && certificates[0] == rotation.CAFile
}

// readFlat reads NAME.crt and NAME.key beside one ca.crt that all of them trust.
func readFlat(dir string, entries []os.DirEntry) ([]verify.Service, error) {
	ca, err := readIfThere(filepath.Join(dir, rotation.CAFile))
	if err != nil {
		return nil, err
	}
	var services []verify.Service
	for _, e := range entries {
		name, isCert := strings.CutSuffix(e.Name(), ".crt")
		if !isCert || e.Name() == rotation.CAFile || e.IsDir() {
			continue
		}
		s := verify.Service{Name: name, CertName: e.Name(), KeyName: name + ".key", CAName: rotation.CAFile, CA: ca}
		if s.Cert, err = readIfThere(filepath.Join(dir, s.CertName)); err != nil {
			return nil, err
		}
		if s.Key, err = readIfThere(filepath.Join(dir, s.KeyName)); err != nil {
			return nil, err
		}
		services = append(services, s)
	}
	return services, nil
}
