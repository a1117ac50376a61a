package csr_test

import (
	"bytes"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshca/meshca/csr"
)

// FuzzParse: whatever the text is, Parse returns soon; what it accepts, crypto/x509 reads as the same and
// verifies; what it refuses, it refuses in words that can be shown. Nearly all that a fuzzer makes of a
// request has lost its proof, so the information is also signed anew, as it is and with its lengths set right.
func FuzzParse(f *testing.F) {
	for _, change := range goodChanges {
		d := newDraft(ecKey(elliptic.P256()))
		change(d)
		f.Add(d.pem(), d.info())
	}
	for _, r := range slices.Concat(informationRows, nameRows, keyRows, rsaRows[:30], proofRows) {
		d := newDraft(ecKey(elliptic.P256()))
		r.spoil(d)
		f.Add(d.pem(), d.info())
	}
	signer := newDraft(ecKey(elliptic.P256()))
	f.Fuzz(func(t *testing.T, text, info []byte) {
		for _, text := range [][]byte{text, pemOf(text), pemOf(signer.signed(info)), pemOf(signer.signed(setRight(info)))} {
			start := time.Now()
			r, err := csr.Parse(text)
			if took := time.Since(start); took > 10*time.Second { // a hang, whatever the machine is doing
				t.Fatalf("took %s", took)
			}
			if err != nil {
				refusal(t, err)
				continue
			}
			if err := readByGo(text); err == nil || !onlyGoMinds(err) {
				agrees(t, text, r)
			}
		}
	})
}

func readByGo(text []byte) error {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil
	}
	_, err := x509.ParseCertificateRequest(block.Bytes)
	return err
}

// onlyGoMinds says whether crypto/x509 fails on what is ignored here: a number of more than 64 bits in a
// subject, a URI that is no SPIFFE ID and whose host is no domain.
func onlyGoMinds(err error) bool {
	return strings.Contains(err.Error(), "integer too large") || strings.Contains(err.Error(), "invalid domain")
}

func TestReadsWhatGoMinds(t *testing.T) {
	for name, change := range map[string]func(*draft){
		"a number of 72 bits": func(d *draft) { d.subject = sequence(rdn("2.5.4.5", value(0x02, strings.Repeat("\x7f", 9)))) },
		"a host of two dots":  identity("https://a..b/"),
	} {
		d := newDraft(ecKey(elliptic.P256()))
		change(d)
		if err := readByGo(d.pem()); err == nil || !onlyGoMinds(err) {
			t.Errorf("%s: crypto/x509: %v", name, err)
		}
		if _, err := csr.Parse(d.pem()); err != nil {
			t.Errorf("%s: refused: %v", name, err)
		}
	}
}

// setRight gives values the lengths that they have.
func setRight(der []byte) []byte {
	var right []byte
	for len(der) >= 2 {
		header, size := 2, int(der[1])
		if size > 0x80 {
			header += min(size&0x7f, 2, len(der)-2)
			size = 0
			for _, b := range der[2:header] {
				size = size<<8 | int(b)
			}
		}
		body := der[header:min(len(der), header+size)]
		if within := der[0] == 0x04 && bytes.HasPrefix(body, []byte{0x30}); der[0]&0x20 != 0 || within {
			right = append(right, value(der[0], string(setRight(body)))...)
		} else {
			right = append(right, value(der[0], string(body))...)
		}
		der = der[header+len(body):]
	}
	return right
}
