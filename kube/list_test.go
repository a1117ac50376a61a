package kube

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

// podNames decodes a list of pods and gives their names.
func podNames(body io.Reader) (all []string, next string, err error) {
	next, err = decodeList(body, func(p *livePod) { all = append(all, p.Metadata.Name) })
	return all, next, err
}

// TestDecodeList: lists as API servers write them, in any order of their fields.
func TestDecodeList(t *testing.T) {
	for body, want := range map[string]string{
		`{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"7","continue":"abc"},"items":[{"metadata":{"name":"a"}},{"metadata":{"name":"b"}}]}`: "[a b] abc",
		`{"items":[{"metadata":{"name":"a"}}],"metadata":{}}`: "[a] ",
		`{"metadata":{"continue":"x"},"items":[]}`:            "[] x",
		`{"metadata":{},"items":null}`:                        "[] ",
		`{"items":[{"metadata":{"name":"a"}}`:                 "unexpected EOF",
		`{"items":[{"metadata":{"na`:                          "unexpected EOF",
		`{"items":[{"metadata":{"name":"a"}}]`:                "unexpected EOF",
		``:                                                    "unexpected EOF",
		`{"items":[{"metadata":{"name":7}}]}`:                 errForm.Error(),
		`{"items":{"metadata":{"name":"a"}}}`:                 errForm.Error(),
		`[{"metadata":{"name":"a"}}]`:                         errForm.Error(),
		`<html>`:                                              errForm.Error(),
	} {
		for _, reader := range []io.Reader{strings.NewReader(body), iotest.OneByteReader(strings.NewReader(body))} {
			all, next, err := podNames(reader)
			got := fmt.Sprint(all, " ", next)
			if err != nil {
				got = err.Error()
			}
			if got != want {
				t.Errorf("%s: %s, want %s", body, got, want)
			}
		}
	}
	broken := errors.New("connection reset")
	if _, _, err := podNames(io.MultiReader(strings.NewReader(`{"items":[{"meta`), iotest.ErrReader(broken))); !errors.Is(err, broken) {
		t.Errorf("an answer that was cut off: %v", err)
	}
}

// bigList is a list of pods with so many bytes each that nobody asked for.
func bigList(pods, size int) io.Reader {
	parts := []io.Reader{strings.NewReader(`{"metadata":{},"items":[{"metadata":{"name":"first"}}`)}
	value := bytes.Repeat([]byte("a"), size)
	for i := range pods {
		parts = append(parts, strings.NewReader(fmt.Sprintf(`,{"metadata":{"name":"p%d","annotations":{"a":"`, i)),
			bytes.NewReader(value), strings.NewReader(`"}}}`))
	}
	return io.MultiReader(append(parts, strings.NewReader(`]}`))...)
}

// counting counts what is read.
type counting struct {
	io.Reader
	read int
}

func (c *counting) Read(p []byte) (n int, err error) {
	n, err = c.Reader.Read(p)
	c.read += n
	return n, err
}

// TestBigPods: of large pods one is held at a time.
func TestBigPods(t *testing.T) {
	const pods, size = 16, 1 << 20
	body := &counting{Reader: bigList(pods, size)}
	most, count := 0, 0
	if _, err := decodeList(body, func(*livePod) { most = max(most, body.read-count*size); count++ }); err != nil {
		t.Fatal(err)
	}
	if count != pods+1 {
		t.Errorf("%d pods, want %d", count, pods+1)
	}
	if most > 4*size {
		t.Errorf("%d MiB were read ahead of a pod", most>>20)
	}
	if _, _, err := podNames(bigList(1, maxItem)); !errors.Is(err, errForm) || !strings.Contains(err.Error(), "more than 16 MiB") {
		t.Errorf("a pod larger than any is read: %v", err)
	}
}

// TestPodOfManyNames: a pod may name any number of Secrets; those that nobody asks for are not kept.
func TestPodOfManyNames(t *testing.T) {
	p := &livePod{}
	for i := range 1000 {
		v := podVolume{Name: "v", ConfigMap: &named{fmt.Sprint(i)}}
		v.CSI = &struct {
			NodePublishSecretRef *named `json:"nodePublishSecretRef"`
		}{&named{fmt.Sprint(i)}}
		p.Spec.Volumes = append(p.Spec.Volumes, v)
	}
	u := newUses(func(at place) bool { return slices.Contains([]string{"7", "envoy"}, at.name) })
	u.add(p)
	if len(u.secrets) != 1 || len(u.configMaps) != 1 || len(u.secrets[place{"", "7"}]) != 1 {
		t.Errorf("kept: %v, %v", u.secrets, u.configMaps)
	}
}
