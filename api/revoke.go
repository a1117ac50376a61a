package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/meshca/meshca/api/internal/contract"
	"github.com/meshca/meshca/issuer"
	"github.com/meshca/meshca/profile"
)

// RevokeCertificate revokes a certificate, for an operator, for whoever may ask for its service, and for whoever
// presents it.
func (v *V1) RevokeCertificate(ctx context.Context, r contract.RevokeCertificateRequestObject) (contract.RevokeCertificateResponseObject, error) {
	if _, err := wants(ctx, jsonType); err != nil {
		return nil, err
	}
	reason, err := profile.ParseReason(string(r.Body.Reason))
	if err != nil {
		return nil, badRequest.because("the reason is none of those in the contract", "/reason")
	}
	leaf, err := v.certificate(ctx, r.Serial, VerbRevoke)
	if err != nil {
		return nil, err
	}
	if err := v.admitted(); err != nil {
		return nil, err
	}
	record, err := v.Issuer.Revoke(leaf.Record().Serial, reason, fromContext(ctx).caller.Name, v.Now())
	var before *issuer.RevokedError
	switch {
	case errors.As(err, &before):
		return nil, alreadyRevoked.because(before.Error())
	case errors.Is(err, issuer.ErrExpired):
		return nil, conflict.because(issuer.ErrExpired.Error())
	case errors.Is(err, issuer.ErrAdopted):
		return nil, conflict.because(issuer.ErrAdopted.Error())
	case err != nil:
		return nil, busy("the revocation could not be recorded: try again", err)
	}
	v.Revoked(record.Service)
	if before := leaf.Record().Revoked; before == nil || before.Reason != record.Revoked.Reason {
		v.Log.Info("revoked", "service", record.Service, "serial", record.Serial, "reason", record.Revoked.Reason, "by", record.Revoked.By)
		v.Events.add(event{Kind: kindRevoked, Service: record.Service, Serial: record.Serial, At: v.Now(),
			Text: fmt.Sprintf("certificate %s is revoked for %s, by %s", record.Serial, record.Revoked.Reason, record.Revoked.By)})
	}
	described, err := v.describe(record)
	if err != nil {
		return nil, err
	}
	return contract.RevokeCertificate200JSONResponse(described), nil
}

// GetCRLs gives all revocation lists.
func (v *V1) GetCRLs(ctx context.Context, r contract.GetCRLsRequestObject) (contract.GetCRLsResponseObject, error) {
	if _, err := wants(ctx, pemFile); err != nil {
		return nil, err
	}
	lists, err := v.Issuer.CRLs(v.Now())
	if err != nil {
		return nil, busy("not all revocation lists could be made", err)
	}
	text, tag := v.written.of("", lists, func() []byte { return issuer.PEM(lists) })
	if unchanged(r.Params.IfNoneMatch, tag) {
		return contract.GetCRLs304Response{Headers: contract.NotModifiedResponseHeaders{ETag: &tag}}, nil
	}
	return contract.GetCRLs200ApplicationxPemFileResponse{Body: bytes.NewReader(text), ContentLength: int64(len(text)),
		Headers: contract.GetCRLs200ResponseHeaders{ETag: &tag, Vary: &accept}}, nil
}

// accept is what answers of several forms vary by.
var accept = "Accept"

// GetCRL gives the revocation list of one CA.
func (v *V1) GetCRL(ctx context.Context, r contract.GetCRLRequestObject) (contract.GetCRLResponseObject, error) {
	as, err := wants(ctx, crlType, pemFile)
	if err != nil {
		return nil, err
	}
	if !isKeyIdentifier(r.Ski) {
		return nil, badRequest.because("a subject key identifier is lower-case hexadecimal", "ski")
	}
	lists, err := v.Issuer.CRLs(v.Now())
	if err != nil {
		return nil, busy("not all revocation lists could be made", err)
	}
	for _, list := range lists {
		if list.SKI != r.Ski {
			continue
		}
		one := []issuer.CRL{list}
		content, tag := v.written.of(as+list.SKI, one, func() []byte {
			if as == pemFile {
				return issuer.PEM(one)
			}
			return list.DER
		})
		headers := contract.GetCRL200ResponseHeaders{ETag: &tag, Vary: &accept}
		switch {
		case unchanged(r.Params.IfNoneMatch, tag):
			return contract.GetCRL304Response{Headers: contract.NotModifiedResponseHeaders{ETag: &tag}}, nil
		case as == pemFile:
			return contract.GetCRL200ApplicationxPemFileResponse{Body: bytes.NewReader(content), ContentLength: int64(len(content)), Headers: headers}, nil
		}
		return contract.GetCRL200ApplicationpkixCrlResponse{Body: bytes.NewReader(content), ContentLength: int64(len(content)), Headers: headers}, nil
	}
	return nil, notFound.because("no CA with this subject key identifier has a revocation list here", "ski")
}

// isKeyIdentifier says whether a subject key identifier is spelt as the contract has it.
func isKeyIdentifier(s string) bool {
	der, err := hex.DecodeString(s)
	return err == nil && len(der) > 0 && len(der) <= 64 && hex.EncodeToString(der) == s
}

// written are revocation lists as they are sent, with their tags: whoever asks gets the same bytes, since anybody may
// ask, and a list may be long. Its zero value is ready.
type written struct {
	mu sync.Mutex
	as map[string]writing // by a name for the lists and their form, of which there are a few for each CA
}

type writing struct {
	numbers string
	content []byte
	tag     string
}

// of are the lists in the form of that name. write is called when one of them is another than before.
func (w *written) of(name string, lists []issuer.CRL, write func() []byte) (content []byte, tag string) {
	var numbers strings.Builder
	for _, l := range lists {
		fmt.Fprintf(&numbers, "%s %d,", l.SKI, l.Number)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	last, known := w.as[name]
	if known && last.numbers == numbers.String() {
		return last.content, last.tag
	}
	if w.as == nil {
		w.as = make(map[string]writing)
	}
	content = write()
	w.as[name] = writing{numbers.String(), content, tagOf(content)}
	return content, w.as[name].tag
}

// tagOf stands for the bytes of an answer.
func tagOf(content []byte) string {
	sum := sha256.Sum256(content)
	return `"` + hex.EncodeToString(sum[:16]) + `"`
}
