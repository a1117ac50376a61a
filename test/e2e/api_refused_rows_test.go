package e2e

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// vectorRows are all requests that package csr refuses.
func (b *badMesh) vectorRows() (rows []badRow) {
	problems := map[string]badRow{
		"too-long": {status: 413, kind: "too-large"}, "malformed": {status: 400, kind: "csr-malformed"}, "proof-failed": {status: 400, kind: "csr-proof"},
		"key-refused": {status: 422, kind: "key-refused"}, "name-malformed": {status: 422, kind: "name-malformed"},
	}
	for line := range bytes.Lines(readFile(b.t, filepath.Join("..", "..", "csr", "testdata", "refused.jsonl"))) {
		var v struct{ Name, Code, Text string }
		must(b.t, json.Unmarshal(line, &v))
		want := problems[v.Code]
		if v.Text == "" {
			want = badRow{status: 400, kind: "bad-request"} // no CSR is no bad one
		}
		rows = append(rows, b.asking(v.Name, v.Text, want.status, want.kind))
	}
	return rows
}

// csrOf is a CSR by crypto/x509, which signs anything.
func (b *badMesh) csrOf(template x509.CertificateRequest, key any) string {
	b.t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &template, key)
	must(b.t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

// nameRows ask for names that the catalogue does not grant, and for services that it does not have.
func (b *badMesh) nameRows() (rows []badRow) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(b.t, err)
	for _, name := range []string{"pgadmin", "pgadmin.default.svc", "bookapi.other.svc", "bookapi.default.svc.cluster.example", "kubernetes.default.svc", "kubernetes",
		"localhost", "meshca.api", "svc", "a.bookapi", "bookapi-mcp-server", "xn--bookapi-0.svc", strings.Repeat("a.", 126) + "a"} {
		row := b.asking("asks for "+name, b.csrOf(x509.CertificateRequest{DNSNames: []string{"bookapi", name}}, key), 403, "name-not-granted")
		row.words = name
		rows = append(rows, row)
	}
	for _, address := range []string{"10.96.0.1", "127.0.0.1", "::1", "169.254.169.254", "fd00::1"} {
		rows = append(rows, b.asking("asks for "+address, b.csrOf(x509.CertificateRequest{IPAddresses: []net.IP{net.ParseIP(address)}}, key), 403, "name-not-granted"))
	}
	for _, id := range []string{"spiffe://mesh.local/ns/default/svc/pgadmin", "spiffe://other/ns/default/svc/bookapi", "spiffe://mesh.local", "https://bookapi/"} {
		u, err := url.Parse(id)
		must(b.t, err)
		rows = append(rows, b.asking("asks for "+id, b.csrOf(x509.CertificateRequest{URIs: []*url.URL{u}}, key), 403, "name-not-granted"))
	}
	rows = append(rows, b.asking("asks for an e-mail address", b.csrOf(x509.CertificateRequest{EmailAddresses: []string{"root@bookapi"}}, key), 403, "name-not-granted"))
	for i, service := range []string{"", "A", "a.b", "..", "../envoy", "bookapi ", " bookapi", "bookapi\x00", "bookapi\n", "böökapi", "*", "meshca.api", "bookapi/", "-a", "a-",
		strings.Repeat("a", 64), "${SERVICE}", "<script>", "bookapi%00"} {
		rows = append(rows, badRow{name: numbered("service", i), method: "POST", path: "/v1/certificates",
			body: b.fields("service", service, "csr", b.csr), status: 400, kind: "bad-request", pointer: "/service"})
	}
	for _, service := range []string{"nobody", "book-api", "bookap", strings.Repeat("a", 63)} {
		rows = append(rows, badRow{name: "no service " + service, method: "POST", path: "/v1/certificates",
			body: b.fields("service", service, "csr", b.csr), status: 404, kind: "not-found", pointer: "/service"})
	}
	return rows
}

// keyRows are keys that are good, and not for this certificate.
func (b *badMesh) keyRows() []badRow {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	must(b.t, err)
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	must(b.t, err)
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	must(b.t, err)
	csr := x509.CertificateRequest{Subject: pkix.Name{CommonName: "bookapi", Organization: []string{"system:masters"}}}
	renewal := func(name, csr string) badRow {
		return badRow{name: name, method: "POST", path: "/v1/certificates/" + b.serial + "/renew", body: b.fields("csr", csr),
			status: 422, kind: "key-refused", pointer: "/csr"}
	}
	return []badRow{
		b.asking("key of another service", b.certified, 422, "key-refused"), renewal("renewal with the key of another service", b.certified),
		b.asking("key that was compromised", b.compromised, 422, "key-refused"), renewal("renewal with a key that was compromised", b.compromised),
		b.asking("P-384 where P-256 is the catalogue's", b.csrOf(csr, p384), 422, "key-refused"), renewal("renewal with P-384", b.csrOf(csr, p384)),
		b.asking("Ed25519 where P-256 is the catalogue's", b.csrOf(csr, ed), 422, "key-refused"),
		b.asking("RSA-2048 where P-256 is the catalogue's", b.csrOf(csr, weak), 422, "key-refused"),
	}
}

// wrongTypes are values in JSON of which a field takes at most one type.
var wrongTypes = map[string][]string{
	"string":  {`null`, `1`, `1.5`, `-0`, `1e999`, `true`, `[]`, `{}`, `["bookapi"]`, strings.Repeat("[", 10000) + strings.Repeat("]", 10000), strings.Repeat("9", 5000)},
	"boolean": {`null`, `1`, `0`, `"true"`, `""`, `[]`, `{}`, `[true]`},
}

// bodyRows are bodies that cannot be read.
func (b *badMesh) bodyRows() (rows []badRow) {
	renew, revoke := "/v1/certificates/"+b.serial+"/renew", "/v1/certificates/"+b.serial+"/revoke"
	add := func(name, path, body string, status int, kind, pointer string) {
		rows = append(rows, badRow{name: name, method: "POST", path: path, body: body, status: status, kind: kind, pointer: pointer})
	}
	fields := []struct{ path, name, kind, before string }{
		{"/v1/certificates", "service", "string", ""}, {"/v1/certificates", "csr", "string", `"service": "bookapi", `},
		{"/v1/certificates", "generateKey", "boolean", `"service": "envoy", `}, {renew, "csr", "string", ""}, {revoke, "reason", "string", ""},
	}
	for _, f := range fields {
		for i, value := range wrongTypes[f.kind] {
			add(numbered("wrong type of "+f.name+" of "+f.path, i), f.path, "{"+f.before+`"`+f.name+`": `+value+"}", 400, "bad-request", "/"+f.name)
		}
		add(f.name+" twice of "+f.path, f.path, "{"+f.before+`"`+f.name+`": `+goodValues[f.kind]+`, "`+f.name+`": `+goodValues[f.kind]+"}", 400, "bad-request", "/"+f.name)
		add(f.name+" of another case of "+f.path, f.path, "{"+f.before+`"`+strings.ToUpper(f.name)+`": `+goodValues[f.kind]+"}", 400, "bad-request", "")
		add("NaN as "+f.name+" of "+f.path, f.path, "{"+f.before+`"`+f.name+`": NaN}`, 400, "bad-request", "/"+f.name)
	}
	// What crypto/x509 would sign if it were asked for in a template.
	for name, value := range map[string]string{"serial": `0`, "serialNumber": `"-1"`, "notBefore": `"2030-01-01T00:00:00Z"`, "notAfter": `"9999-12-31T23:59:59Z"`, "lifetime": `"87600h"`, "ttl": `"0s"`,
		"isCA": `true`, "ca": `true`, "maxPathLen": `1`, "basicConstraints": `{"ca": true}`, "keyUsage": `["keyCertSign"]`, "extKeyUsage": `["any"]`, "subject": `"CN=a,O=system:masters"`,
		"commonName": `"a\nb"`, "dnsNames": `["*"]`, "ipAddresses": `["0.0.0.0"]`, "uris": `["spiffe://other/a"]`, "sans": `["a\u0000b"]`, "emailAddresses": `["a@b"]`, "extensions": `[]`,
		"extraExtensions": `[{"id": "2.5.29.19"}]`, "signatureAlgorithm": `"SHA1-RSA"`, "publicKey": `"MA=="`, "issuer": `"root"`, "profile": `"ca"`, "template": `"{{.Insecure.CR}}"`, "nameConstraints": `{}`} {
		add("asks for "+name, "/v1/certificates", `{"service": "bookapi", "csr": `+strconv.Quote(b.csr)+`, "`+name+`": `+value+"}", 400, "bad-request", "")
	}
	good := b.ask(b.csr)
	for name, body := range map[string]string{"null": "null", "number": "1", "string": `"bookapi"`, "list": "[" + good + "]", "empty object's half": "{", "closed only": "}", "cut": good[:len(good)-1],
		"two": good + good, "comma after": good + ",", "comma within": strings.Replace(good, "}", ",}", 1), "comment": "/* */" + good, "quotes": strings.ReplaceAll(good, `"`, "'"),
		"byte order mark": "\ufeff" + good, "UTF-16": strings.ReplaceAll(good, "", "\x00"), "no UTF-8": strings.Replace(good, "bookapi", "book\xff", 1), "NUL": good + "\x00", "form": "service=bookapi",
		"deep list": strings.Repeat("[", 10000), "XML": "<service>bookapi</service>", "YAML": "service: bookapi\n"} {
		add(name, "/v1/certificates", body, 400, "bad-request", "")
	}
	add("body: cut within a text", "/v1/certificates", good[:20], 400, "bad-request", "/csr")
	add("body: deep object", "/v1/certificates", strings.Repeat(`{"service":`, 5000), 400, "bad-request", "/service")
	add("no CSR", "/v1/certificates", `{"service": "bookapi"}`, 400, "bad-request", "/csr")
	add("generateKey: false alone", "/v1/certificates", `{"service": "envoy", "generateKey": false}`, 400, "bad-request", "/csr")
	add("CSR and generateKey", "/v1/certificates", `{"service": "envoy", "csr": "x", "generateKey": true}`, 400, "bad-request", "/csr /generateKey")
	add("generateKey refused", "/v1/certificates", `{"service": "bookapi", "generateKey": true}`, 403, "forbidden", "/generateKey")
	add("renewal without a CSR", renew, "", 400, "bad-request", "/csr")
	add("renewal, empty", renew, "{}", 400, "bad-request", "/csr")
	add("renewal of nothing", "/v1/certificates/abc/renew", "", 404, "not-found", "serial")
	add("renewal of what is revoked", "/v1/certificates/"+b.revoked+"/renew", b.fields("csr", b.csr), 409, "conflict", "serial")
	add("renewal of the API's own certificate", "/v1/certificates/"+b.own+"/renew", b.fields("csr", b.csr), 403, "forbidden", "serial")
	for i, reason := range []string{"", "boredom", "KeyCompromise", "keycompromise", "cACompromise", "certificateHold", "removeFromCRL", "aACompromise", "1", "keyCompromise ", "keyCompromise\x00"} {
		add(numbered("reason", i), revoke, b.fields("reason", reason), 400, "bad-request", "/reason")
	}
	add("revoked for another reason", "/v1/certificates/"+b.revoked+"/revoke", `{"reason": "privilegeWithdrawn"}`, 409, "already-revoked", "")
	for _, path := range []string{"/v1/certificates", renew, revoke} {
		add("more than 64 KiB of "+path, path, `{"csr": "`+strings.Repeat("a", 65536)+`"}`, 413, "too-large", "")
	}
	return rows
}

var goodValues = map[string]string{"string": `"a"`, "boolean": "true"}

// parameterRows are parameters and headers that cannot be read.
func (b *badMesh) parameterRows() (rows []badRow) {
	for name, values := range map[string][]string{
		"service": {"", "A", "..", "a b", "%00", strings.Repeat("a", 64)}, "state": {"", "Valid", "lost", "valid,revoked"},
		"expiresBefore": {"", "tomorrow", "2026-11-30", "1764500000", "2026-13-01T00:00:00Z"}, "issuer": {"", "A", "AB", "zz", "a", strings.Repeat("a", 130)},
		"limit": {"", "0", "-1", "501", "many", "1e2", "0x10", "99999999999999999999", "1.0", " 1"}, "cursor": {"", "1", "zzzzzzzzzzzzzzzz", "ffffffffffffffff", "00000000000000000"},
	} {
		for i, value := range values {
			rows = append(rows, badRow{name: numbered("parameter "+name, i), method: "GET", path: "/v1/certificates?" + name + "=" + strings.ReplaceAll(value, " ", "%20"), status: 400, kind: "bad-request", pointer: name})
		}
		rows = append(rows, badRow{name: "parameter " + name + " twice", method: "GET", path: "/v1/certificates?" + name + "=1&" + name + "=1", status: 400, kind: "bad-request", pointer: name})
	}
	for i, serial := range []string{"xyz", "-1", "0x1", "1.", "%20", "a%00", "..%2f", "%2e%2e", "a;b", "%F0%9F%92%A9", "::", ":", strings.Repeat("f", 41), strings.Repeat("f", 200)} {
		rows = append(rows, badRow{name: numbered("serial", i), method: "GET", path: "/v1/certificates/" + serial, status: 400, kind: "bad-request", pointer: "serial"})
	}
	for _, serial := range []string{"0", "1", "abc", strings.Repeat("f", 40)} {
		rows = append(rows, badRow{name: "no serial " + serial, method: "GET", path: "/v1/certificates/" + serial, status: 404, kind: "not-found", pointer: "serial"})
	}
	for i, ski := range []string{"A", "AB", "zz", "abc", "..", "a%2fb", strings.Repeat("ab", 65)} {
		if ski == ".." {
			continue // a client's library takes it for a way up
		}
		rows = append(rows, badRow{name: numbered("SKI", i), method: "GET", path: "/v1/crl/" + ski, status: 400, kind: "bad-request", pointer: "ski"})
	}
	for i, path := range []string{"/v1", "/v1/", "/v2/ca", "/v1/ca/", "/v1//ca", "//v1/ca", "/V1/ca", "/v1/ca%2f", "/v1%2fca", "/v1/certificates/", "/v1/crl/", "/v1/services/", "/v1/ca/..%2fcertificates",
		"/v1/ca/bundle.pem/x", "/etc/passwd", "/debug/pprof/", "/metrics", "/.git/config", "/index.html", "/openapi.json"} {
		rows = append(rows, badRow{name: numbered("path", i), method: "GET", path: path, status: 404, kind: "not-found"})
	}
	for i, key := range []string{"a b", "ä", strings.Repeat("k", 129), "a\tb"} {
		rows = append(rows, badRow{name: numbered("Idempotency-Key", i), method: "POST", path: "/v1/certificates", body: b.ask(b.csr), headers: []string{"Idempotency-Key", key},
			status: 400, kind: "bad-request", pointer: "Idempotency-Key"})
	}
	rows = append(rows,
		badRow{name: "Idempotency-Key of another body", method: "POST", path: "/v1/certificates", body: b.ask(b.csr), headers: []string{"Idempotency-Key", "used"}, status: 422, kind: "idempotency-key-reused", pointer: "Idempotency-Key"},
		badRow{name: "Idempotency-Key of a renewal", method: "POST", path: "/v1/certificates/" + b.serial + "/renew", body: b.fields("csr", b.csr), headers: []string{"Idempotency-Key", "used"}, status: 422, kind: "idempotency-key-reused", pointer: "Idempotency-Key"},
		badRow{name: "Idempotency-Key of a made key", method: "POST", path: "/v1/certificates", body: `{"service": "timescaledb", "generateKey": true}`, headers: []string{"Idempotency-Key", "made"}, status: 409, kind: "key-not-retained", pointer: "Idempotency-Key"})
	for i, media := range []string{"text/plain", "application/xml", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/problem+json", "application/jsonp", "json", "*/*", "application/json; a"} {
		rows = append(rows, badRow{name: numbered("Content-Type", i), method: "POST", path: "/v1/certificates", body: b.ask(b.csr), headers: []string{"Content-Type", media}, status: 415, kind: "unsupported-media-type"})
	}
	return rows
}

// operationRows are what no operation of the contract takes, of each.
func (b *badMesh) operationRows() (rows []badRow) {
	methods := make(map[string][]string)
	for _, o := range apiContract(b.t).Operations() {
		path := b.target(o.Path)
		methods[path] = append(methods[path], o.Method)
		rows = append(rows, badRow{name: o.ID + " with an unknown parameter", method: o.Method, path: path + "?page=1", status: 400, kind: "bad-request"})
		if !o.TakesBody() {
			rows = append(rows, badRow{name: o.ID + " with a body", method: o.Method, path: path, body: "{}", status: 400, kind: "bad-request"})
		}
	}
	for path, known := range methods {
		for _, method := range []string{"GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"} {
			if !slices.Contains(known, method) {
				rows = append(rows, badRow{name: method + " " + path, method: method, path: path, status: 405, kind: "method-not-allowed"})
			}
		}
	}
	return rows
}

// callerRows are callers whom nobody knows, at each operation that is not public, and such as ask for what is not theirs.
func (b *badMesh) callerRows() (rows []badRow) {
	bearer := func(token string) *apiClient { return b.admin.as(token, nil) }
	for name, by := range map[string]*apiClient{"nobody": b.nobody, "a foreign certificate": b.foreign, "a revoked certificate": b.expired, "a token of nobody": bearer(strings.Repeat("x", 43)),
		"a token too short": bearer(b.admin.token[1:]), "a token too long": bearer(b.admin.token + "a"), "a token in upper case": bearer(strings.ToUpper(b.admin.token)),
		"a JWT": bearer("eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiJ9."), "two words": bearer("a b")} {
		for _, o := range apiContract(b.t).Operations() {
			if !o.Public() {
				rows = append(rows, badRow{name: name + " " + o.ID, by: by, method: o.Method, path: b.target(o.Path), status: 401, kind: "unauthenticated"})
			}
		}
	}
	for i, header := range []string{"", "Bearer", "Bearer ", "Basic YTpi", b.admin.token, "Token " + b.admin.token, "Bearer  " + b.admin.token, "Bearer " + strings.Repeat("a", 9000)} {
		rows = append(rows, badRow{name: numbered("Authorization", i), by: b.nobody, method: "GET", path: "/v1/ca", headers: []string{"Authorization", header}, status: 401, kind: "unauthenticated"})
	}
	serial := serialOf(b.envoy.cert.Leaf)
	return append(rows,
		badRow{name: "a service that is not listed", by: b.pgadmin, method: "POST", path: "/v1/certificates", body: b.ask(b.csr), status: 403, kind: "forbidden", pointer: "/service"},
		badRow{name: "its own service, not listed", by: b.envoy, method: "POST", path: "/v1/certificates", body: b.fields("service", "envoy", "csr", b.csr), status: 403, kind: "forbidden", pointer: "/service"},
		badRow{name: "a service that there is not", by: b.pgadmin, method: "POST", path: "/v1/certificates", body: b.fields("service", "nobody", "csr", b.csr), status: 403, kind: "forbidden", pointer: "/service"},
		badRow{name: "another's certificate", by: b.pgadmin, method: "GET", path: "/v1/certificates/" + b.serial, status: 404, kind: "not-found", pointer: "serial"},
		badRow{name: "another's renewal", by: b.pgadmin, method: "POST", path: "/v1/certificates/" + serial + "/renew", status: 404, kind: "not-found", pointer: "serial"},
		badRow{name: "another's renewal with a key of one's own", by: b.pgadmin, method: "POST", path: "/v1/certificates/" + serial + "/renew", body: b.fields("csr", b.csr), status: 404, kind: "not-found", pointer: "serial"},
		badRow{name: "another's revocation", by: b.pgadmin, method: "POST", path: "/v1/certificates/" + serial + "/revoke", body: `{"reason": "superseded"}`, status: 404, kind: "not-found", pointer: "serial"},
		badRow{name: "another's list", by: b.pgadmin, method: "GET", path: "/v1/certificates?service=bookapi", status: 403, kind: "forbidden", pointer: "service"},
		badRow{name: "another's service", by: b.pgadmin, method: "GET", path: "/v1/services/bookapi", status: 403, kind: "forbidden", pointer: "name"})
}
