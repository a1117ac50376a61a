package api

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/meshca/meshca/api/internal/contract"
	"github.com/meshca/meshca/issuer"
	"github.com/meshca/meshca/profile"
)

// usualPage is how many certificates a page holds where the caller does not say.
const (
	usualPage = 100
	maxPage   = 500
)

// ListCertificates lists what was issued, page by page.
func (v *V1) ListCertificates(ctx context.Context, r contract.ListCertificatesRequestObject) (contract.ListCertificatesResponseObject, error) {
	if _, err := wants(ctx, jsonType); err != nil {
		return nil, err
	}
	filter, after, limit, err := v.filter(ctx, r.Params)
	if err != nil {
		return nil, err
	}
	records, next, err := v.Issuer.List(filter, after, limit)
	if err != nil {
		return nil, err
	}
	page := contract.CertificateList{Certificates: make([]contract.Certificate, 0, len(records))}
	for i := range records {
		described, err := v.describe(&records[i])
		if err != nil {
			return nil, err
		}
		page.Certificates = append(page.Certificates, described)
	}
	if next > 0 {
		cursor := fmt.Sprintf("%016x", next)
		page.Next = &cursor
	}
	return contract.ListCertificates200JSONResponse(page), nil
}

// filter reads the parameters, and narrows them to what the caller may see.
func (v *V1) filter(ctx context.Context, p contract.ListCertificatesParams) (f issuer.Filter, after uint64, limit int, err error) {
	limit = usualPage
	if p.Limit != nil {
		if limit = int(*p.Limit); limit < 1 || limit > maxPage {
			return f, 0, 0, badRequest.because(fmt.Sprintf("a page holds 1 to %d certificates", maxPage), "limit")
		}
	}
	if p.Cursor != nil {
		if after, err = strconv.ParseUint(*p.Cursor, 16, 64); err != nil || len(*p.Cursor) != 16 || after >= 1<<63 {
			return f, 0, 0, badRequest.because("the cursor is none that a page gave", "cursor")
		}
	}
	if p.State != nil && !p.State.Valid() {
		return f, 0, 0, badRequest.because("the state is none of those in the contract", "state")
	}
	if p.Issuer != nil && !isKeyIdentifier(*p.Issuer) {
		return f, 0, 0, badRequest.because("a subject key identifier is lower-case hexadecimal", "issuer")
	}
	if p.ExpiresBefore != nil {
		f.ExpiresBefore = *p.ExpiresBefore
	}
	f.Match = v.match(p)
	f.Services, err = v.visible(ctx, p.Service)
	return f, after, limit, err
}

// match is the part of a filter that no index helps with.
func (v *V1) match(p contract.ListCertificatesParams) func(*issuer.Record) bool {
	if p.State == nil && p.Issuer == nil {
		return nil
	}
	now, names := v.Now(), v.issuerNames()
	return func(r *issuer.Record) bool {
		return (p.State == nil || stateOf(r, now) == *p.State) && (p.Issuer == nil || names[r.Issuing] == *p.Issuer)
	}
}

// visible are the services whose certificates are listed, nil for all.
func (v *V1) visible(ctx context.Context, service *string) ([]string, error) {
	caller := &fromContext(ctx).caller
	granted := v.Grants.services(caller)
	if service != nil {
		if profile.CheckLabel(*service) != nil {
			return nil, badRequest.because("the service is no DNS label", "service")
		}
		if slices.Contains(granted, *service) {
			return []string{*service}, nil
		}
	}
	operator, err := v.may(ctx, caller, VerbList)
	switch {
	case err != nil:
		return nil, err
	case service != nil && !operator:
		return nil, forbidden.because("the catalogue has no such service, or does not list the caller under its clients; "+howToList(caller), "service")
	case service != nil:
		return []string{*service}, nil
	case operator:
		return nil, nil
	}
	return append([]string{}, granted...), nil
}

// GetCertificate tells of one certificate.
func (v *V1) GetCertificate(ctx context.Context, r contract.GetCertificateRequestObject) (contract.GetCertificateResponseObject, error) {
	if _, err := wants(ctx, jsonType); err != nil {
		return nil, err
	}
	leaf, err := v.certificate(ctx, r.Serial, VerbList)
	if err != nil {
		return nil, err
	}
	record := leaf.Record()
	described, err := v.describe(&record)
	if err != nil {
		return nil, err
	}
	return contract.GetCertificate200JSONResponse(described), nil
}

// certificate finds one by its serial number, for an operator with the verb, for whoever may ask for its service, and
// for whoever presents it. To others it looks as if there were none.
func (v *V1) certificate(ctx context.Context, serial, verb string) (*issuer.Leaf, error) {
	number, ok := canonicalSerial(serial)
	if !ok {
		return nil, badRequest.because("a serial number is hexadecimal, of at most 40 digits", "serial")
	}
	leaf, err := v.Issuer.BySerial(number)
	if err != nil {
		return nil, err
	}
	none := notFound.because("there is no certificate with this serial number, or the caller may not know of it", "serial")
	caller := &fromContext(ctx).caller
	if leaf != nil && v.concerns(caller, leaf) {
		return leaf, nil
	}
	operator, err := v.may(ctx, caller, verb) // last, since it may ask somebody else; and also where there is none
	switch {
	case err != nil:
		return nil, err
	case leaf == nil || !operator:
		return nil, none
	}
	return leaf, nil
}

// concerns says whether the caller presents the certificate, or may ask for its service.
func (v *V1) concerns(c *Caller, leaf *issuer.Leaf) bool {
	grant, _ := v.Grants.get(leaf.Record().Service)
	return grant.lists(c) || c.Certificate != nil && c.Certificate.Equal(leaf.Certificate())
}

// canonicalSerial is a serial number as the store has it, from any spelling.
func canonicalSerial(s string) (string, bool) {
	s = strings.ToLower(strings.ReplaceAll(s, ":", ""))
	if s == "" || strings.Trim(s, "0123456789abcdef") != "" {
		return "", false
	}
	s = strings.TrimLeft(s, "0")
	return s, len(s) <= 40
}

// describe tells of a record.
func (v *V1) describe(r *issuer.Record) (contract.Certificate, error) {
	cert, err := x509.ParseCertificate(r.Cert)
	if err != nil {
		return contract.Certificate{}, fmt.Errorf("record %d: %w", r.Seq, err)
	}
	d := contract.Certificate{Serial: r.Serial, Service: r.Service, State: stateOf(r, v.Now()), Issuer: v.issuerNames()[r.Issuing],
		KeyType: keyTypeOf(cert), KeySha256: r.Key, IssuedAt: r.IssuedAt, NotBefore: r.NotBefore, NotAfter: r.NotAfter,
		DnsNames: append([]string{}, cert.DNSNames...), IpAddresses: spell(cert.IPAddresses, net.IP.String),
		Uris: spell(cert.URIs, (*url.URL).String), Certificate: certificatePEM(r.Cert)}
	if r.Caller != "" {
		d.Caller = &r.Caller
	}
	if r.Revoked != nil {
		reason := contract.RevocationReason(r.Revoked.Reason)
		d.RevokedAt, d.RevocationReason = &r.Revoked.At, &reason
	}
	return d, nil
}

func spell[T any](values []T, as func(T) string) []string {
	words := make([]string, len(values))
	for i, value := range values {
		words[i] = as(value)
	}
	return words
}

// keyTypeOf is our name for the key's type, or the algorithm's for a key that we would not make.
func keyTypeOf(c *x509.Certificate) string {
	if k, err := profile.TypeOf(c.PublicKey); err == nil {
		return string(k)
	}
	return c.PublicKeyAlgorithm.String()
}

// issuerNames are the subject key identifiers of the issuing CAs by their ids.
func (v *V1) issuerNames() map[int]string {
	names := make(map[int]string)
	for _, i := range v.Issuer.Authority().IssuingCAs() {
		names[i.ID] = hex.EncodeToString(i.Certificate.SubjectKeyId)
	}
	return names
}

// stateOf is the state of a certificate as people ask for it.
func stateOf(r *issuer.Record, now time.Time) contract.CertificateState {
	switch {
	case r.Revoked != nil:
		return contract.CertificateStateRevoked
	case r.State == issuer.Undelivered:
		return contract.CertificateStateUndelivered
	case now.After(r.NotAfter):
		return contract.CertificateStateExpired
	}
	return contract.CertificateStateValid
}
