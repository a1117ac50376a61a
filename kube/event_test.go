package kube

import (
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/validation"

	"github.com/meshca/meshca/rotation"
)

// TestEventName: also the Secret with the longest name has Events, and two of one moment are two.
func TestEventName(t *testing.T) {
	n := notice{Notice: rotation.Notice{Kind: rotation.NoticeHealed, Text: "ca.crt"}, at: time.Now()}
	for _, name := range []string{"a", "envoy-mtls-cert", strings.Repeat("a.", 126) + "a", strings.Repeat("a", 227) + "-b", strings.Repeat("a", 253)} {
		secret, workload := eventName(n, reference{Kind: "Secret", Name: name}), eventName(n, reference{Kind: "Deployment", Name: name})
		if problems := validation.NameIsDNSSubdomain(secret, false); len(problems) > 0 {
			t.Errorf("%q: %v", secret, problems)
		}
		if secret == workload {
			t.Errorf("the Events on the Secret and on its workload are both called %q", secret)
		}
	}
}

func TestCut(t *testing.T) {
	for _, text := range []string{"", strings.Repeat("a", maxNote), strings.Repeat("→", maxNote)} {
		if got := cut(text); len(got) > maxNote || strings.ToValidUTF8(got, "?") != got {
			t.Errorf("%d bytes are cut to %d", len(text), len(got))
		}
	}
}
