package verify

import (
	"cmp"
	"crypto/x509"
	"maps"
	"slices"
	"strings"
)

// A judgement is what the holders of one bundle say of one service's chain.
type judgement struct {
	asClient, asServer Cause  // why they refuse it in that role of theirs; "" is an acceptance
	narrow             string // the libraries that refuse it where crypto/x509 accepts
}

// A grievance is what the peers in one would-refuse finding have in common.
type grievance struct {
	cause Cause
	roles string
}

// refuse finds whom the holders of a bundle refuse. A client verifies for serverAuth, a server for
// clientAuth.
func (c *checker) refuse(b *bundle) {
	judged := make([]judgement, len(c.compared))
	for i, q := range c.compared {
		j := judgement{
			asClient: verifyChain(q.chain, b, x509.ExtKeyUsageServerAuth, c.now),
			asServer: verifyChain(q.chain, b, x509.ExtKeyUsageClientAuth, c.now),
		}
		if j.asClient == "" || j.asServer == "" {
			j.narrow = c.narrow(q, b)
		}
		judged[i] = j
	}
	for _, p := range b.holders {
		c.refuseOthers(p, judged)
	}
}

// narrow names the libraries that would refuse a chain which crypto/x509 accepts.
func (c *checker) narrow(q *party, b *bundle) string {
	var names []string
	for _, l := range libraries() {
		if !l.accepts(q.chain, b.anchors, c.now) {
			names = append(names, l.name)
		}
	}
	if len(names) == 0 {
		return ""
	}
	return listed(names)
}

// refuseOthers notes what one service would do to each other one, and whether it would accept itself.
func (c *checker) refuseOthers(p *party, judged []judgement) {
	refused := map[grievance][]*party{}
	narrow := map[string][]string{}
	for i, q := range c.compared {
		j := judged[i]
		if p == q {
			if len(p.anchors) > 0 && j.asClient.aboutIssuer() {
				p.add(LeafNotSignedByOwnBundle, nil, "the certificate in %s was signed by %s, %s beside it holds %s (%s)",
					p.cert.name, p.signer, p.ca.name, listed(shorts(p.anchors)), j.asClient)
			}
			continue
		}
		c.note(p, q, Client, j.asClient)
		c.note(p, q, Server, j.asServer)
		for _, g := range j.grievances() {
			refused[g] = append(refused[g], q)
		}
		if len(j.grievances()) > 0 {
			q.refusers++
		}
		if j.narrow != "" {
			narrow[j.narrow] = append(narrow[j.narrow], q.name)
		}
	}
	for _, g := range slices.SortedFunc(maps.Keys(refused), grievance.compare) {
		p.addRefusal(g, refused[g])
	}
	for _, names := range slices.Sorted(maps.Keys(narrow)) {
		p.add(VerifierDependent, narrow[names], "%s holds %s: with it, Go would accept %s, but %s would refuse with CERTIFICATE_VERIFY_FAILED",
			p.ca.name, listed(shorts(p.anchors)), listed(narrow[names]), names)
	}
}

// note records one refusal, if it is one.
func (c *checker) note(p, q *party, role Role, cause Cause) {
	if cause != "" {
		c.refusals = append(c.refusals, Refusal{
			Refuser: p.name, Refused: q.name, RefuserRole: role, Cause: cause, Reason: cause.Reason(),
		})
	}
}

// grievances gives one for both roles if the cause is the same, else one for each role that refuses.
func (j judgement) grievances() []grievance {
	switch {
	case j.asClient == "" && j.asServer == "":
		return nil
	case j.asClient == j.asServer:
		return []grievance{{j.asClient, "as client and as server"}}
	}
	var all []grievance
	if j.asClient != "" {
		all = append(all, grievance{j.asClient, "as client"})
	}
	if j.asServer != "" {
		all = append(all, grievance{j.asServer, "as server"})
	}
	return all
}

// addRefusal notes the finding for the peers that a service refuses for one cause in the same roles.
func (p *party) addRefusal(g grievance, peers []*party) {
	var names, signers []string
	for _, q := range peers {
		names = append(names, q.name)
		if !slices.Contains(signers, q.signer) {
			signers = append(signers, q.signer)
		}
	}
	whose, they := "its certificate was", "it sees"
	if len(peers) > 1 {
		whose, they = "their certificates were", "they see"
	}
	p.add(WouldRefuse, names, "%s, %s would refuse %s with CERTIFICATE_VERIFY_FAILED (%s): %s signed by %s, %s trusts %s; %s %q",
		g.roles, p.name, listed(names), g.cause, whose, listed(signers), p.name, listed(shorts(p.anchors)), they, g.cause.Alert())
}

func (g grievance) compare(o grievance) int {
	return cmp.Or(strings.Compare(g.roles, o.roles), strings.Compare(string(g.cause), string(o.cause)))
}
