package rotation

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"math/big"
	"slices"
	"testing"

	"github.com/meshca/meshca/ca/catest"
)

// crossing are two CAs that have certified each other so many times, and a leaf of the first. Anybody can make them.
func crossing(t *testing.T, times int) (leaf, anchors []*x509.Certificate) {
	one := &catest.Foreign{Certificate: catest.CATemplate("S", epoch), Key: catest.NewKey(t)}
	two := &catest.Foreign{Certificate: catest.CATemplate("T", epoch), Key: catest.NewKey(t)}
	for range times {
		anchors = append(anchors,
			catest.Sign(t, catest.CATemplate("S", epoch), one.Key, two).Certificate,
			catest.Sign(t, catest.CATemplate("T", epoch), two.Key, one).Certificate)
	}
	return []*x509.Certificate{one.Leaf(t, "busy", epoch).Certificate}, anchors
}

// row is a leaf below so many CAs, each in ca.crt, none of them self-signed.
func row(t *testing.T, length int) (leaf, anchors []*x509.Certificate) {
	below := catest.NewForeign(t, "0", epoch)
	for i := range length {
		below = catest.Sign(t, catest.CATemplate(fmt.Sprint(i+1), epoch), catest.NewKey(t), below)
		anchors = append(anchors, below.Certificate)
	}
	return []*x509.Certificate{below.Leaf(t, "busy", epoch).Certificate}, anchors
}

// TestBusy: what somebody makes to keep the audit busy stays with the service that has it, whole, and the others are
// taken over as without it.
func TestBusy(t *testing.T) {
	mesh := catest.NewForeign(t, "Mesh CA", epoch)
	ours := []*x509.Certificate{catest.NewForeign(t, "meshca root g1", epoch).Certificate}
	for name, c := range map[string]struct {
		make  func(*testing.T, int) (leaf, anchors []*x509.Certificate)
		count int
		whole bool
	}{
		"crossing names":      {crossing, maxNamesakes / 2, false},
		"many crossing names": {crossing, 5 * maxNamesakes, true},
		"a row":               {row, maxNeeds, false},
		"a long row":          {row, 2 * maxNeeds, true},
	} {
		t.Run(name, func(t *testing.T) {
			leaf, anchors := c.make(t, c.count)
			parties := []*party{
				{service: "busy", held: anchors, chains: [][]*x509.Certificate{leaf}},
				{service: "honest", held: []*x509.Certificate{mesh.Certificate}, chains: [][]*x509.Certificate{{mesh.Leaf(t, "honest", epoch).Certificate}}},
			}
			a := newAudit(parties, ours, nil, false, epoch)
			if a.until[string(leaf[0].Raw)].IsZero() {
				t.Error("it accepts its own leaf, and the audit says that nobody does")
			}
			kept := 0
			for _, anchor := range a.anchors() {
				switch own := slices.Equal(anchor.Only, []string{"busy"}); {
				case anchor.Certificate.Equal(mesh.Certificate):
					if len(anchor.Only) > 0 {
						t.Errorf("the honest CA is not for all: %s", describeAnchor(anchor))
					}
				case own != c.whole:
					t.Fatalf("kept whole: want %t: %s", c.whole, describeAnchor(anchor))
				default:
					kept++
				}
			}
			if kept != len(anchors) {
				t.Errorf("%d of %d anchors stay", kept, len(anchors))
			}
		})
	}
}

// TestStepsAreBounded: however the anchors sign each other, as many steps are made as there are anchors.
func TestStepsAreBounded(t *testing.T) {
	leaf, anchors := crossing(t, maxNamesakes/2)
	s := newSearch(anchors)
	ends := s.follow(paths(leaf, anchors, epoch), leaf, epoch)
	if len(ends) != len(anchors) || len(s.next) != len(anchors) {
		t.Errorf("%d ends in %d steps, of %d anchors", len(ends), len(s.next), len(anchors))
	}
	leaf, anchors = row(t, 10*maxNeeds)
	s = newSearch(anchors)
	s.follow(paths(leaf, anchors, epoch), leaf, epoch)
	if !s.tooMuch() || len(s.next) > maxNeeds+1 {
		t.Errorf("%d steps, then given up: %t", len(s.next), s.tooMuch())
	}
}

// TestUnionIsBounded: what would fill everybody's Secret is for those who have it.
func TestUnionIsBounded(t *testing.T) {
	ours := []*x509.Certificate{catest.NewForeign(t, "meshca root g1", epoch).Certificate}
	union := func(sizes ...int) (all, apart int) {
		parties := []*party{}
		for _, size := range sizes {
			name := fmt.Sprint(len(parties))
			by := catest.NewForeign(t, "CA "+name, epoch, func(c *x509.Certificate) { c.SubjectKeyId = make([]byte, size) })
			parties = append(parties, &party{service: name, held: []*x509.Certificate{by.Certificate},
				chains: [][]*x509.Certificate{{by.Nameless().Leaf(t, name, epoch).Certificate}}})
		}
		for _, anchor := range newAudit(parties, ours, nil, false, epoch).anchors() {
			if len(anchor.Only) == 0 {
				all++
			} else {
				apart++
			}
		}
		return all, apart
	}
	if all, apart := union(20, maxNeedsSize, 20); all != 2 || apart != 1 {
		t.Errorf("a big one among small ones: %d for all, %d apart", all, apart)
	}
	const many = maxUnion/(maxNeedsSize/2) + 1
	if all, apart := union(slices.Repeat([]int{maxNeedsSize / 2}, many)...); all != 0 || apart != many {
		t.Errorf("many that are big together: %d for all, %d apart", all, apart)
	}
}

// TestHugeKeys: certificates whose signatures nobody should check are as if they were not there.
func TestHugeKeys(t *testing.T) {
	small := catest.NewForeign(t, "Mesh CA", epoch)
	signed := func(bits uint, exponent int) []byte {
		key := &rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), int(bits)-1, 1), E: exponent}
		der, err := x509.CreateCertificate(rand.Reader, changedSerial(catest.CATemplate("Huge CA", epoch)), small.Certificate, key, small.Key)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return catest.PEM(cert)
	}
	for name, c := range map[string]struct {
		data []byte
		want int
	}{
		"8192 bits":        {signed(8192, 65537), 1},
		"8193 bits":        {signed(8193, 65537), 0},
		"a large exponent": {signed(2048, 1<<31+1), 0},
	} {
		if got := len(certificates(c.data)); got != c.want {
			t.Errorf("%s: %d certificates read, want %d", name, got, c.want)
		}
		if got := firstCertificate(c.data) != nil; got != (c.want == 1) {
			t.Errorf("%s: taken for a leaf: %t", name, got)
		}
	}
}

func changedSerial(c *x509.Certificate) *x509.Certificate {
	c.SerialNumber = big.NewInt(1)
	return c
}
