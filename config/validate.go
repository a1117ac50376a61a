package config

import (
	"errors"
	"math"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/meshca/meshca/profile"
)

// IssuingOverlap is how long the next issuing CA is known to everyone before it signs its first leaf.
const IssuingOverlap = 24 * time.Hour

const (
	issuingPerLeaf = 2 // an issuing CA lives at least so many times the life below it
	rootPerIssuing = 4 // a root lives at least so many times an issuing CA
	maxBackdate    = 24 * time.Hour
	minSweep       = time.Second
	maxSweep       = 24 * time.Hour
	maxHoldDown    = time.Hour
	minRenewAt     = 0.1
	maxRenewAt     = 0.9
)

// A checker validates one configuration. Each method looks at one section of the file.
type checker struct {
	*report
	c *Config
}

func validate(c *Config, r *report) {
	k := checker{r, c}
	k.trustDomain()
	k.paths()
	k.target()
	k.listen()
	k.keys()
	k.durations()
	k.schedule()
	k.lifetimes()
	k.services()
}

func (k checker) trustDomain() {
	const path = "trustDomain"
	if host, ok := strings.CutPrefix(k.c.TrustDomain, "spiffe://"); ok {
		k.add(path, "write the domain only: "+quote(host), "%s is an ID, want a trust domain", quote(k.c.TrustDomain))
		return
	}
	k.name(path, k.c.TrustDomain, profile.CheckDNSName)
}

// name reports what is wrong with a name in the words of check, with the likely remedy.
func (k checker) name(path, value string, check func(string) error) bool {
	if at := strings.IndexFunc(value, func(c rune) bool { return c > unicode.MaxASCII }); at >= 0 {
		c, _ := utf8.DecodeRuneInString(value[at:])
		k.add(path, "write the name's A-label, which begins with xn--", "%s holds %q, a name in a certificate is ASCII",
			quote(value), c)
		return false
	}
	return k.spelled(path, value, check)
}

// spelled is name for names that stand in no certificate.
func (k checker) spelled(path, value string, check func(string) error) bool {
	err := check(value)
	if err == nil {
		return true
	}
	hint := ""
	if lower := strings.ToLower(value); lower != value && check(lower) == nil {
		hint = "write it in lower case: " + quote(lower)
	} else if cut := strings.TrimSuffix(value, "."); cut != value && check(cut) == nil {
		hint = "leave the final dot off: " + quote(cut)
	}
	k.add(path, hint, "%s %v", quote(value), err)
	return false
}

// paths checks that no two of the three places can overwrite each other, and that nothing secret lies
// where services read.
func (k checker) paths() {
	const db, key, dir = "store.bolt.path", "seal.keyFile", "target.directory.path"
	k.path(db, k.c.Store.Bolt.Path)
	k.path(key, k.c.Seal.KeyFile)
	if k.ok(db, key) && filepath.Clean(k.c.Store.Bolt.Path) == filepath.Clean(k.c.Seal.KeyFile) {
		k.add(key, "keep the seal on another volume", "%s is %s as well", quote(k.c.Seal.KeyFile), db)
	}
	if k.c.Target.Directory == nil {
		return
	}
	folder := k.c.Target.Directory.Path
	k.path(dir, folder)
	for _, secret := range [...]struct{ path, value string }{{db, k.c.Store.Bolt.Path}, {key, k.c.Seal.KeyFile}} {
		if k.ok(secret.path, dir) && within(folder, secret.value) {
			k.add(secret.path, "choose a folder that no service reads", "%s lies in %s %s, which is handed to services",
				quote(secret.value), dir, quote(folder))
		}
	}
}

func (k checker) path(path, value string) {
	switch {
	case value == "":
		k.add(path, "leave the key out for the default", "is empty")
	case strings.ContainsFunc(value, unicode.IsControl):
		k.add(path, "", "%s holds a control character", quote(value))
	}
}

// within says whether path is folder or lies in it, as far as their spelling tells.
func within(folder, path string) bool {
	rel, err := filepath.Rel(folder, path)
	return err == nil && filepath.IsLocal(rel)
}

// maxListenNames leaves room in a certificate for the names that it has anyway.
const maxListenNames = 50

func (k checker) listen() {
	if k.c.Listen.API != "" {
		k.address("listen.api", k.c.Listen.API, "127.0.0.1:8443")
	}
	k.address("listen.metrics", k.c.Listen.Metrics, "127.0.0.1:8444")
	k.dnsNames("listen.names", k.c.Listen.Names)
	if n := len(k.c.Listen.Names); n > maxListenNames {
		k.add("listen.names", "", "has %d names, at most %d", n, maxListenNames)
	}
}

func (k checker) address(path, address, usual string) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		k.add(path, "write host:port, as "+usual, "%s is no address", quote(address))
		return
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		k.add(path, "", "%s has the port %s, want 0 to 65535", quote(address), quote(port))
	}
	if _, err := netip.ParseAddr(host); err != nil && host != "" && profile.CheckDNSName(strings.ToLower(host)) != nil {
		k.add(path, "write host:port, as "+usual, "%s has the host %s, want a name or an address", quote(address), quote(host))
	}
}

func (k checker) keys() {
	k.keyType("leaf.key", k.c.Leaf.Key, profile.LeafKeyTypes())
	if k.c.CA.Key == profile.Ed25519 {
		k.add("ca.key", "write ECDSA-P256", "Ed25519 is for leaves only: PostgreSQL's channel binding and Envoy's "+
			"default signature algorithms refuse it in a CA")
	}
	k.keyType("ca.key", k.c.CA.Key, profile.CAKeyTypes())
}

func (k checker) keyType(path string, key profile.KeyType, allowed []profile.KeyType) {
	if _, err := profile.ParseKeyType(clip(string(key)), allowed); err != nil {
		hint := ""
		if i := slices.IndexFunc(allowed, func(a profile.KeyType) bool { return strings.EqualFold(string(a), string(key)) }); i >= 0 {
			hint = "write " + string(allowed[i])
		}
		k.add(path, hint, "%v", err)
	}
}

func (k checker) durations() {
	leaf, minimum := k.c.Leaf, time.Nanosecond
	k.between("store.retain", k.c.Store.Retain, 0, MaxLifetime)
	k.between("rotation.restart.holdDown", k.c.Rotation.Restart.HoldDown, 0, maxHoldDown)
	k.between("sweep", k.c.Sweep, minSweep, maxSweep)
	k.between("leaf.backdate", leaf.Backdate, 0, maxBackdate)
	k.between("leaf.lifetime", leaf.Lifetime, minimum, MaxLifetime)
	k.between("leaf.minRemaining", leaf.MinRemaining, minimum, MaxLifetime)
	k.between("ca.root.lifetime", k.c.CA.Root.Lifetime, minimum, MaxLifetime)
	k.between("ca.issuing.lifetime", k.c.CA.Issuing.Lifetime, minimum, MaxLifetime)
	if high := MaxLifetime / rootPerIssuing; k.c.CA.Issuing.Lifetime.Std() > high {
		k.add("ca.issuing.lifetime", "", "%s is longer than %s / %d = %s: a root lives at most %s, and at least %d times as long as an issuing CA",
			k.c.CA.Issuing.Lifetime, span(MaxLifetime), rootPerIssuing, span(high), span(MaxLifetime), rootPerIssuing)
	}
	if k.ok("leaf.lifetime", "leaf.minRemaining") && leaf.MinRemaining >= leaf.Lifetime {
		k.add("leaf.minRemaining", "", "%s is not shorter than leaf.lifetime %s", leaf.MinRemaining, leaf.Lifetime)
	}
	if at := leaf.RenewAt; math.IsNaN(at) || at < minRenewAt || at > maxRenewAt {
		k.add("leaf.renewAt", "", "%v is outside %v to %v", at, minRenewAt, maxRenewAt)
	}
}

func (k checker) between(path string, d Duration, low, high time.Duration) {
	switch {
	case d.Std() > high:
		k.add(path, "", "%s is too long, want at most %s", d, span(high))
	case d.Std() >= low:
	case low == time.Nanosecond:
		k.add(path, "", "%s is too short, want more than 0", d)
	default:
		k.add(path, "", "%s is too short, want %s to %s", d, span(low), span(high))
	}
}

func (k checker) schedule() {
	zone, err := loadZone(k.c.Rotation.Timezone)
	if err == nil && k.ok("rotation.schedule") {
		k.c.schedule, err = newSchedule(k.c.Rotation.Schedule, zone)
	}
	if p, ok := errors.AsType[*Problem](err); ok {
		k.add("rotation."+p.Field, p.Hint, "%s", p.Message)
	}
}

// lifetimes checks that a leaf outlasts the wait for the next rotation and each CA outlives what it signs.
// The ranges were checked before, so nothing here can overflow: leaf and gaps are at most 102 years.
func (k checker) lifetimes() {
	const leafPath, issuingPath, rootPath = "leaf.lifetime", "ca.issuing.lifetime", "ca.root.lifetime"
	leaf, issuing, root := k.c.Leaf.Lifetime, k.c.CA.Issuing.Lifetime, k.c.CA.Root.Lifetime
	tiers := k.ok(issuingPath, rootPath)
	if k.c.schedule != nil && k.ok(leafPath, "rotation.schedule", "rotation.timezone") {
		gap := k.c.schedule.LongestGap()
		if k.ok("leaf.renewAt") {
			k.reserve(gap)
		}
		least := issuingPerLeaf * (leaf.Std() + 2*gap + IssuingOverlap)
		if k.ok(issuingPath) && issuing.Std() < least {
			k.add(issuingPath, "set ca.issuing.lifetime to "+span(least)+" or longer, or leaf.lifetime shorter",
				"%s is shorter than %d x (leaf.lifetime %s + 2 x the schedule's longest gap %s + overlap %s) = %s",
				issuing, issuingPerLeaf, leaf, span(gap), span(IssuingOverlap), span(least))
		}
	}
	if least := rootPerIssuing * issuing.Std(); tiers && root.Std() < least {
		k.add(rootPath, "set ca.root.lifetime to "+span(least)+" or longer, or ca.issuing.lifetime shorter",
			"%s is shorter than %d x ca.issuing.lifetime %s = %s", root, rootPerIssuing, issuing, span(least))
	}
}

// reserve checks that what remains of a leaf's life when it falls due lasts until the schedule comes by.
func (k checker) reserve(gap time.Duration) {
	leaf := k.c.Leaf
	left := (leaf.Lifetime.Std() - time.Duration(float64(leaf.Lifetime)*leaf.RenewAt)).Round(time.Second)
	if left > gap {
		return
	}
	need := time.Duration(float64(gap)/(1-leaf.RenewAt)).Truncate(time.Hour) + time.Hour
	hint := "set leaf.lifetime to " + span(need) + " or longer, or rotation.schedule more often"
	k.add(k.written("leaf.lifetime", "leaf.renewAt", "rotation.schedule"), hint,
		"leaf.lifetime %s x (1 - renewAt %v) = %s is not longer than the schedule's longest gap %s: a certificate would expire before it is renewed",
		leaf.Lifetime, leaf.RenewAt, span(left), span(gap))
}

// written returns the first of paths that the file names, or the first of all.
func (k checker) written(paths ...string) string {
	if i := slices.IndexFunc(paths, k.has); i >= 0 {
		return paths[i]
	}
	return paths[0]
}
