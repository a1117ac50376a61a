package client_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"log"

	"github.com/meshca/meshca/api/client"
)

// A pod asks for its service's certificate with what its volume holds.
func ExampleClient_Issue() {
	c, err := client.New(client.Config{
		Server:    "https://meshca.meshca.svc:8443",
		CAFile:    "/var/run/secrets/meshca.io/ca.crt",
		TokenFile: "/var/run/secrets/meshca.io/token",
	})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	csr, err := client.CSR(key)
	if err != nil {
		log.Fatal(err)
	}
	issued, err := c.Issue(context.Background(), client.CertificateRequest{Service: "bookapi", Csr: &csr})
	var refused *client.Problem
	if errors.As(err, &refused) {
		log.Fatalf("the CA says no (%s): %v", refused.Kind(), err)
	}
	if err != nil {
		log.Fatal(err)
	}
	if err := issued.Check(key.Public()); err != nil {
		log.Fatal(err)
	}
	fmt.Println("renew after", issued.RenewAfter)
}
