package verify

import (
	"cmp"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"
)

// A Report is the answer of [Check].
type Report struct {
	// Now is the instant for which it answers.
	Now time.Time `json:"now"`
	// Services has one row for each service, in name order.
	Services []Row `json:"services"`
	// Pairs is how many ordered pairs were compared.
	Pairs int `json:"pairs"`
	// Findings are in the order of their services, the gravest first.
	Findings []Finding `json:"findings"`
	// Refusals has every refusal of every pair; with Services it is the whole matrix.
	Refusals []Refusal `json:"refusals"`
}

// A Row is what one service presents and trusts.
type Row struct {
	// Name is the service's.
	Name string `json:"name"`
	// CA has the short fingerprints of the certificates in ca.crt, in the order of the file.
	CA []string `json:"ca"`
	// BundleSHA256 is the SHA-256 of the bytes of ca.crt in hex, empty if the file is absent.
	BundleSHA256 string `json:"bundleSHA256,omitempty"`
	// Serial is the leaf's serial number in lower-case hex without leading zeros.
	Serial string `json:"serial,omitempty"`
	// NotAfter is when the leaf expires.
	NotAfter time.Time `json:"notAfter,omitzero"`
	// Compared says whether the service took part in the pairs: its leaf could be read.
	Compared bool `json:"compared"`
	// Verdict is "ok", or the codes of the service's findings, or who else refuses it.
	Verdict string `json:"verdict"`
}

// A Role is the end of a connection.
type Role string

// The two ends.
const (
	Client Role = "client"
	Server Role = "server"
)

// A Refusal says that one service would refuse another's certificate.
type Refusal struct {
	// Refuser is the service that verifies and refuses.
	Refuser string `json:"refuser"`
	// Refused is the service whose certificate it is.
	Refused string `json:"refused"`
	// RefuserRole is the refuser's end of the connection.
	RefuserRole Role `json:"refuserRole"`
	// Cause is why.
	Cause Cause `json:"cause"`
	// Reason is what a user finds in the refuser's log.
	Reason string `json:"reason"`
}

// OK says whether nothing was found: every service accepts every other, and all is in order.
func (r *Report) OK() bool { return len(r.Findings) == 0 && len(r.Refusals) == 0 }

// Add adds findings that come from where the files were found. They follow the others of their services, whose
// verdicts name them; what is said of no service comes last.
func (r *Report) Add(findings ...Finding) {
	rows := make(map[string]int)
	for i, row := range r.Services {
		rows[row.Name] = i
	}
	for _, f := range findings {
		if i, ok := rows[f.Service]; ok {
			r.Services[i].name(f.Code)
		}
	}
	place := func(f Finding) int {
		if i, ok := rows[f.Service]; ok {
			return i
		}
		return len(rows)
	}
	r.Findings = append(r.Findings, findings...)
	slices.SortStableFunc(r.Findings, func(a, b Finding) int { return cmp.Compare(place(a), place(b)) })
}

// The verdicts of rows without a finding.
const (
	verdictOK = "ok"
	refusedBy = "refused by "
)

// name puts a code into the verdict, in place of what it says where there is no finding.
func (r *Row) name(code Code) {
	switch {
	case r.Verdict == verdictOK || strings.HasPrefix(r.Verdict, refusedBy):
		r.Verdict = string(code)
	case !slices.Contains(strings.Split(r.Verdict, ", "), string(code)):
		r.Verdict += ", " + string(code)
	}
}

// Fingerprint is a certificate's SHA-256 as openssl x509 -fingerprint -sha256 prints it: "87:4A:C2:58:…".
func Fingerprint(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return colons(sum[:])
}

// ShortFingerprint is the first four bytes of a certificate's [Fingerprint]: "87:4A:C2:58".
func ShortFingerprint(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return colons(sum[:4])
}

func colons(b []byte) string {
	var s strings.Builder
	for i, c := range b {
		if i > 0 {
			s.WriteByte(':')
		}
		fmt.Fprintf(&s, "%02X", c)
	}
	return s.String()
}
