// Package config reads the catalogue: the one YAML file that says what meshca keeps and how.
//
// # What it guarantees
//
// A Config that [Load] or [Parse] returns is complete (every default is filled in) and consistent: the
// lifetimes fit each other and the schedule, every name may stand in a certificate, and no two services
// share a name or a Secret. Whatever is wrong with a file is found in one reading and named by line; see
// [Error]. Decoding is strict: an unknown or repeated key, a wrong type, an alias or a second document is refused,
// since a setting that is silently not applied is how a certificate authority surprises its owner.
//
// # Reloading
//
// The list of services is read again while meshca runs; every other field is read at the start and needs
// a restart. A file that is refused changes nothing.
//
// # Concurrency
//
// A Config and a [Schedule] do not change after they are made and may be shared between goroutines.
package config

import "github.com/meshca/meshca/profile"

//go:generate go run ./internal/gendocs ../docs/configuration.md

// A Config is one catalogue file with its defaults filled in.
type Config struct {
	// Version is the version of the file's format. Required; 1 is the only one. Another number is refused,
	// because the meaning of the other fields would be a guess. Read at start.
	Version int `yaml:"version"`

	// TrustDomain is the SPIFFE trust domain of the URI in every leaf certificate: a DNS name in lower case, at
	// most 253 bytes. Once peers match on it, changing it makes them refuse the new certificates. Default
	// mesh.local. Read at start.
	TrustDomain string `yaml:"trustDomain"`

	// Store says where state is kept.
	Store Store `yaml:"store"`

	// Seal says what encrypts private keys at rest.
	Seal Seal `yaml:"seal"`

	// Listen says which addresses are served.
	Listen Listen `yaml:"listen"`

	// CA says what the root and the issuing CA are made like.
	CA CA `yaml:"ca"`

	// Leaf says what the services' certificates are made like.
	Leaf Leaf `yaml:"leaf"`

	// Rotation says when certificates are renewed.
	Rotation Rotation `yaml:"rotation"`

	// Sweep is how often every service is read back and compared with what it should have, and expired records
	// are pruned: 1s to 24h. Longer leaves a damaged or deleted certificate unhealed for longer; very short
	// only costs reads. Default 1m. Read at start.
	Sweep Duration `yaml:"sweep"`

	// Target says where certificates are delivered. Required; exactly one target must be named.
	Target Target `yaml:"target"`

	// Services lists whom meshca keeps in certificates. An empty list is allowed and warned of. A service that
	// is taken out is no longer renewed; what it has stays until it expires. Default none. Reloads live.
	Services []Service `yaml:"services"`

	schedule *Schedule
	lines    map[string]int // where each field was written, for Warnings
}

// Schedule returns the parsed form of rotation.schedule. It is nil on a Config that Load or Parse did not make.
func (c *Config) Schedule() *Schedule { return c.schedule }

// A Store says where state is kept.
type Store struct {
	// Bolt is the embedded database.
	Bolt Bolt `yaml:"bolt"`

	// Retain is how long the record of a certificate is kept after it has expired: 0 (pruned by the next sweep)
	// to 876000h. Shorter loses the answer to "who had this serial number"; longer grows the file. Default
	// 2160h. Read at start.
	Retain Duration `yaml:"retain"`
}

// A Bolt is an embedded database in one file.
type Bolt struct {
	// Path is the database file, relative to the configuration file's folder. It holds the sealed private keys.
	// A path that is empty beside a seal, folders or Secrets that know a store is refused, since it is no first
	// start. It may not lie in the target's folder, where it would be handed to the services. Default
	// data/meshca.db. Read at start.
	Path string `yaml:"path"`
}

// A Seal says what encrypts private keys at rest.
type Seal struct {
	// KeyFile is a file of 32 random bytes, relative to the configuration file's folder. In earnest it lies on
	// another volume than the store, so that losing one gives no key away (a shared folder is warned of).
	// Without the file's content the store cannot be opened; in the target's folder it is refused. Default
	// seal/seal.key. Read at start.
	KeyFile string `yaml:"keyFile"`
}

// A Listen says which addresses are served.
type Listen struct {
	// API is where certificates are asked for, by HTTPS with a certificate of this CA: host:port, port 0 to 65535, 0
	// for any free port, or empty for nowhere. The default is reached from the same machine or pod alone; behind a
	// Service write :8443. With target.directory, whoever has the admin token beside the store may have a certificate
	// of every service; with target.kubernetes there is no such token, and callers are known to the API server. A port
	// in use stops the start. Default 127.0.0.1:8443. Read at start.
	API string `yaml:"api"`

	// Names are more DNS names by which the API is reached, beside localhost and, with target.kubernetes, a Service
	// meshca in meshca's own namespace: lower case, no wildcard, at most 50, each once. A client that dials another
	// name refuses the connection. Default []. Read at start.
	Names []string `yaml:"names,omitempty"`

	// Metrics is where metrics and health are served over plain HTTP: host:port, port 0 to 65535, 0 for any
	// free port. An empty host is every interface, which shows the names of all services to whoever reaches it.
	// A port in use stops the start. Default 127.0.0.1:8444. Read at start.
	Metrics string `yaml:"metrics"`
}

// A CA says what the root and the issuing CA are made like.
type CA struct {
	// Key is the key type of the next root and the next issuing CA: ECDSA-P256, ECDSA-P384, RSA-2048, RSA-3072
	// or RSA-4096. Ed25519 is refused: PostgreSQL's channel binding and Envoy's default signature algorithms
	// refuse it in a CA. Existing CAs keep theirs. Default ECDSA-P256. Read at start.
	Key profile.KeyType `yaml:"key"`

	// Root is the self-signed trust anchor. Its lifetime is at least 4 times the issuing CA's and at most
	// 876000h. Shorter means that trust is replaced in every service more often; longer means that a stolen
	// root key is of use for longer.
	Root Life `yaml:"root"`

	// Issuing is the CA below the root that signs leaves. Its lifetime is at least 2 × (leaf.lifetime + 2 × the
	// schedule's longest gap + 24h), so that it outlives what it signs, and at most 219000h, a quarter of the
	// longest root. Longer means that a stolen issuing key is of use for longer.
	Issuing Life `yaml:"issuing"`
}

// A Life says how long a CA lives.
type Life struct {
	// Lifetime is how long the next CA of this tier lives from its making, within the range that the tier says.
	// A CA that exists keeps the life that it was made with. Default 87600h for the root and 2160h for the
	// issuing CA. Read at start.
	Lifetime Duration `yaml:"lifetime"`
}

// A Leaf says what the services' certificates are made like.
type Leaf struct {
	// Lifetime is how long a certificate lives from its issue: longer than leaf.minRemaining, at most 876000h.
	// What remains of it after leaf.renewAt must be longer than the schedule's longest gap, or it would expire
	// before the rotation comes; that is refused with the arithmetic. Default 720h. Read at start.
	Lifetime Duration `yaml:"lifetime"`

	// RenewAt is the fraction of the lifetime after which a certificate is due: 0.1 to 0.9. Higher leaves fewer
	// tries before expiry; lower renews more often. Default 0.667. Read at start.
	RenewAt float64 `yaml:"renewAt"`

	// Backdate is how far before the moment of issue a certificate's validity begins, for peers whose clocks
	// are behind: 0 to 24h, effectively at most a tenth of leaf.lifetime. Less than the clocks' difference
	// makes such peers refuse a fresh certificate. Default 5m. Read at start.
	Backdate Duration `yaml:"backdate"`

	// Key is the key type of services that name none: ECDSA-P256, ECDSA-P384, Ed25519, RSA-2048, RSA-3072 or
	// RSA-4096. Ed25519 is warned of, because Envoy's defaults and libpq's channel binding refuse it. A change
	// makes the certificates concerned due at once. Default ECDSA-P256. Read at start.
	Key profile.KeyType `yaml:"key"`

	// MinRemaining is the least life with which a certificate is issued: longer than 0, shorter than
	// leaf.lifetime. Near the end of the issuing CA certificates are cut short, and where less than this would
	// be left issuing is refused. Too long refuses early; too short issues what expires before it is in use.
	// Default 1h. Read at start.
	MinRemaining Duration `yaml:"minRemaining"`
}

// A Rotation says when certificates are renewed.
type Rotation struct {
	// Schedule is when due certificates are renewed: five cron fields (minute, hour, day of month, month, day
	// of week), or @hourly, @daily, @midnight, @weekly or @monthly. A gap that is too long for leaf.lifetime is
	// refused. Default 0 3 * * *. Read at start.
	Schedule string `yaml:"schedule"`

	// Timezone is the IANA name of the zone that the schedule's times are in. A time that the spring change
	// skips runs right after it; a time that the autumn change repeats runs once, at the first. A wrong zone
	// renews in working hours. Default UTC. Read at start.
	Timezone string `yaml:"timezone"`

	// Restart says how the processes of a service come to hold new files.
	Restart Restart `yaml:"restart"`
}

// A Restart says how the processes of a service come to hold new files.
type Restart struct {
	// HoldDown is how long after a write a process that starts may still be given the old files, because a
	// kubelet hands out its cached copy: 0 to 1h. Only processes that started later count as having the new
	// ones. Shorter than the kubelets' sync period plus their cache's delay lets leaves be signed anew while
	// somebody still refuses them. Default 1m30s. Read at start.
	HoldDown Duration `yaml:"holdDown"`
}

// A Target says where certificates are delivered. Exactly one of its fields must be named.
type Target struct {
	// Directory delivers into folders.
	Directory *Directory `yaml:"directory,omitempty"`

	// Kubernetes delivers into Secrets of a cluster. Which cluster it is, and as whom, say --kubeconfig or the
	// pod's own account.
	Kubernetes *Kubernetes `yaml:"kubernetes,omitempty"`
}

// A Kubernetes delivers into one Secret per service.
type Kubernetes struct {
	// Watch is how a change of a Secret is noticed. names watches each Secret by name: the least rights,
	// healing within milliseconds, some 80 kB of memory for each (more than 300 services are warned of). none
	// watches nothing: one read for each service a sweep, and healing as slow as the sweep. namespace watches
	// all Secrets of a namespace at once, which needs the right to read them all, those of others too, and is
	// warned of. Default names. Read at start.
	Watch string `yaml:"watch"`
}

// A Directory delivers into one folder per service.
type Directory struct {
	// Path is the folder that holds one folder per service, relative to the configuration file's folder. A path
	// that the services do not read leaves them with their old certificates until those expire. Default mesh.
	// Read at start.
	Path string `yaml:"path"`
}
