package csr_test

import (
	"bytes"
	"crypto/elliptic"
	"encoding/json"
	"flag"
	"os"
	"testing"
	"unicode/utf8"

	"github.com/meshca/meshca/csr"
)

var update = flag.Bool("update", false, "write testdata/refused.jsonl anew")

// A vector is a request that is refused, for tests that do not build requests: of the API, of other programs.
type vector struct {
	Name string   `json:"name"`
	Code csr.Code `json:"code"`
	Text string   `json:"text"`
}

// TestVectors: testdata/refused.jsonl holds every row of this package's tables of refusals that text can hold.
func TestVectors(t *testing.T) {
	const file = "testdata/refused.jsonl"
	var want bytes.Buffer
	e := json.NewEncoder(&want)
	e.SetEscapeHTML(false)
	add := func(name string, code csr.Code, text []byte) {
		if !utf8.Valid(text) || len(text) > 2*csr.MaxBytes {
			return
		}
		if err := e.Encode(vector{name, code, string(text)}); err != nil {
			t.Fatal(err)
		}
	}
	for _, group := range []struct {
		name string
		rows []row
	}{{"information", informationRows}, {"key", keyRows}, {"RSA", rsaRows}, {"name", nameRows}, {"proof", proofRows}} {
		for _, r := range group.rows {
			d := newDraft(ecKey(elliptic.P256()))
			r.spoil(d)
			add(group.name+": "+r.name, r.code, d.pem())
		}
	}
	for _, r := range textRows() {
		add("text: "+r.name, r.code, []byte(r.text))
	}
	for _, r := range frameRows() {
		add("frame: "+r.name, csr.CodeMalformed, pemOf(r.der))
	}
	if *update {
		if err := os.WriteFile(file, want.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, want.Bytes()) {
		t.Errorf("%s is not current (%v): go test ./csr -run TestVectors -update", file, err)
	}
}
