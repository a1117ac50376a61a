package rotation

import (
	"crypto/x509"
	"encoding/asn1"
	"testing"
)

// TestPermits: every certificate that names usages must name the one that is asked for, or any.
func TestPermits(t *testing.T) {
	cert := func(usages ...x509.ExtKeyUsage) *x509.Certificate { return &x509.Certificate{ExtKeyUsage: usages} }
	unknown := &x509.Certificate{UnknownExtKeyUsage: []asn1.ObjectIdentifier{{1, 3}}}
	const server, client = x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth
	for name, tt := range map[string]struct {
		chain []*x509.Certificate
		want  bool
	}{
		"both and a CA without": {[]*x509.Certificate{cert(server, client), cert()}, true},
		"the other alone":       {[]*x509.Certificate{cert(client), cert()}, false},
		"any":                   {[]*x509.Certificate{cert(x509.ExtKeyUsageAny), cert()}, true},
		"a CA for the other":    {[]*x509.Certificate{cert(server, client), cert(client)}, false},
		"an unknown one alone":  {[]*x509.Certificate{cert(server, client), unknown}, false},
		"none at all":           {[]*x509.Certificate{cert()}, true},
	} {
		if got := permits(tt.chain, server); got != tt.want {
			t.Errorf("%s: %t, want %t", name, got, tt.want)
		}
	}
}
