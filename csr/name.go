package csr

import (
	"bytes"
	"fmt"
	"net/netip"
	"net/url"
	"strings"

	"github.com/meshca/meshca/profile"
)

// A Kind is the kind of an alternative name, as RFC 5280, section 4.2.1.6 calls it.
type Kind string

// The kinds that a certificate of meshca can hold. Names of other kinds are read so that they can be refused.
const (
	DNSName   Kind = "dNSName"
	IPAddress Kind = "iPAddress"
	URI       Kind = "uniformResourceIdentifier"
)

var kinds = map[byte]Kind{
	0xa0: "otherName",
	0x81: "rfc822Name",
	0x82: DNSName,
	0xa3: "x400Address",
	0xa4: "directoryName",
	0xa5: "ediPartyName",
	0x86: URI,
	0x87: IPAddress,
	0x88: "registeredID",
}

// maxNames is how many names a request may ask for: all of a certificate's, with its SPIFFE ID.
const maxNames = profile.MaxNames + 1

// A Name is an alternative name that a request asks for.
type Name struct {
	Kind Kind
	// Value is the name as a certificate would hold it: a DNS name in lower case, an IP address in its usual
	// text, a SPIFFE ID. It is empty for a kind, and for a URI, that no certificate of meshca holds: what such
	// a name says is not repeated.
	Value string
	// Index is the name's place in the request, from 1.
	Index int
}

// String describes the name, in at most some 300 bytes.
func (n Name) String() string {
	const most = 256
	switch value := n.Value; {
	case value == "":
		return fmt.Sprintf("%s (name %d of the request)", n.Kind, n.Index)
	case len(value) > most:
		return fmt.Sprintf("%s %s... (name %d of the request)", n.Kind, value[:most], n.Index)
	default:
		return fmt.Sprintf("%s %s", n.Kind, value)
	}
}

// NotGranted lists the names that r asks for and id does not have, in the order of the request: at most 101,
// each fit to be told the sender by its String.
func (r *Request) NotGranted(id profile.Identity) []Name {
	if len(r.Names) == 0 {
		return nil
	}
	granted := map[Name]bool{}
	for _, name := range id.DNSNames {
		granted[Name{Kind: DNSName, Value: name}] = true
	}
	for _, address := range id.IPAddresses {
		granted[Name{Kind: IPAddress, Value: address.Unmap().String()}] = true
	}
	if id.URI != nil {
		granted[Name{Kind: URI, Value: id.URI.String()}] = true
	}
	var others []Name
	for _, name := range r.Names {
		if !granted[Name{Kind: name.Kind, Value: name.Value}] {
			others = append(others, name)
		}
	}
	return others
}

// parseNames reads the value of a subject alternative name extension.
func parseNames(der []byte) ([]Name, error) {
	if err := check(der, 0, 1); err != nil {
		return nil, malformed("the alternative names are not strict DER: " + err.Error())
	}
	outer, ok := fields(der, tagSequence)
	if !ok || len(outer[0].body) == 0 {
		return nil, malformed("the alternative names are not one list of names (RFC 5280, section 4.2.1.6)")
	}
	var names []Name
	for e := range members(outer[0].body) {
		name := Name{Kind: kinds[e.tag], Index: len(names) + 1}
		if name.Kind == "" {
			return nil, malformed(fmt.Sprintf("alternative name %d is of no known kind", name.Index))
		}
		if name.Index > maxNames {
			return nil, &Error{CodeName, fmt.Sprintf("there are more than %d alternative names", maxNames)}
		}
		var problem string
		if name.Value, problem = nameValue(name.Kind, e.body); problem != "" {
			return nil, &Error{CodeName, fmt.Sprintf("alternative name %d, a %s, %s", name.Index, name.Kind, problem)}
		}
		names = append(names, name)
	}
	return names, nil
}

// nameValue gives a name in the form that Name.Value has, or what is wrong with it.
func nameValue(kind Kind, b []byte) (value, problem string) {
	switch kind {
	case DNSName, URI, "rfc822Name":
		if problem := textualProblem(b); problem != "" {
			return "", problem
		}
	}
	switch kind {
	case DNSName:
		name := strings.ToLower(string(b))
		return name, dnsProblem(name)
	case IPAddress:
		return addressValue(b)
	case URI:
		return uriValue(string(b))
	}
	return "", ""
}

// textualProblem is what is wrong with an IA5String that is a name.
func textualProblem(b []byte) string {
	switch {
	case len(b) == 0:
		return "is empty"
	case bytes.IndexByte(b, 0) >= 0:
		return "holds a NUL"
	case !ascii(b):
		return "holds other than ASCII: write a domain as its A-label, xn--..."
	}
	return ""
}

// dnsProblem has words of its own for what profile refuses: those of profile quote the name.
func dnsProblem(name string) string {
	if profile.CheckDNSName(name) == nil {
		return ""
	}
	switch _, err := netip.ParseAddr(name); {
	case err == nil:
		return "is an IP address: ask for it as an iPAddress"
	case len(name) > 253:
		return fmt.Sprintf("has %d bytes, at most 253", len(name))
	case strings.Contains(name, "*"):
		return "is a wildcard, which would let one service speak for others"
	}
	return "is not labels of letters, digits and inner hyphens, at most 63 bytes each, joined by single dots"
}

func addressValue(b []byte) (value, problem string) {
	address, ok := netip.AddrFromSlice(b)
	if !ok {
		return "", fmt.Sprintf("has %d bytes, not 4 or 16", len(b))
	}
	address = address.Unmap()
	if err := profile.CheckIPAddress(address, true); err != nil {
		return "", err.Error()
	}
	return address.String(), ""
}

// uriValue gives a SPIFFE ID, and nothing for another URI: that might hold a password.
func uriValue(text string) (value, problem string) {
	uri, err := url.Parse(text)
	switch {
	case err != nil || uri.Scheme == "" || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r == 0x7f }):
		return "", "is not an absolute URI"
	case uri.Scheme != "spiffe":
		return "", ""
	case len(text) > 2048:
		return "", fmt.Sprintf("has %d bytes, a SPIFFE ID has at most 2048", len(text))
	}
	// Without its scheme in lower case and two slashes a colon is left over, which no trust domain holds.
	domain, path, hasPath := strings.Cut(strings.TrimPrefix(text, "spiffe://"), "/")
	bad := !alphabet([]byte(domain), spiffeDomain) || domain == "" || len(domain) > 255
	if hasPath {
		for segment := range strings.SplitSeq(path, "/") {
			bad = bad || segment == "" || segment == "." || segment == ".." || !alphabet([]byte(segment), spiffePath)
		}
	}
	if bad {
		return "", "is not a SPIFFE ID: spiffe://, a trust domain in lower case, and a path of plain segments, without port, user, query or fragment"
	}
	return text, ""
}

// The alphabets of a SPIFFE ID (SPIFFE-ID, sections 2.1 and 2.2).
const (
	spiffeDomain = "abcdefghijklmnopqrstuvwxyz0123456789-._"
	spiffePath   = spiffeDomain + "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
)
