package api

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"strings"

	"github.com/meshca/meshca/api/internal/contract"
	"github.com/meshca/meshca/ca"
)

// GetCA tells of roots and issuing CAs.
func (v *V1) GetCA(ctx context.Context, r contract.GetCARequestObject) (contract.GetCAResponseObject, error) {
	if _, err := wants(ctx, jsonType); err != nil {
		return nil, err
	}
	body := describeCA(v.Issuer.Authority())
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	tag := tagOf(text)
	if unchanged(r.Params.IfNoneMatch, tag) {
		return contract.GetCA304Response{Headers: contract.NotModifiedResponseHeaders{ETag: &tag}}, nil
	}
	return contract.GetCA200JSONResponse{Body: body, Headers: contract.GetCA200ResponseHeaders{ETag: &tag}}, nil
}

func describeCA(a *ca.Authority) contract.CA {
	body := contract.CA{Epoch: int64(a.Epoch()), BundleSha256: a.Bundle().SHA256(), Roots: []contract.CACertificate{}, Issuing: []contract.CACertificate{}}
	ours := make(map[string]bool)
	for _, root := range a.Roots() {
		ours[string(root.Certificate.Raw)] = true
	}
	for _, c := range a.Bundle().Certificates() {
		role := contract.CACertificateRoleForeign
		if ours[string(c.Raw)] {
			role = contract.CACertificateRoleRoot
		}
		body.Roots = append(body.Roots, caCertificate(role, c))
	}
	for _, i := range a.IssuingCAs() {
		role := contract.CACertificateRoleRetired
		if i == a.Issuing() {
			role = contract.CACertificateRoleSigning
		}
		body.Issuing = append(body.Issuing, caCertificate(role, i.Certificate))
	}
	return body
}

func caCertificate(role contract.CACertificateRole, c *x509.Certificate) contract.CACertificate {
	sum := sha256.Sum256(c.Raw)
	return contract.CACertificate{Role: role, Subject: c.Subject.String(), Ski: hex.EncodeToString(c.SubjectKeyId), Fingerprint: hex.EncodeToString(sum[:]),
		NotBefore: c.NotBefore, NotAfter: c.NotAfter, Certificate: certificatePEM(c.Raw)}
}

func certificatePEM(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// GetBundle gives the trust bundle.
func (v *V1) GetBundle(ctx context.Context, r contract.GetBundleRequestObject) (contract.GetBundleResponseObject, error) {
	if _, err := wants(ctx, pemFile); err != nil {
		return nil, err
	}
	bundle := v.Issuer.Authority().Bundle()
	tag := `"` + bundle.SHA256() + `"`
	if unchanged(r.Params.IfNoneMatch, tag) {
		return contract.GetBundle304Response{Headers: contract.NotModifiedResponseHeaders{ETag: &tag}}, nil
	}
	text := string(bundle.PEM())
	return contract.GetBundle200ApplicationxPemFileResponse{Body: strings.NewReader(text), ContentLength: int64(len(text)),
		Headers: contract.GetBundle200ResponseHeaders{ETag: &tag}}, nil
}
