package config

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/util/validation"
)

// A refusal is a file and the one problem that it has.
type refusal struct {
	name, text string
	line       int
	field      string
	message    string // a part of it
	hint       string // a part of it; "" for none at all
}

func service(text string) string { return minimal + "services:\n- name: web\n  " + text + "\n" }

func pods(text string) string { return cluster + "services:\n- name: web\n  " + text + "\n" }

// watch is a file whose only service has a Secret in the cluster, watched so.
func watch(mode string) string {
	return "version: 1\ntarget:\n  kubernetes:\n    watch: " + mode + "\nservices: [{name: web}]\n"
}

var refusals = []refusal{
	// The text as a whole.
	{"empty", "", 1, "", "is empty", "version: 1"},
	{"comment only", "# nothing\n", 1, "", "is empty", "version: 1"},
	{"null document", "---\n", 1, "", "is empty", "version: 1"},
	{"second document", minimal + "---\nversion: 1\n", 3, "", "second document", "leave out"},
	{"NUL", minimal + "sweep: \x00", 3, "", "NUL", "UTF-8"},
	{"not UTF-8", minimal + "\nsweep: \xff", 4, "", "not UTF-8", "UTF-8"},
	{"no YAML", minimal + "leaf:\n  a: b: c\n", 4, "", "is no YAML", ""},
	{"tab", "version: 1\nleaf:\n\tlifetime: 1h\n", 3, "", "is no YAML", "spaces"},
	{"list", "- version: 1\n", 1, "", "is a list, want a mapping", ""},
	{"version missing", "target: {directory: {}}\n", 1, "version", "is missing, this meshca reads version 1", "version: 1"},
	{"version 2", "version: 2\nservces: {}\n", 1, "version", "is 2, this meshca reads version 1", ""},
	{"version 0", "\nversion: 0\n", 2, "version", "is 0, this meshca reads version 1", ""},
	{"version text", "version: '1'\ntarget: {directory: {}}", 1, "version", `is the text "1", want a whole number`, ""},
	{"version huge", "version: 18446744073709551615\ntarget: {directory: {}}", 1, "version", "out of range", ""},

	// The walk.
	{"unknown key", minimal + "leaf:\n  lifetme: 1h\n", 4, "leaf.lifetme", "unknown key (nearest: lifetime)", ""},
	{"unknown case", minimal + "seal: {keyfile: x}\n", 3, "seal.keyfile", "unknown key (nearest: keyFile)", ""},
	{"unknown far", minimal + "listen:\n  grpc: 127.0.0.1:1\n", 4, "listen.grpc", "unknown key", "known here: api, names, metrics"},
	{"unknown swap", minimal + "sewep: 1m\n", 3, "sewep", "(nearest: sweep)", ""},
	{"unknown with newline", minimal + "\"a\\nb\": 1\n", 3, `"a\nb"`, "unknown key", "known here"},
	{"duplicate key", minimal + "sweep: 1m\nleaf: {}\nsweep: 2m\n", 5, "sweep", "is set twice, first on line 3", "keep one"},
	{"alias", minimal + "trustDomain: a.b\nsweep: *x\nleaf: {}\n", 4, "", "is no YAML: unknown anchor 'x' referenced", "quotes"},
	{"anchor", minimal + "trustDomain: &x a.b\n", 3, "trustDomain", "has an anchor (&x)", "leave"},
	{"merge", minimal + "leaf: {<<: {lifetime: 1h}}\n", 3, "leaf.\"<<\"", "is a merge key", "write the keys out"},
	{"tag", minimal + "trustDomain: !!str 12\n", 3, "trustDomain", "has a tag (!!str)", "leave"},
	{"key no name", minimal + "leaf:\n  ? [a]\n  : 1\n", 4, `leaf.""`, "no name", ""},
	{"nothing", minimal + "leaf:\n", 3, "leaf", "is nothing, want a mapping", "leave the key out"},
	{"list for mapping", minimal + "leaf: []\n", 3, "leaf", "is a list, want a mapping", ""},
	{"mapping for list", minimal + "services: {}\n", 3, "services", "is a mapping, want a list", ""},
	{"number for text", service("commonName: 12"), 5, "services[0].commonName", "is the number 12, want text", `in quotes: "12"`},
	{"truth for text", service("commonName: true"), 5, "services[0].commonName", "is the truth value true, want text", `in quotes`},
	{"text for truth", service("allowLoopback: please"), 5, "services[0].allowLoopback", `is the text "please", want true or false`, ""},
	{"text for number", minimal + "leaf: {renewAt: most}\n", 3, "leaf.renewAt", `is the text "most", want a number`, ""},
	{"service is text", minimal + "services: [web]\n", 3, "services[0]", `is the text "web", want a mapping`, ""},

	// Durations.
	{"days", minimal + "store: {retain: 30d}\n", 3, "store.retain", `"30d" is no duration: write hours, as 720h`, ""},
	{"weeks", minimal + "store: {retain: 2w}\n", 3, "store.retain", `"2w" is no duration: write hours, as 336h`, ""},
	{"no unit", minimal + "sweep: 60\n", 3, "sweep", `"60" is no duration: write its unit, as 60s`, ""},
	{"no duration", minimal + "sweep: often\n", 3, "sweep", `"often" is no duration: write it as 720h`, ""},
	{"duration overflow", minimal + "ca: {root: {lifetime: 99999999h}}\n", 3, "ca.root.lifetime", `at most 876000h`, ""},
	{"duration list", minimal + "sweep: [1m]\n", 3, "sweep", "is no duration", ""},

	// Ranges.
	{"renewAt low", minimal + "leaf: {renewAt: 0.05}\n", 3, "leaf.renewAt", "0.05 is outside 0.1 to 0.9", ""},
	{"renewAt high", minimal + "leaf: {renewAt: 1}\n", 3, "leaf.renewAt", "1 is outside 0.1 to 0.9", ""},
	{"renewAt NaN", minimal + "leaf: {renewAt: .nan}\n", 3, "leaf.renewAt", "NaN is outside", ""},
	{"backdate negative", minimal + "leaf: {backdate: -1s}\n", 3, "leaf.backdate", "-1s is too short, want 0s to 24h", ""},
	{"backdate long", minimal + "leaf: {backdate: 25h}\n", 3, "leaf.backdate", "25h is too long, want at most 24h", ""},
	{"sweep short", minimal + "sweep: 10ms\n", 3, "sweep", "10ms is too short, want 1s to 24h", ""},
	{"sweep long", minimal + "sweep: 24h1s\n", 3, "sweep", "24h0m1s is too long", ""},
	{"retain negative", minimal + "store: {retain: -1h}\n", 3, "store.retain", "-1h is too short, want 0s", ""},
	{"retain long", minimal + "store: {retain: 876001h}\n", 3, "store.retain", "at most 876000h", ""},
	{"lifetime zero", minimal + "leaf: {lifetime: 0}\n", 3, "leaf.lifetime", "0s is too short, want more than 0", ""},
	{"lifetime long", minimal + "leaf: {lifetime: 876001h}\n", 3, "leaf.lifetime", "at most 876000h", ""},
	{"minRemaining zero", minimal + "leaf: {minRemaining: 0s}\n", 3, "leaf.minRemaining", "want more than 0", ""},
	{"minRemaining long", minimal + "leaf: {minRemaining: 720h}\n", 3, "leaf.minRemaining", "720h is not shorter than leaf.lifetime 720h", ""},
	{"root long", minimal + "ca: {root: {lifetime: 876001h}}\n", 3, "ca.root.lifetime", "at most 876000h", ""},
	{"issuing long", minimal + "ca: {issuing: {lifetime: 219001h}, root: {lifetime: 876000h}}\n", 3, "ca.issuing.lifetime", "219001h is longer than 876000h / 4 = 219000h", ""},

	{"holdDown negative", minimal + "rotation: {restart: {holdDown: -1s}}\n", 3, "rotation.restart.holdDown", "-1s is too short, want 0s to 1h", ""},
	{"holdDown long", minimal + "rotation:\n  restart:\n    holdDown: 1h1s\n", 5, "rotation.restart.holdDown", "1h0m1s is too long, want at most 1h", ""},

	// Arithmetic.
	{
		"gap", minimal + "leaf:\n  lifetime: 48h\n  renewAt: 0.5\n", 4, "leaf.lifetime",
		"leaf.lifetime 48h x (1 - renewAt 0.5) = 24h is not longer than the schedule's longest gap 24h", "set leaf.lifetime to 49h",
	},
	{
		"gap of the schedule", minimal + "rotation:\n  schedule: '@monthly'\nca: {issuing: {lifetime: 5000h}}\n", 4, "rotation.schedule",
		"leaf.lifetime 720h x (1 - renewAt 0.667) = 239h45m36s is not longer than the schedule's longest gap 744h", "schedule more often",
	},
	{
		"issuing", minimal + "ca:\n  issuing:\n    lifetime: 1583h\n", 5, "ca.issuing.lifetime",
		"1583h is shorter than 2 x (leaf.lifetime 720h + 2 x the schedule's longest gap 24h + overlap 24h) = 1584h", "1584h or longer",
	},
	{
		"root", minimal + "ca:\n  root:\n    lifetime: 8639h\n", 5, "ca.root.lifetime",
		"8639h is shorter than 4 x ca.issuing.lifetime 2160h = 8640h", "8640h or longer",
	},

	// Names and addresses.
	{"trust domain upper", minimal + "trustDomain: Mesh.local\n", 3, "trustDomain", `"Mesh.local" label "Mesh" holds 'M'`, `"mesh.local"`},
	{"trust domain ID", minimal + "trustDomain: spiffe://mesh.local\n", 3, "trustDomain", "is an ID", `"mesh.local"`},
	{"trust domain long", minimal + "trustDomain: " + strings.Repeat("a.", 127) + "a\n", 3, "trustDomain", "has 255 bytes", ""},
	{"trust domain empty", minimal + "trustDomain: ''\n", 3, "trustDomain", "is empty", ""},
	{"name missing", minimal + "services:\n- namespace: a\n", 4, "services[0].name", "is missing", ""},
	{"name empty", minimal + "services:\n- name: ''\n", 4, "services[0].name", `"" is empty`, ""},
	{"name upper", minimal + "services:\n- name: Web\n", 4, "services[0].name", `"Web" holds 'W'`, `lower case: "web"`},
	{"name path", minimal + "services:\n- name: ../x\n", 4, "services[0].name", `"../x" holds '.', a DNS label holds only a-z, 0-9 and hyphens`, ""},
	{"name long", minimal + "services:\n- name: " + strings.Repeat("a", 64) + "\n", 4, "services[0].name", "has 64 bytes", ""},
	{"name twice", minimal + "services:\n- name: web\n- name: db\n- namespace: b\n  name: web\n", 7, "services[2].name", `"web" is the name of the service on line 4 already`, "across namespaces"},
	{"namespace", service("namespace: a.b"), 5, "services[0].namespace", `"a.b" holds '.'`, ""},
	{"namespace empty", service("namespace: ''"), 5, "services[0].namespace", "is empty", ""},
	{"dns upper", service("dnsNames: [WEB.local]"), 5, "services[0].dnsNames[0]", `holds 'W'`, `"web.local"`},
	{"dns wildcard", service("dnsNames: ['*.local']"), 5, "services[0].dnsNames[0]", "is a wildcard", ""},
	{"dns dot", service("dnsNames: [web.local.]"), 5, "services[0].dnsNames[0]", "is empty", `final dot off: "web.local"`},
	{"dns address", service("dnsNames: ['10.0.0.1']"), 5, "services[0].dnsNames[0]", "ipAddresses", ""},
	{"dns IDN", service("dnsNames:\n  - web\n  - bücher.example"), 7, "services[0].dnsNames[1]", `"bücher.example" holds 'ü', a name in a certificate is ASCII`, "A-label"},
	{"dns twice", service("dnsNames:\n  - web\n  - db\n  - web"), 8, "services[0].dnsNames[2]", `"web" is listed twice, first on line 6`, "keep one"},
	{"names many", service("ipAddresses: [10.0.0.1]\n  dnsNames: [" + manyNames(100) + "]"), 4, "services[0]", "has 101 names and addresses, a certificate has at most 100", ""},
	{"names none", service("dnsNames: []"), 5, "services[0].dnsNames", "a certificate needs a name", "leave the key out"},
	{"ip no address", service("ipAddresses: [web]"), 5, "services[0].ipAddresses[0]", `"web" is no IP address`, ""},
	{"ip empty", service("ipAddresses: ['']"), 5, "services[0].ipAddresses[0]", `"" is no IP address`, ""},
	{"ip loopback", service("ipAddresses: ['::1']"), 5, "services[0].ipAddresses[0]", "loopback", "allowLoopback: true"},
	{"ip unspecified", service("ipAddresses: [0.0.0.0]"), 5, "services[0].ipAddresses[0]", "unspecified", ""},
	{"ip multicast", service("ipAddresses: [224.0.0.1]"), 5, "services[0].ipAddresses[0]", "multicast", ""},
	{"ip zone", service("ipAddresses: ['fe80::1%eth0']"), 5, "services[0].ipAddresses[0]", "zone", ""},
	{"ip mapped", service("ipAddresses: ['::ffff:10.0.0.1']"), 5, "services[0].ipAddresses[0]", "IPv4 address written as IPv6", "write 10.0.0.1"},
	{"ip twice", service("ipAddresses:\n  - 10.0.0.1\n  - 10.0.0.1"), 7, "services[0].ipAddresses[1]", `"10.0.0.1" is listed twice, first on line 6`, "keep one"},
	{"cn long", service("commonName: " + strings.Repeat("ü", 33)), 5, "services[0].commonName", "has 66 bytes, a common name has at most 64", ""},
	{"cn control", service(`commonName: "a\tb"`), 5, "services[0].commonName", `"a\tb" holds a control character`, ""},
	{"cn empty", service("commonName: ''"), 5, "services[0].commonName", "is empty", "leave the key out"},
	{"key of service", service("key: DSA"), 5, "services[0].key", `key type "DSA" is not one of ECDSA-P256`, ""},
	{"key case", minimal + "leaf: {key: ecdsa-p256}\n", 3, "leaf.key", `key type "ecdsa-p256" is not one of`, "write ECDSA-P256"},
	{"key of CA", minimal + "ca: {key: Ed25519}\n", 3, "ca.key", "channel binding and Envoy's default signature algorithms refuse it", "ECDSA-P256"},
	{"key of CA unknown", minimal + "ca: {key: RSA-1024}\n", 3, "ca.key", `key type "RSA-1024" is not one of ECDSA-P256, ECDSA-P384, RSA-2048`, ""},

	// Places.
	{"target none", "version: 1\n", 1, "target", "names no target, want exactly one", "directory"},
	{"target empty", "version: 1\ntarget: {}\n", 2, "target", "names no target, want exactly one", "{kubernetes: {}}"},
	{"target two", "version: 1\n\ntarget:\n  directory: {}\n  kubernetes: {}\n", 3, "target", "names two targets, want exactly one", "two processes"},
	{"target unknown", "version: 1\ntarget:\n  directory: {}\n  bucket: {}\n", 4, "target.bucket", "unknown key", "known here: directory, kubernetes"},
	{"kubernetes nothing", "version: 1\ntarget:\n  kubernetes:\n", 3, "target.kubernetes", "is nothing, want a mapping", "leave the key out"},
	{"path empty", minimal + "store: {bolt: {path: ''}}\n", 3, "store.bolt.path", "is empty", "default"},
	{"path control", minimal + "seal: {keyFile: \"a\\nb\"}\n", 3, "seal.keyFile", "control character", ""},
	{"same path", minimal + "seal: {keyFile: data/../data/meshca.db}\n", 3, "seal.keyFile", "is store.bolt.path as well", "volume"},
	{"same path in a cluster", cluster + "seal: {keyFile: data/../data/meshca.db}\n", 3, "seal.keyFile", "is store.bolt.path as well", "volume"},
	{"path empty in a cluster", cluster + "store: {bolt: {path: ''}}\n", 3, "store.bolt.path", "is empty", "default"},
	{"seal empty in a cluster", cluster + "seal: {keyFile: ''}\n", 3, "seal.keyFile", "is empty", "default"},
	{"seal in target", minimal + "seal: {keyFile: mesh/a/key}\n", 3, "seal.keyFile", `lies in target.directory.path "mesh"`, "no service reads"},
	{"store in target", "version: 1\ntarget: {directory: {path: .}}\nseal: {keyFile: ../key}\nstore: {bolt: {path: x.db}}\n", 4, "store.bolt.path", `lies in target.directory.path "."`, "no service reads"},
	{"metrics", minimal + "listen: {metrics: localhost}\n", 3, "listen.metrics", `"localhost" is no address`, "host:port"},
	{"metrics port", minimal + "listen: {metrics: 'localhost:65536'}\n", 3, "listen.metrics", `port "65536", want 0 to 65535`, ""},
	{"metrics host", minimal + "listen: {metrics: 'a b:80'}\n", 3, "listen.metrics", `host "a b"`, "host:port"},

	// Secrets and who reads them.
	{"watch", watch("nmaes"), 4, "target.kubernetes.watch", `"nmaes" is not one of names, none, namespace`, "write names"},
	{"watch case", watch("Namespace"), 4, "target.kubernetes.watch", `"Namespace" is not one of`, "write namespace"},
	{"watch far", watch("everything"), 4, "target.kubernetes.watch", `"everything" is not one of`, ""},
	{"watch empty", watch("''"), 4, "target.kubernetes.watch", `"" is not one of`, ""},
	{"secret empty", pods("secret: ''"), 5, "services[0].secret", `"" is empty`, ""},
	{"secret upper", pods("secret: Web.tls"), 5, "services[0].secret", `"Web.tls" holds 'W', a Kubernetes object's name holds only`, `lower case: "web.tls"`},
	{"secret underscore", pods("secret: web_tls"), 5, "services[0].secret", "holds '_'", ""},
	{"secret IDN", pods("secret: bücher"), 5, "services[0].secret", "holds 'ü', a Kubernetes object's name", ""},
	{"secret dot", pods("secret: web.tls."), 5, "services[0].secret", "at an end or beside a dot", `final dot off: "web.tls"`},
	{"secret path", pods("secret: ../web"), 5, "services[0].secret", "holds '/'", ""},
	{"secret hyphen", pods("secret: web.-tls"), 5, "services[0].secret", "at an end or beside a dot", ""},
	{"secret long", pods("secret: " + strings.Repeat("a", 254)), 5, "services[0].secret", "has 254 bytes, a Kubernetes object's name has at most 253", ""},
	{"secret number", pods("secret: 12"), 5, "services[0].secret", "is the number 12, want text", "in quotes"},
	{"secret twice", pods("secret: tls\n- name: db\n  secret: tls"), 7, "services[1].secret", `"tls" is the Secret of the service on line 5 already`, "unique in its namespace"},
	{"secret and the default", cluster + "services:\n- name: web\n- name: db\n  secret: web-mtls-cert", 6, "services[1].secret", `"web-mtls-cert" is the Secret of the service on line 4 already`, "unique"},
	{"the default and a secret", pods("secret: db-mtls-cert\n- name: db"), 6, "services[1].secret", `"db-mtls-cert" is the Secret of the service on line 5 already`, "unique"},
	{"name twice in a cluster", cluster + "services:\n- name: web\n- name: web\n", 5, "services[1].name", "is the name of the service on line 4 already", "across namespaces"},
	{"workload kind", pods("workloads: [{kind: deployment, name: web}]"), 5, "services[0].workloads[0].kind", `"deployment" is not one of Deployment, StatefulSet, DaemonSet`, "write Deployment"},
	{"workload kind far", pods("workloads: [{kind: Pod, name: web}]"), 5, "services[0].workloads[0].kind", `"Pod" is not one of`, ""},
	{"workload kind missing", pods("workloads:\n  - {kind: DaemonSet, name: a}\n  - name: web"), 7, "services[0].workloads[1].kind", "is missing, every workload has a kind", ""},
	{"workload name missing", pods("workloads: [{kind: StatefulSet}]"), 5, "services[0].workloads[0].name", "is missing, every workload has a name", ""},
	{"workload name", pods("workloads:\n  - kind: StatefulSet\n    name: Web"), 7, "services[0].workloads[0].name", `"Web" holds 'W'`, `"web"`},
	{"workload text", pods("workloads: [deployment/web]"), 5, "services[0].workloads[0]", "want a mapping", ""},
	{"workload key", pods("workloads: [{kind: DaemonSet, name: a, namespace: b}]"), 5, "services[0].workloads[0].namespace", "unknown key", "known here: kind, name"},
	{"workload twice", pods("workloads:\n  - {kind: DaemonSet, name: a}\n  - {name: a, kind: DaemonSet}"), 7, "services[0].workloads[1]", `DaemonSet "a" is listed twice, first on line 6`, "keep one"},
	{"consumers", pods("consumers: apis"), 5, "services[0].consumers", `"apis" is not one of none, api`, "write api"},
	{"consumers far", pods("consumers: pods"), 5, "services[0].consumers", `"pods" is not one of none, api`, ""},

	// Who may ask.
	{"client nobody", service("clients: [{}]"), 5, "services[0].clients[0]", "names nobody, want service or serviceAccount", "NAMESPACE/NAME"},
	{"client unknown", service("clients:\n  - service: web\n  - service: wbe"), 7, "services[0].clients[1].service", `"wbe" is no service of this file`, ""},
	{"client empty", service("clients: [{service: ''}]"), 5, "services[0].clients[0].service", `"" is no service`, ""},
	{"client twice", service("clients:\n  - service: web\n  - service: web"), 7, "services[0].clients[1].service", `"web" is listed twice, first on line 6`, "keep one"},
	{"client key", service("clients: [{service: web, user: web}]"), 5, "services[0].clients[0].user", "unknown key", "known here: service, serviceAccount"},
	{"client of a folder", service("clients: [{serviceAccount: default/web}]"), 5, "services[0].clients[0].serviceAccount", "is for target.kubernetes", "leave the key out"},
	{"client of both", pods("clients:\n  - service: web\n    serviceAccount: default/web"), 7, "services[0].clients[0].serviceAccount", "stands beside service", "two clients"},
	{"account twice", pods("clients:\n  - serviceAccount: default/web\n  - service: web\n  - serviceAccount: default/web"), 8, "services[0].clients[2].serviceAccount", `"default/web" is listed twice, first on line 6`, "keep one"},
	{"account without namespace", pods("clients: [{serviceAccount: web}]"), 5, "services[0].clients[0].serviceAccount", `"web" is no NAMESPACE/NAME`, ""},
	{"account empty", pods("clients: [{serviceAccount: ''}]"), 5, "services[0].clients[0].serviceAccount", `"" is no NAMESPACE/NAME`, ""},
	{"account all", pods("clients: [{serviceAccount: 'default/*'}]"), 5, "services[0].clients[0].serviceAccount", `has a name that holds '*'`, ""},
	{"account anywhere", pods("clients: [{serviceAccount: /web}]"), 5, "services[0].clients[0].serviceAccount", "has a namespace that is empty", ""},
	{"account nameless", pods("clients: [{serviceAccount: default/}]"), 5, "services[0].clients[0].serviceAccount", "has a name that is empty", ""},
	{"account upper", pods("clients: [{serviceAccount: default/Web}]"), 5, "services[0].clients[0].serviceAccount", `has a name that holds 'W'`, `lower case: "default/web"`},
	{"account as RBAC has it", pods("clients: [{serviceAccount: 'system:serviceaccount:default:web'}]"), 5, "services[0].clients[0].serviceAccount", "is no NAMESPACE/NAME", ""},
	{"account path", pods("clients: [{serviceAccount: default/web/x}]"), 5, "services[0].clients[0].serviceAccount", "holds '/'", ""},
	{"account number", pods("clients: [{serviceAccount: 12}]"), 5, "services[0].clients[0].serviceAccount", "is the number 12, want text", "in quotes"},

	{"secret of a folder", service("secret: web-mtls-cert"), 5, "services[0].secret", "is for target.kubernetes, target.directory does not apply it", "leave the key out"},
	{"workloads of a folder", service("workloads: [{kind: Pod}]"), 5, "services[0].workloads", "is for target.kubernetes", "leave the key out"},
	{"consumers of a folder", service("consumers: ''"), 5, "services[0].consumers", "is for target.kubernetes", "leave the key out"},

	// The schedule; more of it in TestScheduleRefused.
	{"schedule", minimal + "rotation:\n  schedule: '0 0 30 2 *'\n", 4, "rotation.schedule", `"0 0 30 2 *" never comes`, ""},
	{"timezone", minimal + "rotation:\n  timezone: Mars/Olympus\n", 4, "rotation.timezone", `"Mars/Olympus" is no time zone`, "IANA"},
}

func problems(t *testing.T, text string) []Problem {
	t.Helper()
	c, err := Parse([]byte(text))
	if err == nil {
		t.Fatalf("accepted: %+v", c)
	}
	return err.(*Error).Problems
}

func TestRefusals(t *testing.T) {
	for _, tt := range refusals {
		t.Run(tt.name, func(t *testing.T) {
			got := problems(t, tt.text)
			if len(got) != 1 {
				t.Fatalf("want one problem, got %+v", got)
			}
			p := got[0]
			if p.Line != tt.line || p.Field != tt.field || !strings.Contains(p.Message, tt.message) {
				t.Errorf("got  %d %s: %s\nwant %d %s: %s", p.Line, p.Field, p.Message, tt.line, tt.field, tt.message)
			}
			if !strings.Contains(p.Hint, tt.hint) || (tt.hint == "") != (p.Hint == "") {
				t.Errorf("hint %q, want %q", p.Hint, tt.hint)
			}
		})
	}
}

func TestAliasIsRefused(t *testing.T) {
	got := problems(t, minimal+"leaf: {key: &k ECDSA-P256}\nca: {key: *k}\n")
	if len(got) != 2 || got[1].Field != "ca.key" || got[1].Line != 4 || got[1].Message != "is an alias (*k), which is refused" {
		t.Errorf("got %+v", got)
	}
}

// All problems of a file are named, in the order of lines, and none only because of another.
func TestAllProblemsAtOnce(t *testing.T) {
	text := `version: 1
sweep: 60
leaf:
  lifetme: 1h
  renewAt: 2
target: {}
services:
- name: Web
  dnsNames: [a, a]
- name: 12
- web
sweep: 1m
`
	want := `line 2: sweep: "60" is no duration: write its unit, as 60s
line 4: leaf.lifetme: unknown key (nearest: lifetime)
line 5: leaf.renewAt: 2 is outside 0.1 to 0.9
line 6: target: names no target, want exactly one
line 8: services[0].name: "Web" holds 'W', a DNS label holds only a-z, 0-9 and hyphens
line 9: services[0].dnsNames[1]: "a" is listed twice, first on line 9
line 10: services[1].name: is the number 12, want text
line 11: services[2]: is the text "web", want a mapping
line 12: sweep: is set twice, first on line 2`
	_, err := Parse([]byte(text))
	if diff := cmp.Diff(want, fmt.Sprint(err)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// What of a cluster is wrong is named with the rest, and a bad entry is never another's double.
func TestAllProblemsOfAClusterAtOnce(t *testing.T) {
	text := `version: 1
target: {kubernetes: {watch: never}}
rotation: {restart: {holdDown: 2h}}
services:
- name: Web
  workloads: [{name: a}, {name: a}, {kind: Job}]
- name: Web
  secret: Tls
- name: db
  secret: Tls
  consumers: nobody
`
	want := `line 2: target.kubernetes.watch: "never" is not one of names, none, namespace
line 3: rotation.restart.holdDown: 2h is too long, want at most 1h
line 5: services[0].name: "Web" holds 'W', a DNS label holds only a-z, 0-9 and hyphens
line 6: services[0].workloads[0].kind: is missing, every workload has a kind
line 6: services[0].workloads[1].kind: is missing, every workload has a kind
line 6: services[0].workloads[2].kind: "Job" is not one of Deployment, StatefulSet, DaemonSet
line 6: services[0].workloads[2].name: is missing, every workload has a name
line 7: services[1].name: "Web" holds 'W', a DNS label holds only a-z, 0-9 and hyphens
line 8: services[1].secret: "Tls" holds 'T', a Kubernetes object's name holds only a-z, 0-9, hyphens and dots
line 10: services[2].secret: "Tls" holds 'T', a Kubernetes object's name holds only a-z, 0-9, hyphens and dots
line 11: services[2].consumers: "nobody" is not one of none, api`
	_, err := Parse([]byte(text))
	if diff := cmp.Diff(want, fmt.Sprint(err)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// The longest lifetimes that are allowed must not wrap in any sum or product.
func TestNoOverflow(t *testing.T) {
	got := problems(t, minimal+"leaf: {lifetime: 876000h}\nca: {root: {lifetime: 876000h}, issuing: {lifetime: 219000h}}\n")
	if len(got) != 1 || got[0].Field != "ca.issuing.lifetime" || !strings.HasSuffix(got[0].Message, "= 1752144h") {
		t.Errorf("got %+v", got)
	}
	parsed(t, minimal+"leaf: {lifetime: 109000h}\nca: {root: {lifetime: 876000h}, issuing: {lifetime: 219000h}}\n")
}

// The bounds themselves are allowed.
func TestBoundsAreAllowed(t *testing.T) {
	for _, text := range []string{
		"ca: {issuing: {lifetime: 1584h}}",
		"ca: {root: {lifetime: 8640h}}",
		"leaf: {renewAt: 0.1, backdate: 24h}",
		"leaf: {renewAt: 0.9, backdate: 0}",
		"leaf: {lifetime: 48h1s, renewAt: 0.5}",
		"sweep: 1s",
		"sweep: 24h",
		"store: {retain: 0}",
		"store: {retain: 876000h}",
		"listen: {metrics: ':0'}",
		"listen: {metrics: '[::1]:65535'}",
		"services: [{name: a, commonName: " + strings.Repeat("x", 64) + ", dnsNames: [a]}]",
	} {
		parsed(t, minimal+text+"\n")
	}
	for _, text := range []string{
		"rotation: {restart: {holdDown: 0}}",
		"rotation: {restart: {holdDown: 1h}}",
		"services: [{name: " + strings.Repeat("a", 63) + "}]", // whose Secret's name is longer than a label
		"services: [{name: a, secret: " + strings.Repeat("a", 253) + "}]",
		"services: [{name: a, secret: 10.0.0.1}, {name: b, secret: meshca-ca}]",
		"services: [{name: a, secret: tls}, {name: b, secret: tls, namespace: b}]",
		"services: [{name: a, clients: [{service: a}, {serviceAccount: default/a}, {serviceAccount: other/a.b}]}, {name: b, clients: [{service: a}]}]",
		"services: [{name: a, consumers: none}, {name: b, consumers: api}, {name: c, consumers: ''}]",
		"services: [{name: a, workloads: [{kind: Deployment, name: x}, {kind: StatefulSet, name: x}, {kind: DaemonSet, name: x}]}, " +
			"{name: b, workloads: [{kind: Deployment, name: x}]}]",
	} {
		parsed(t, cluster+text+"\n")
	}
	for _, mode := range []string{"names", "none", "namespace"} {
		parsed(t, watch(mode))
	}
}

// What is a name to us must be one to Kubernetes, and the other way round.
func FuzzObjectName(f *testing.F) {
	for _, s := range []string{"", "a", "A", "-a", "a-", "a.b", "a..b", ".a", "a.", "a.-b", "a_b", "ü", "10.0.0.1", strings.Repeat("a", 253), strings.Repeat("a", 254)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, want := checkObjectName(s), validation.IsDNS1123Subdomain(s)
		if (got == nil) != (len(want) == 0) {
			t.Errorf("%q: got %v, Kubernetes says %v", s, got, want)
		}
	})
}

// manyNames is a list of n different names.
func manyNames(n int) string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("web%d", i)
	}
	return strings.Join(names, ", ")
}
