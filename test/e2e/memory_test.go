package e2e

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// TestRootKeyIsNotInMemory: whoever reads the memory of a serving process finds the key that signs leaves, and not the
// root's.
func TestRootKeyIsNotInMemory(t *testing.T) {
	t.Parallel()
	m := NewMesh(t, Settings{})
	m.Start().Stop() // founds the CA, and may hold what is left of its key until that memory is used again
	p := m.Start()
	keys := sealedKeys(t, m)
	memory := memoryOf(t, p)
	found := func(record string) bool {
		return slices.ContainsFunc(keys[record], func(spelling []byte) bool { return bytes.Contains(memory, spelling) })
	}
	if !found("ca/issuing/00000001") {
		t.Error("the issuing CA's key is not found: the test looks in the wrong place")
	}
	if found("ca/root/00000001") {
		t.Error("the root's key is in memory")
	}
}

// sealedKeys opens the private keys of the store as docs/ca.md says: each in the spellings that it may have in memory.
func sealedKeys(t testing.TB, m *Mesh) map[string][][]byte {
	t.Helper()
	s, err := readStore(m.Store())
	must(t, err)
	derived, err := hkdf.Key(sha256.New, readFile(t, m.Seal()), []byte(s.state.Identity), "meshca private keys v1", 32)
	must(t, err)
	block, err := aes.NewCipher(derived)
	must(t, err)
	aead, err := cipher.NewGCMWithRandomNonce(block)
	must(t, err)
	keys := make(map[string][][]byte)
	for name, value := range s.entries {
		if !strings.HasPrefix(name, "ca/root/") && !strings.HasPrefix(name, "ca/issuing/") {
			continue
		}
		var record struct{ SealedKey []byte }
		must(t, json.Unmarshal(value, &record))
		der, err := aead.Open(nil, nil, record.SealedKey, []byte(name))
		must(t, err)
		key, err := x509.ParsePKCS8PrivateKey(der)
		must(t, err)
		scalar, err := key.(*ecdsa.PrivateKey).Bytes()
		must(t, err)
		turned := slices.Clone(scalar)
		slices.Reverse(turned)
		keys[name] = [][]byte{der, scalar, turned, []byte(hex.EncodeToString(scalar))}
	}
	return keys
}

// memoryOf is what the process has written to its memory, while it stands still.
func memoryOf(t testing.TB, p *Process) (memory []byte) {
	t.Helper()
	p.Paused(func() {
		file, err := os.Open(fmt.Sprintf("/proc/%d/mem", p.PID()))
		must(t, err)
		defer file.Close()
		for line := range strings.Lines(string(readFile(t, fmt.Sprintf("/proc/%d/maps", p.PID())))) {
			var from, to uint64
			var rights string
			_, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &rights)
			must(t, err)
			if !strings.HasPrefix(rights, "rw") || strings.Contains(line, "[v") {
				continue
			}
			part := make([]byte, to-from)
			n, _ := file.ReadAt(part, int64(from)) // a region may be reserved, and not there
			memory = append(memory, part[:n]...)
		}
	})
	return memory
}
