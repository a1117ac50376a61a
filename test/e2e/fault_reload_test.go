package e2e

import (
	"errors"
	"testing"
)

// testReloadInAPass takes a service out of the catalogue while it is being healed: nothing is asked of the API server
// that is not of a Secret of the catalogue, and the others are kept on.
func testReloadInAPass(t *testing.T, k *kubernetes) {
	const leaving = "another"
	c := newCell(t, k, clusterSettings{Services: withFive(leaving)})
	p := c.start()
	_, from := c.gate.Calls(0)
	reached, goOn := make(chan struct{}, 100), make(chan struct{})
	c.gate.Do(func(x *exchange) {
		if x.Verb == "get" && x.Name == secretName(leaving) {
			reached <- struct{}{}
			<-goOn
		}
		x.Pass()
	})
	v := newClusterVandal(t, c, nil, 1)
	secretHarms["ca.crt another"](v, leaving)
	<-reached
	c.Configure(clusterSettings{Services: fiveServices, Sweep: "2h"})
	p.AwaitLine("this change needs a restart", "field", "sweep") // the new services are taken up next
	close(goOn)
	p.AwaitLine("service removed from the catalogue: no longer kept, what it has stays", "service", leaving)
	p.AwaitLine("config file read again")
	c.Services = fiveServices
	v.strikeAll("ca.crt another")
	p.Await("the others are healed", func() error { return errors.Join(c.inspect()...) })
	calls, _ := c.gate.Calls(from)
	for _, call := range calls {
		if call.Resource == "secrets" && call.Name == "" {
			t.Errorf("%s of all Secrets, answered %d", call.Verb, call.Code)
		}
	}
}
