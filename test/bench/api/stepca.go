package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// startStepCA starts step-ca, durable with bbolt or with no database at all, with a provisioner for one-time tokens:
// its way of telling callers apart that needs nothing but itself.
func startStepCA(binary, database string) func(dir string) (*server, error) {
	return func(dir string) (*server, error) {
		a, err := newAuthority()
		if err != nil {
			return nil, err
		}
		address, err := freeAddress()
		if err != nil {
			return nil, err
		}
		provisioner, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		s := &server{name: "step-ca, no database"}
		if database != "" {
			s.name, s.store = "step-ca, "+database, filepath.Join(dir, "store.db")
		}
		config, err := stepConfig(dir, address, s.store, database, &provisioner.PublicKey)
		if err != nil {
			return nil, err
		}
		if err := stepFiles(dir, a, config); err != nil {
			return nil, err
		}
		scalar, err := provisioner.Bytes()
		if err != nil {
			return nil, err
		}
		s.load = load{URL: "https://" + address + "/1.0/sign", CA: pemOf(a.root.Raw), OneTime: &oneTime{Key: scalar, Audience: "https://" + address + "/1.0/sign"}}
		s.cmd = exec.Command(binary, filepath.Join(dir, "ca.json"))
		if err := launch(dir, s.cmd); err != nil {
			return nil, err
		}
		return s, awaitStep(s, "https://"+address+"/health")
	}
}

// freeAddress is one that nobody has: step-ca does not say which one it took.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// kid names the provisioner's key.
const kid = "bench-key"

func stepConfig(dir, address, store, database string, key *ecdsa.PublicKey) ([]byte, error) {
	point, err := key.Bytes()
	if err != nil {
		return nil, err
	}
	type object = map[string]any
	config := object{
		"root": filepath.Join(dir, "root.crt"), "crt": filepath.Join(dir, "int.crt"), "key": filepath.Join(dir, "int.key"),
		"address": address, "dnsNames": []string{"127.0.0.1", "localhost"}, "logger": object{"format": "text"},
		"authority": object{
			"claims": object{"minTLSCertDuration": "5m", "maxTLSCertDuration": "2160h", "defaultTLSCertDuration": "720h"},
			"provisioners": []object{{"type": "JWK", "name": "bench", "key": object{"use": "sig", "kty": "EC", "crv": "P-256", "alg": "ES256", "kid": kid,
				"x": base64.RawURLEncoding.EncodeToString(point[1:33]), "y": base64.RawURLEncoding.EncodeToString(point[33:])}}},
		},
	}
	if database != "" {
		config["db"] = object{"type": database, "dataSource": store}
	}
	return json.Marshal(config)
}

func stepFiles(dir string, a *authority, config []byte) error {
	key, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		return err
	}
	for name, content := range map[string][]byte{
		"root.crt": []byte(pemOf(a.root.Raw)), "int.crt": []byte(pemOf(a.issuing.Raw)), "ca.json": config,
		"int.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// awaitStep waits until step-ca answers.
func awaitStep(s *server, url string) error {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(s.load.CA))
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: time.Second}
	return await(s.name+" serves", func() bool {
		answer, err := client.Get(url)
		if err != nil {
			return false
		}
		return answer.Body.Close() == nil && answer.StatusCode == http.StatusOK
	})
}

// A oneTime makes one-time tokens: step-ca wants another one with each request.
type oneTime struct {
	Key      []byte // the provisioner's scalar
	Audience string
}

// token is a JSON web token in ES256 (RFC 7515, RFC 7518).
func (o *oneTime) token() (string, error) {
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), o.Key)
	if err != nil {
		return "", err
	}
	now := time.Now().Unix()
	claims, err := json.Marshal(map[string]any{"iss": "bench", "aud": o.Audience, "sub": service, "sans": []string{service},
		"iat": now, "nbf": now, "exp": now + 300, "jti": rand.Text()})
	if err != nil {
		return "", err
	}
	encode := base64.RawURLEncoding.EncodeToString
	signed := encode([]byte(`{"alg":"ES256","typ":"JWT","kid":"`+kid+`"}`)) + "." + encode(claims)
	digest := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		return "", err
	}
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return signed + "." + encode(signature), nil
}
