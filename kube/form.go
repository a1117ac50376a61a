package kube

import (
	"cmp"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/meshca/meshca/kube/guard"
	"github.com/meshca/meshca/rotation"
)

// What meshca writes beside the keys of a Secret. None of it changes from one sweep to the next.
const (
	ours = "meshca.io/" // begins the names of all of it

	labelService        = guard.ServiceLabel
	labelManagedBy      = "app.kubernetes.io/managed-by" // only on a Secret that meshca has made: on others it is Helm's
	managedBy           = "meshca"
	annotationStamp     = ours + "stamp" // store identity and MAC, see rotation.Mark
	annotationEpoch     = ours + "epoch"
	annotationBundle    = ours + "bundle-sha256"
	annotationSerial    = ours + "serial"
	annotationNotBefore = ours + "not-before"
	annotationNotAfter  = ours + "not-after"
	annotationIssuer    = ours + "issuer"
	annotationGlass     = guard.BreakGlassAnnotation // an operator's: healing rests while it is there

	// markPlace is where the mark is, for people.
	markPlace = ours + "* annotations"
)

// secretVersion is what was observed of a Secret, as far as writing over it needs that. The zero value is an absent
// one.
type secretVersion struct {
	uid             types.UID
	resourceVersion string
	kind            corev1.SecretType
	cert, key       []byte
	kept            map[string]string // labels that are not ours, which we hold since we made the Secret anew
	keptAnnotations map[string]string
	rests           bool
}

// observe reads a Secret as an observation.
func observe(secret *corev1.Secret, service string) rotation.Observation {
	o := rotation.Observation{
		Cert: secret.Data[rotation.CertFile], Key: secret.Data[rotation.KeyFile], CA: secret.Data[rotation.CAFile],
		Mark: markOf(secret), MarkIn: markPlace,
		By: writers(secret), Form: formOf(secret), Written: written(secret), Instance: string(secret.UID),
	}
	for key, part := range map[string]*[]byte{rotation.CertFile: &o.Cert, rotation.KeyFile: &o.Key, rotation.CAFile: &o.CA} {
		if _, there := secret.Data[key]; there && *part == nil {
			*part = []byte{} // null: the key is there, and empty
		}
	}
	if glass, broken := secret.Annotations[annotationGlass]; broken {
		o.Rests = cmp.Or(clean(glass), "no reason is given")
	}
	labels, annotations := held(secret)
	o.Version = secretVersion{uid: secret.UID, resourceVersion: secret.ResourceVersion, kind: secret.Type, cert: o.Cert, key: o.Key,
		kept: labels, keptAnnotations: annotations, rests: o.Rests != ""}
	if labels[labelManagedBy] == managedBy {
		o.Form.Made = o.Instance
	}
	if seen := secret.Labels[labelManagedBy]; seen != managedBy {
		o.IfMade = []rotation.Deviation{{File: labelManagedBy, Seen: cmp.Or(clean(seen), "absent"), Wanted: managedBy}}
	}
	if o.Mark != nil {
		o.Deviations = marksDeviate(secret, service, o.Mark.Serial)
	}
	if o.Rests != "" { // when healing goes on this goes, also where nothing else is to be put right
		o.Deviations = append(o.Deviations, rotation.Deviation{File: annotationGlass, Seen: o.Rests, Wanted: "absent"})
	}
	o.Foreign = obstacle(secret)
	if lastAppliedHoldsKeys(secret) {
		o.Remarks = append(o.Remarks, rotation.Remark{
			Text: "its annotation " + corev1.LastAppliedConfigAnnotation + " holds keys of the manifest that kubectl apply wrote: it still shows the old private key, and the next kubectl apply of it wins all keys back",
			Hint: "remove the Secret from that manifest, then kubectl annotate the annotation away",
		})
	}
	return o
}

// obstacle says why the Secret is not meshca's to write.
func obstacle(secret *corev1.Secret) rotation.Obstacle {
	if secret.Type == corev1.SecretTypeServiceAccountToken {
		return rotation.Obstacle{Reason: "is of type " + string(secret.Type) + ", whose ca.crt the token controller writes: it is not fought over",
			Hint: "if nobody needs the token, delete it: meshca makes a Secret of its own under that name at once; else name another one in the catalogue (secret)"}
	}
	immutable := secret.Immutable != nil && *secret.Immutable
	if who, hint := foreignOwner(secret); who != "" {
		o := rotation.Obstacle{Reason: "is written by " + who + ": it is not fought over", Hint: hint}
		if len(secret.OwnerReferences) == 0 && !immutable {
			o.Claimant = who
		}
		return o
	}
	if immutable {
		return rotation.Obstacle{Reason: "is immutable: nobody can change it",
			Hint: "delete it when a short gap does no harm: meshca makes it anew at once"}
	}
	return rotation.Obstacle{}
}

// markOf reads the mark. Others may have written it and its words are shown to people, so it is taken apart
// strictly; where there is a stamp at all there is a mark, since somebody claims that a meshca wrote here.
func markOf(secret *corev1.Secret) *rotation.Mark {
	a := secret.Annotations
	stamp, marked := a[annotationStamp]
	if !marked {
		return nil
	}
	store, mac, _ := strings.Cut(stamp, ".")
	m := &rotation.Mark{Store: hexadecimal(store), MAC: hexadecimal(mac), Service: clean(secret.Labels[labelService]),
		Bundle: hexadecimal(a[annotationBundle]), Serial: hexadecimal(a[annotationSerial])}
	m.Epoch, _ = strconv.ParseUint(a[annotationEpoch], 10, 64) // 0 is no epoch
	m.NotAfter, _ = time.Parse(time.RFC3339, a[annotationNotAfter])
	return m
}

// hexadecimal is s if it is a short hexadecimal number, else "".
func hexadecimal(s string) string {
	if len(s) > 64 || strings.Trim(s, "0123456789abcdef") != "" {
		return ""
	}
	return s
}

// maxWords bounds what others have written and people are shown, in bytes.
const maxWords = 200

// clean makes what others have written fit to be shown.
func clean(s string) string {
	quoted := strconv.QuoteToASCII(s[:min(len(s), maxWords)])
	return quoted[1 : len(quoted)-1]
}

// leafAnnotations tell of a leaf beside its serial. Where there is none they are empty.
var leafAnnotations = []string{annotationNotBefore, annotationNotAfter, annotationIssuer}

// leafMarks are what those say of a leaf.
func leafMarks(notBefore, notAfter time.Time, issuer string) map[string]string {
	if notAfter.IsZero() {
		return map[string]string{}
	}
	marks := map[string]string{
		annotationNotBefore: notBefore.UTC().Format(time.RFC3339), annotationNotAfter: notAfter.UTC().Format(time.RFC3339),
	}
	if issuer != "" {
		marks[annotationIssuer] = issuer
	}
	return marks
}

// marksDeviate compares what is not in the mark as it is spelled: the label, and what tells of the leaf. The latter only
// beside the leaf that the mark names: what it should be beside another is not to be seen here.
func marksDeviate(secret *corev1.Secret, service, serial string) (found []rotation.Deviation) {
	differ := func(name, seen, wanted string) {
		if seen != wanted {
			found = append(found, rotation.Deviation{File: name, Seen: cmp.Or(clean(seen), "absent"), Wanted: cmp.Or(wanted, "absent")})
		}
	}
	differ(labelService, secret.Labels[labelService], service)
	of := map[string]string{} // what tells of the leaf that is there
	if block, _ := pem.Decode(secret.Data[rotation.CertFile]); block != nil {
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil && (serial == "" || cert.SerialNumber.Text(16) == serial) {
			of = leafMarks(cert.NotBefore, cert.NotAfter, cert.Issuer.CommonName)
		}
	}
	for _, name := range leafAnnotations {
		switch seen := secret.Annotations[name]; {
		case serial == "" && seen != of[name]: // a mark that names no leaf goes without; one whose serial was removed has them still
			differ(name, seen, "")
		case serial != "" && len(of) > 0:
			differ(name, seen, of[name])
		}
	}
	return found
}

// manifestOf says what the Secret shall be.
func manifestOf(s Service, m rotation.Material, v secretVersion) manifest {
	labels, annotations := map[string]string{}, map[string]string{}
	kind := v.kind
	if v.resourceVersion == "" { // made anew: with what it had
		kind = cmp.Or(corev1.SecretType(m.Form.Type), corev1.SecretTypeTLS)
		maps.Copy(labels, m.Form.Labels)
		maps.Copy(annotations, m.Form.Annotations)
		if labels[labelManagedBy] == "" || m.Form.Made != "" {
			labels[labelManagedBy] = managedBy
		}
	} else {
		maps.Copy(labels, v.kept)
		maps.Copy(annotations, v.keptAnnotations)
		if m.Form.Made == string(v.uid) {
			labels[labelManagedBy] = managedBy
		}
	}
	labels[labelService] = m.Mark.Service
	for _, name := range leafAnnotations {
		annotations[name] = "" // which is as good as absent: left out, somebody else's would stay
	}
	maps.Copy(annotations, leafMarks(m.Mark.NotBefore, m.Mark.NotAfter, m.Mark.Issuer))
	annotations[annotationStamp] = m.Mark.Store + "." + m.Mark.MAC
	annotations[annotationEpoch] = strconv.FormatUint(m.Mark.Epoch, 10)
	annotations[annotationBundle], annotations[annotationSerial] = m.Mark.Bundle, m.Mark.Serial
	if m.Key == nil { // leaf and key stay; left out, they would go if they are ours
		m.Cert, m.Key = v.cert, v.key
	}
	data := map[string][]byte{rotation.CAFile: m.CA}
	for key, value := range map[string][]byte{rotation.CertFile: m.Cert, rotation.KeyFile: m.Key} {
		if value == nil && kind == corev1.SecretTypeTLS {
			value = []byte{} // the type must have both keys, be they empty
		}
		if value != nil {
			data[key] = value
		}
	}
	return manifest{
		Metadata: manifestMeta{Name: s.Secret, Namespace: s.Namespace, UID: v.uid, ResourceVersion: cmp.Or(v.resourceVersion, absent),
			Labels: labels, Annotations: annotations},
		Type: kind, Data: data,
	}
}

const (
	maxAnnotation = 1 << 10  // of another's annotation that the store keeps, in bytes: a longer one is a document
	maxKept       = 16 << 10 // of all labels, of all annotations, and of all names of keys
)

// formOf is what of a Secret is not ours. The zero value stands for what meshca would make by itself. What tools keep
// in annotations of the manifest is left out, since it holds the old private key: kubectl's, and what looks like it.
func formOf(secret *corev1.Secret) rotation.Form {
	f := rotation.Form{Labels: foreign(secret.Labels), Annotations: foreign(secret.Annotations)}
	if f.Labels[labelManagedBy] == managedBy {
		delete(f.Labels, labelManagedBy)
	}
	delete(f.Annotations, corev1.LastAppliedConfigAnnotation)
	maps.DeleteFunc(f.Annotations, func(_, value string) bool {
		return len(value) > maxAnnotation || showsKey(value, secret.Data[rotation.KeyFile])
	})
	limit(f.Labels)
	limit(f.Annotations)
	if secret.Type != corev1.SecretTypeTLS {
		f.Type = string(secret.Type)
	}
	f.Keys = foreignKeys(secret)
	if needsMore(secret.Type) {
		f.Type = string(corev1.SecretTypeOpaque)
		f.Keys = append(f.Keys, "type "+string(secret.Type)+" (it is Opaque now)")
	}
	if len(f.Labels) == 0 {
		f.Labels = nil
	}
	if len(f.Annotations) == 0 {
		f.Annotations = nil
	}
	return f
}

// needsMore says whether the API server refuses a Secret of the type without keys that are not kept.
func needsMore(kind corev1.SecretType) bool {
	return slices.Contains([]corev1.SecretType{corev1.SecretTypeBasicAuth, corev1.SecretTypeSSHAuth,
		corev1.SecretTypeDockercfg, corev1.SecretTypeDockerConfigJson}, kind)
}

// foreignKeys names what the Secret holds beside a set, as many as are told of.
func foreignKeys(secret *corev1.Secret) (names []string) {
	size := 0
	for _, key := range slices.Sorted(maps.Keys(secret.Data)) {
		if slices.Contains(keys, key) {
			continue
		}
		if size += len(key); size > maxKept {
			break
		}
		names = append(names, key)
	}
	return names
}

// limit leaves the first by name, as many as are kept.
func limit(all map[string]string) {
	size := 0
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if size += len(name) + len(all[name]); size > maxKept {
			delete(all, name)
		}
	}
}

// showsKey says whether a text holds a private key: any in PEM, as it is or in base64, or lines of this one.
func showsKey(text string, key []byte) bool {
	for _, mark := range keyMarks {
		if strings.Contains(text, mark) {
			return true
		}
	}
	for line := range strings.Lines(string(key)) {
		if line = strings.TrimSpace(line); len(line) >= minKeyLine && !strings.HasPrefix(line, "-") && strings.Contains(text, line) {
			return true
		}
	}
	return false
}

// minKeyLine is shorter than the lines of a key, and longer than words.
const minKeyLine = 20

// keyMarks is what every private key in PEM holds, and what that becomes in base64, by where in a group of three bytes
// it begins.
var keyMarks = func() []string {
	const mark = "PRIVATE KEY"
	marks := []string{mark}
	for shift := range 3 {
		encoded := base64.RawStdEncoding.EncodeToString(append(make([]byte, shift), mark...))
		marks = append(marks, encoded[(shift*8+5)/6:(shift+len(mark))*8/6])
	}
	return marks
}()

// foreign are the labels or annotations that are not ours.
func foreign(all map[string]string) map[string]string {
	kept := make(map[string]string)
	for name, value := range all {
		if !strings.HasPrefix(name, ours) {
			kept[name] = value
		}
	}
	return kept
}

// fields is what is read of a manager's set of fields.
type fields struct {
	Data     map[string]json.RawMessage `json:"f:data"`
	Metadata struct {
		Labels      map[string]json.RawMessage `json:"f:labels"`
		Annotations map[string]json.RawMessage `json:"f:annotations"`
	} `json:"f:metadata"`
}

func fieldsOf(f metav1.ManagedFieldsEntry) (set fields, ok bool) {
	return set, f.FieldsV1 != nil && json.Unmarshal(f.FieldsV1.GetRawBytes(), &set) == nil
}

// held are the labels and annotations that are not ours by name, and that our field manager holds since it made
// the Secret anew: left out of an apply they would go.
func held(secret *corev1.Secret) (labels, annotations map[string]string) {
	labels, annotations = map[string]string{}, map[string]string{}
	for _, entry := range secret.ManagedFields {
		set, ok := fieldsOf(entry)
		if !ok || !own(entry) {
			continue
		}
		for name, value := range foreign(secret.Labels) {
			if set.Metadata.Labels["f:"+name] != nil {
				labels[name] = value
			}
		}
		for name, value := range foreign(secret.Annotations) {
			if set.Metadata.Annotations["f:"+name] != nil {
				annotations[name] = value
			}
		}
	}
	return labels, annotations
}

// own says whether an entry tells of our own writes.
func own(entry metav1.ManagedFieldsEntry) bool {
	return entry.Manager == FieldManager && entry.Operation == metav1.ManagedFieldsOperationApply
}

// written is when meshca last wrote the Secret, by the API server's clock; zero where it did not.
func written(secret *corev1.Secret) time.Time {
	for _, entry := range secret.ManagedFields {
		if own(entry) && entry.Time != nil {
			return entry.Time.Time
		}
	}
	return time.Time{}
}

// writers names who claims to have changed what is ours, newest first: the field managers that hold any of it
// beside our own, and have written since we did. The names are free text, and removals leave no trace.
func writers(secret *corev1.Secret) string {
	type claim struct {
		words string
		at    time.Time
	}
	var claims []claim
	last := written(secret)
	for _, entry := range secret.ManagedFields {
		set, ok := fieldsOf(entry)
		c := claim{words: clean(entry.Manager)}
		if entry.Time != nil {
			c.at = entry.Time.Time
		}
		// Who had the label managed-by on a Secret that we found has it still.
		ours := set.holdsOurs() || set.Metadata.Labels["f:"+labelManagedBy] != nil && c.at.After(last)
		if !ok || own(entry) || !ours || entry.Time != nil && c.at.Before(last) {
			continue // before it: whoever held a value that we found as it should be
		}
		if entry.Time != nil {
			c.words += " at " + c.at.UTC().Format(time.RFC3339)
		}
		claims = append(claims, c)
	}
	slices.SortStableFunc(claims, func(a, b claim) int { return b.at.Compare(a.at) })
	var words []string
	for _, c := range claims[:min(len(claims), 3)] {
		words = append(words, c.words)
	}
	if len(words) == 0 {
		return removed
	}
	return fmt.Sprintf("%s (as its field manager says)", strings.Join(words, ", "))
}

// holdsOurs says whether the fields have anything that meshca keeps.
func (s *fields) holdsOurs() bool {
	for _, key := range keys {
		if s.Data["f:"+key] != nil {
			return true
		}
	}
	for _, names := range []map[string]json.RawMessage{s.Metadata.Labels, s.Metadata.Annotations} {
		for name := range names {
			if strings.HasPrefix(name, "f:"+ours) {
				return true
			}
		}
	}
	return false
}
