package contract_test

import (
	"bufio"
	"bytes"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"testing"

	"github.com/meshca/meshca/test/contract"
)

// TestGenerate: what is not spoilt is as the contract allows, what is spoilt mostly is not, nothing is left out, and
// the same randomness gives the same.
func TestGenerate(t *testing.T) {
	c := load(t)
	unknown := func(string, *rand.Rand) (string, bool) { return "", false }
	message := func(i uint64) *contract.Message { return c.Generate(rand.New(rand.NewPCG(1, i)), unknown) }
	ways, operations := make(map[string]int), make(map[string]int)
	spoilt, allowed := 0, 0
	for i := range uint64(2000) {
		m := message(i)
		wire := m.Wire("localhost")
		if !bytes.Equal(wire, message(i).Wire("localhost")) {
			t.Fatalf("message %d is another the second time", i)
		}
		operations[m.Operation.ID]++
		for _, way := range m.Spoilt {
			ways[way]++
		}
		err := readRequest(c, wire)
		if len(m.Spoilt) == 0 && err != nil {
			t.Errorf("%v\n%s", err, wire)
		}
		if len(m.Spoilt) > 0 {
			spoilt++
			if err == nil {
				allowed++
			}
		}
	}
	if len(operations) != len(c.Operations()) || slices.Min(slices.Collect(maps.Values(operations))) < 40 {
		t.Errorf("operations: %v", operations)
	}
	if len(ways) < 50 || slices.Min(slices.Collect(maps.Values(ways))) < 10 {
		t.Errorf("%d ways to spoil: %v", len(ways), ways)
	}
	if allowed*2 > spoilt {
		t.Errorf("of %d spoilt messages %d are allowed", spoilt, allowed)
	}
}

// readRequest reads a request as a server would, and judges it.
func readRequest(c *contract.Contract, wire []byte) error {
	r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(wire)))
	if err != nil {
		return err
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	return c.CheckRequest(r, body)
}
