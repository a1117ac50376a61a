package config

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode"

	"github.com/meshca/meshca/profile"
)

// maxCommonName is the upper bound of a common name (RFC 5280, appendix A.1, ub-common-name).
const maxCommonName = 64

func (k checker) services() {
	first := map[string]int{}
	for i, s := range k.c.Services {
		path := servicePath(i)
		k.service(path, s)
		if s.Name == "" || !k.ok(path+".name") {
			continue
		}
		if line, again := first[s.Name]; again {
			k.add(path+".name", "names are unique in the file, across namespaces too", "%q is the name of the service on line %d already", s.Name, line)
			continue
		}
		first[s.Name] = k.line(path + ".name")
	}
	k.secrets()
}

func (k checker) service(path string, s Service) {
	named := false
	switch {
	case !k.ok(path):
		return // no mapping: there is nothing more to say about it
	case !k.has(path + ".name"):
		k.add(path+".name", "", "is missing, every service has a name")
	default:
		named = k.ok(path+".name") && k.name(path+".name", s.Name, profile.CheckLabel)
	}
	spaced := k.ok(path+".namespace") && k.name(path+".namespace", s.Namespace, profile.CheckLabel)
	if k.has(path+".dnsNames") || named && spaced {
		k.dnsNames(path+".dnsNames", s.DNSNames)
		k.countNames(path, s)
	}
	k.addresses(path+".ipAddresses", s)
	if k.has(path+".commonName") || named {
		k.commonName(path+".commonName", s.CommonName)
	}
	if k.has(path + ".key") {
		k.keyType(path+".key", s.Key, profile.LeafKeyTypes())
	}
	k.clients(path+".clients", s.Clients)
	k.delivery(path, s)
}

// clients wants each client once, and a service in the file: a name that is misspelt would let nobody in, or one day a
// stranger.
func (k checker) clients(path string, clients []Client) {
	first := map[Client]int{}
	for i, client := range clients {
		at := fmt.Sprintf("%s[%d]", path, i)
		service, account := at+".service", at+".serviceAccount"
		if !k.ok(at, service, account) {
			continue
		}
		switch named, known := k.has(service), k.client(at, client); {
		case !known:
		case first[client] > 0:
			k.add(k.written(service, account), "keep one of the two", "%q is listed twice, first on line %d", client.Service+client.ServiceAccount, first[client])
		case named:
			first[client] = k.line(service)
		default:
			first[client] = k.line(account)
		}
	}
}

// client says whether one client is somebody.
func (k checker) client(at string, client Client) bool {
	service, account := at+".service", at+".serviceAccount"
	switch named, accounted := k.has(service), k.has(account); {
	case named && accounted:
		k.add(account, "write two clients, each with one of them", "stands beside service, want exactly one")
	case !named && !accounted:
		k.add(at, "write service: NAME or serviceAccount: NAMESPACE/NAME", "names nobody, want service or serviceAccount")
	case accounted && k.c.Target.Directory != nil && k.c.Target.Kubernetes == nil:
		k.add(account, "leave the key out", "is for target.kubernetes, target.directory does not apply it")
	case accounted:
		return k.name(account, client.ServiceAccount, checkAccount)
	case !slices.ContainsFunc(k.c.Services, func(s Service) bool { return s.Name == client.Service }):
		k.add(service, "", "%s is no service of this file", quote(client.Service))
	default:
		return true
	}
	return false
}

// countNames refuses what could never be issued: a certificate needs a name, and has at most
// profile.MaxNames of both kinds together.
func (k checker) countNames(path string, s Service) {
	switch n := len(s.DNSNames) + len(s.IPAddresses); {
	case n == 0:
		k.add(path+".dnsNames", "leave the key out for the usual names", "is empty, and there are no ipAddresses: a certificate needs a name")
	case n > profile.MaxNames:
		k.add(path, "", "has %d names and addresses, a certificate has at most %d", n, profile.MaxNames)
	}
}

func (k checker) dnsNames(path string, names []string) {
	first := map[string]int{}
	for i, name := range names {
		at := fmt.Sprintf("%s[%d]", path, i)
		if !k.ok(at) || !k.name(at, name, profile.CheckDNSName) {
			continue
		}
		if line, again := first[name]; again {
			k.add(at, "keep one of the two", "%q is listed twice, first on line %d", name, line)
			continue
		}
		first[name] = k.line(at)
	}
}

func (k checker) addresses(path string, s Service) {
	first := map[netip.Addr]int{}
	for i, a := range s.IPAddresses {
		at := fmt.Sprintf("%s[%d]", path, i)
		if !k.ok(at) {
			continue
		}
		line, again := first[a]
		if err := checkAddress(a, s.AllowLoopback); err != nil {
			k.add(at, addressHint(a, s.AllowLoopback), "%q %v", spell(a), err)
		} else if again {
			k.add(at, "keep one of the two", "%q is listed twice, first on line %d", a, line)
		} else {
			first[a] = k.line(at)
		}
	}
}

// checkAddress refuses, beside what no certificate may carry, an IPv4 address in IPv6 clothes: in the
// certificate it would be the IPv4 address, and listed twice unseen.
func checkAddress(a netip.Addr, allowLoopback bool) error {
	if a.Is4In6() {
		return errors.New("is an IPv4 address written as IPv6")
	}
	return profile.CheckIPAddress(a, allowLoopback)
}

func addressHint(a netip.Addr, allowLoopback bool) string {
	switch {
	case a.Is4In6():
		return "write " + a.Unmap().String()
	case a.IsLoopback() && !allowLoopback:
		return "set allowLoopback: true if that is what you want"
	}
	return ""
}

func spell(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func (k checker) commonName(path, name string) {
	switch {
	case name == "":
		k.add(path, "leave the key out for the service's name", "is empty")
	case len(name) > maxCommonName:
		k.add(path, "", "%s has %d bytes, a common name has at most %d", quote(name), len(name), maxCommonName)
	case strings.ContainsFunc(name, func(c rune) bool { return !unicode.IsPrint(c) }):
		k.add(path, "", "%s holds a control character or another that does not print", quote(name))
	}
}
