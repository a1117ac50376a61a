// Package verify says, for a set of services that speak mutual TLS with each other, who would refuse
// whom and why, from the bytes that each presents and trusts.
//
// # What it answers
//
// Given tls.crt, tls.key and ca.crt of each service and an instant, [Check] answers for every ordered
// pair: would p, as the client, accept q's certificate, and would q, as the server, accept p's? It names
// the odd one out, each file that cannot be read and what is wrong with it, and each refusal in the
// words that a user would find in a log. It works on material from any CA.
//
// The accept or refuse of a pair is that of crypto/x509: the chain is everything in tls.crt, leaf first,
// the trust anchors are the certificates in ca.crt, the purpose is serverAuth for a server's certificate
// and clientAuth for a client's (RFC 5280, sections 4.2.1.12 and 6). Where crypto/x509 finds a path that
// OpenSSL or BoringSSL would not look for, the finding verifier-dependent says so.
//
// # What it does not
//
// It does no I/O, reads no clock and keeps no state: the same arguments give the same [Report]. It does
// not check host names, since a service is reached under several names and a caller's choice among them
// is not in these files; it does not check revocation, nor whether a running process has read the files.
// It never puts a byte of a private key into what it returns, wherever that key was found.
//
// # Failure
//
// There is no error to return: whatever the bytes are, they end in a finding. A service whose leaf cannot
// be read takes no part in the pairs and its row says so; the others are still compared. A service whose
// ca.crt holds no certificate trusts nobody, so it refuses everyone.
package verify
