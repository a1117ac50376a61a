package config

import (
	"fmt"
	"net/netip"

	"github.com/meshca/meshca/profile"
)

// A Service is one holder of a certificate.
type Service struct {
	// Name identifies the service in the catalogue and names its folder or, unless secret does, its Secret: a
	// DNS label (a-z, 0-9, inner hyphens, at most 63 bytes), unique in the file. Required. A renamed service is
	// a new one; what the old name has is no longer renewed. Reloads live.
	Name string `yaml:"name"`

	// Namespace is the service's namespace, a DNS label; it is part of the SPIFFE URI, and its Secret lies in
	// it. A wrong one makes peers that match the URI refuse the service, and pods find no Secret. Default
	// default. Reloads live.
	Namespace string `yaml:"namespace"`

	// Secret is the name of the service's Secret, with target.kubernetes only: a-z, 0-9, inner hyphens and dots,
	// at most 253 bytes, unique in its namespace. Another name is another Secret; the old one stays as it is,
	// and pods that mount it are no longer kept in certificates. Default NAME-mtls-cert. Reloads live.
	Secret string `yaml:"secret,omitempty"`

	// Workloads are what runs the service, with target.kubernetes only, in the service's namespace. Events are
	// written on them; a wrong one gets none. Default none. Reloads live.
	Workloads []Workload `yaml:"workloads,omitempty"`

	// Consumers says who reads the service's Secret where that cannot be seen, with target.kubernetes only: none
	// (nobody does), api (whoever does follows its changes), or empty, not known. While a mesh of another CA is
	// taken over, a Secret that no pod reads is waited for until its certificate is due, because a gateway or a
	// copier may read it. A wrong none or api makes such a reader refuse others, and be refused. Default empty.
	// Reloads live.
	Consumers string `yaml:"consumers,omitempty"`

	// DNSNames are the names that clients reach the service by: lower case, no wildcard, each once, with
	// ipAddresses at most 100 and at least one. A list replaces the default names. A client that dials a name
	// which is not in the list refuses the connection. A change makes the certificate due at once. Default NAME,
	// NAME.NAMESPACE.svc and NAME.NAMESPACE.svc.cluster.local. Reloads live.
	DNSNames []string `yaml:"dnsNames"`

	// IPAddresses are the addresses that clients dial instead of a name: one host's each. A wrong
	// one lets the service speak for another host. A change makes the certificate due at once. Default none.
	// Reloads live.
	IPAddresses []netip.Addr `yaml:"ipAddresses"`

	// AllowLoopback permits loopback addresses in ipAddresses. A loopback address is every machine's own, so
	// whoever has the certificate can pose as a local service anywhere; for tests only. Default false. Reloads
	// live.
	AllowLoopback bool `yaml:"allowLoopback"`

	// CommonName is the subject's common name, which PostgreSQL's cert authentication takes for the database
	// user: printable text of 1 to 64 bytes. A wrong one is refused by the database, or logs in as somebody
	// else. Default NAME. Reloads live.
	CommonName string `yaml:"commonName"`

	// Clients are who may ask the API for certificates of this service, beside operators: each has the service's
	// whole identity then. Default none, which is nobody. Reloads live.
	Clients []Client `yaml:"clients,omitempty"`

	// GenerateKey permits the API to make the private key for a caller, which then travels over the network and
	// is in two memories. Default false: callers make their own and send a CSR. Reloads live.
	GenerateKey bool `yaml:"generateKey,omitempty"`

	// Key is the service's key type, one of those of leaf.key. A change makes the certificate due at once.
	// Default leaf.key. Reloads live.
	Key profile.KeyType `yaml:"key"`
}

// A Client is who may ask for a service's certificates. Exactly one of its fields must be named.
type Client struct {
	// Service is a service of the catalogue: who presents its certificate to the API is this client. A name that is
	// not in the file is refused. Default none. Reloads live.
	Service string `yaml:"service,omitempty"`

	// ServiceAccount is NAMESPACE/NAME of a Kubernetes service account, with target.kubernetes only: who sends a token
	// of it that is meant for the audience meshca is this client, which is every pod that runs as it. A wrong one lets
	// strangers in: whether there is such an account is not looked up. Default none. Reloads live.
	ServiceAccount string `yaml:"serviceAccount,omitempty"`
}

// A Workload is what runs a service.
type Workload struct {
	// Kind is Deployment, StatefulSet or DaemonSet. Required. Reloads live.
	Kind string `yaml:"kind"`

	// Name is the workload's name in Kubernetes, each workload once. Required. Reloads live.
	Name string `yaml:"name"`
}

// fill gives the service at path the defaults of what the file leaves out.
func (s *Service) fill(path string, leaf Leaf, r *report) {
	if !r.has(path + ".dnsNames") {
		full := s.Name + "." + s.Namespace + ".svc"
		s.DNSNames = []string{s.Name, full, full + ".cluster.local"}
	}
	if !r.has(path + ".secret") {
		s.Secret = s.Name + "-mtls-cert"
	}
	if !r.has(path + ".commonName") {
		s.CommonName = s.Name
	}
	if !r.has(path + ".key") {
		s.Key = leaf.Key
	}
}

// servicePath spells the path of service i, as problems name it.
func servicePath(i int) string { return fmt.Sprintf("services[%d]", i) }
