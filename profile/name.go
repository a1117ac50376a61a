package profile

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// CheckLabel says whether s is one DNS label as RFC 1123, section 2.1 has it, in lower case: letters,
// digits and inner hyphens, at most 63 bytes. Names of services and namespaces are labels, which is
// also what makes them safe as names of folders and Secrets.
func CheckLabel(s string) error {
	switch {
	case s == "":
		return errors.New("is empty")
	case len(s) > 63:
		return fmt.Errorf("has %d bytes, a DNS label has at most 63", len(s))
	case s[0] == '-' || s[len(s)-1] == '-':
		return errors.New("begins or ends with a hyphen")
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return fmt.Errorf("holds %q, a DNS label holds only a-z, 0-9 and hyphens", rune(c))
		}
	}
	return nil
}

// CheckDNSName says whether s may stand as a dNSName of a leaf certificate (RFC 5280, section 4.2.1.6):
// labels joined by dots, at most 253 bytes, no wildcard, no trailing dot, and no IP address in text.
func CheckDNSName(s string) error {
	switch {
	case s == "":
		return errors.New("is empty")
	case len(s) > 253:
		return fmt.Errorf("has %d bytes, a DNS name has at most 253", len(s))
	case strings.Contains(s, "*"):
		return errors.New("is a wildcard, which would let one service speak for others")
	}
	if _, err := netip.ParseAddr(s); err == nil {
		return errors.New("is an IP address: list it under ipAddresses")
	}
	for label := range strings.SplitSeq(s, ".") {
		if err := CheckLabel(label); err != nil {
			return fmt.Errorf("label %q %w", label, err)
		}
	}
	return nil
}

// CheckIPAddress says whether a may stand as an iPAddress of a leaf certificate: one host's address.
// A loopback address is every machine's, so it needs the catalogue's explicit word.
func CheckIPAddress(a netip.Addr, allowLoopback bool) error {
	switch {
	case !a.IsValid():
		return errors.New("is no IP address")
	case a.Zone() != "":
		return errors.New("has a zone, which a certificate cannot carry")
	case a.IsUnspecified():
		return errors.New("is the unspecified address, no host has it")
	case a.IsMulticast():
		return errors.New("is a multicast address, no single host has it")
	case a.IsLoopback() && !allowLoopback:
		return errors.New("is a loopback address, which is every machine's own")
	}
	return nil
}
