package localdir

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/meshca/meshca/profile"
	"github.com/meshca/meshca/rotation"
)

// FuzzParseMark: whatever stands in meshca.json, what is taken for a mark can be shown to people, and is
// written again as the same mark.
func FuzzParseMark(f *testing.F) {
	f.Add(markJSON(rotation.Mark{Store: "00ff", Service: "pgadmin", Epoch: 1, Bundle: "aa", Serial: "7f"}))
	f.Add([]byte(`{"store":"\u001b[31m","service":"a"}`))
	f.Add([]byte(`{"store":"00","service":"../a"}`))
	f.Add([]byte(`{"store":"00","service":"a","epoch":-1}`))
	f.Add(markJSON(rotation.Mark{Store: "00", Service: "a", NotAfter: time.Date(2026, 12, 24, 18, 28, 24, 0, time.UTC)}))
	f.Add([]byte(`{"store":"00","service":"a","notAfter":"0000-01-01T00:00:00+23:00"}`))
	f.Add([]byte(`[`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m := parseMark(data)
		if m == nil {
			return
		}
		for _, s := range []string{m.Store, m.Bundle, m.Serial} {
			if len(s) > 64 || strings.Trim(s, "0123456789abcdef") != "" {
				t.Fatalf("%q passes for an identity", s)
			}
		}
		if m.Store == "" || profile.CheckLabel(m.Service) != nil {
			t.Fatalf("%+v passes for a mark", *m)
		}
		written := markJSON(*m)
		if again := parseMark(written); again == nil || *again != *m || !bytes.Equal(markJSON(*again), written) {
			t.Fatalf("%+v is written as %s and read as %+v", *m, written, again)
		}
	})
}
