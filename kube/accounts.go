package kube

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/client-go/util/flowcontrol"
)

// Audience is what a caller's token must be meant for (Kubernetes: a projected volume's audience). One for the API server
// itself, as every pod has it, says nothing to anybody else: whoever is shown it could go on with it.
const Audience = "meshca"

// The virtual resource on which operators have verbs. It is known to RBAC alone: there is no such object.
const (
	operatorGroup    = "meshca.io"
	operatorResource = "certificates"
)

// An Account is whom the API server knows a token to be of. It is shared: nobody changes it.
type Account struct {
	Name   string              `json:"username"`
	UID    string              `json:"uid,omitempty"`
	Groups []string            `json:"groups,omitempty"`
	Extra  map[string][]string `json:"extra,omitempty"`
}

// ErrNobody is what Review wraps for a token that stands for nobody here.
var ErrNobody = errors.New("the token is nobody's")

const (
	// yesFor is how long a token is good after the API server has said so. The API server itself remembers its own yes
	// for 10 s: a pod that is deleted has lost its token after the sum of both.
	yesFor = 5 * time.Second
	// noFor is short, since a token that is younger than what the API server has heard of is a no too.
	noFor = 2 * time.Second
	// answersKept bounds the memory, for each kind of answer: some 2 kB for each account.
	answersKept = 4096
	// questionsAtOnce is how many different ones wait; beyond that the answer is that it is busy.
	questionsAtOnce = 256
	// reviewsAtOnce and reviewsPerSecond are a brake, so that a flood of made-up tokens is none of the API server's and
	// leaves the calls for Secrets alone.
	reviewsAtOnce    = 8
	reviewsPerSecond = 200
	reviewsBurst     = 400
	// reviewTimeout bounds one review: somebody waits for it.
	reviewTimeout = 3 * time.Second
)

// Accounts finds out who callers are and what they may, and remembers it for seconds: by the hash of a token, never the
// token. It is safe for concurrent use.
//
// A no is [ErrNobody], or false. Whatever else keeps the API server from answering is an [*Error] or, where too many ask
// at once, another error: it is no answer, and nobody may be let in for it.
type Accounts struct {
	client *Client
	whose  *answers[reviewed]
	rights *answers[bool]
}

// NewAccounts asks nothing yet. Its calls are apart from the client's others.
func NewAccounts(c *Client) *Accounts {
	own := c.apart(reviewsAtOnce)
	own.timeout = reviewTimeout
	own.brake = flowcontrol.NewTokenBucketRateLimiter(reviewsPerSecond, reviewsBurst)
	return &Accounts{client: own,
		whose:  newAnswers[reviewed](yesFor, noFor, answersKept, questionsAtOnce),
		rights: newAnswers[bool](yesFor, noFor, answersKept, questionsAtOnce)}
}

// reviewed is whose a token is, or why it is nobody's.
type reviewed struct {
	account *Account
	why     string
}

// Review says whose a token is.
func (a *Accounts) Review(ctx context.Context, token string) (*Account, error) {
	found, err := a.whose.get(ctx, sha256.Sum256([]byte(token)), func(ctx context.Context) (reviewed, bool, error) {
		r, err := a.review(ctx, token)
		return r, r.account != nil, err
	})
	switch {
	case err != nil:
		return nil, err
	case found.account == nil:
		return nil, fmt.Errorf("%w: %s", ErrNobody, found.why)
	}
	return found.account, nil
}

// tokenReview is a TokenReview of authentication.k8s.io/v1.
type tokenReview struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Spec       struct {
		Token     string   `json:"token"`
		Audiences []string `json:"audiences"`
	} `json:"spec"`
	Status struct {
		Authenticated bool     `json:"authenticated,omitempty"`
		User          Account  `json:"user"`
		Audiences     []string `json:"audiences,omitempty"`
		Error         string   `json:"error,omitempty"`
	} `json:"status"`
}

var (
	tokenReviews  = object{group: "authentication.k8s.io", resource: "tokenreviews"}
	accessReviews = object{group: "authorization.k8s.io", resource: "subjectaccessreviews"}
	selfReviews   = object{group: "authorization.k8s.io", resource: "selfsubjectaccessreviews"}
)

func (a *Accounts) review(ctx context.Context, token string) (reviewed, error) {
	asked := tokenReview{APIVersion: tokenReviews.group + "/" + version, Kind: "TokenReview"}
	asked.Spec.Token, asked.Spec.Audiences = token, []string{Audience}
	var answer tokenReview
	if err := a.client.create(ctx, tokenReviews, &asked, &answer); err != nil {
		return reviewed{}, err
	}
	switch s := &answer.Status; {
	case !s.Authenticated:
		return reviewed{why: whyNobody(s.Error)}, nil
	case !slices.Contains(s.Audiences, Audience):
		// An API server, or a webhook behind it, that does not know of audiences lets every token pass.
		return reviewed{why: "the API server does not confirm that it is meant for " + Audience}, nil
	case s.User.Name == "":
		return reviewed{why: "the API server names no user"}, nil
	}
	account := answer.Status.User // alone: the answer holds the token
	return reviewed{account: &account}, nil
}

// whyNobody tells in our own words what the API server has against a token: its words may quote what was sent.
func whyNobody(words string) string {
	switch {
	case strings.Contains(words, "audience"):
		return "it is not meant for " + Audience
	case strings.Contains(words, "expired"):
		return "it has expired"
	case strings.Contains(words, "invalidated"):
		return "what it is bound to is gone"
	}
	return "the API server does not know it"
}

// accessReview is a SubjectAccessReview of authorization.k8s.io/v1, or a SelfSubjectAccessReview, which names no user.
type accessReview struct {
	APIVersion string     `json:"apiVersion"`
	Kind       string     `json:"kind"`
	Spec       accessSpec `json:"spec"`
	Status     struct {
		Allowed bool `json:"allowed"`
	} `json:"status"`
}

type accessSpec struct {
	User     string              `json:"user,omitempty"`
	UID      string              `json:"uid,omitempty"`
	Groups   []string            `json:"groups,omitempty"`
	Extra    map[string][]string `json:"extra,omitempty"`
	Resource struct {
		Group    string `json:"group"`
		Version  string `json:"version"`
		Resource string `json:"resource"`
		Verb     string `json:"verb"`
	} `json:"resourceAttributes"`
}

// access asks whether somebody has a verb on all objects of a kind.
func (a *Accounts) access(ctx context.Context, as object, kind string, s accessSpec, verb string, o object) (bool, error) {
	s.Resource.Group, s.Resource.Version, s.Resource.Resource, s.Resource.Verb = o.group, version, o.resource, verb
	var answer accessReview
	err := a.client.create(ctx, as, accessReview{APIVersion: as.group + "/" + version, Kind: kind, Spec: s}, &answer)
	return err == nil && answer.Status.Allowed, err
}

// May says whether the account has the verb on certificates.meshca.io, in the whole cluster.
func (a *Accounts) May(ctx context.Context, account *Account, verb string) (bool, error) {
	asked, err := json.Marshal(struct {
		Account *Account
		Verb    string
	}{account, verb})
	if err != nil {
		return false, err
	}
	return a.rights.get(ctx, sha256.Sum256(asked), func(ctx context.Context) (bool, bool, error) {
		s := accessSpec{User: account.Name, UID: account.UID, Groups: account.Groups, Extra: account.Extra}
		may, err := a.access(ctx, accessReviews, "SubjectAccessReview", s, verb, object{group: operatorGroup, resource: operatorResource})
		return may, may, err
	})
}

// Ready says which right is missing to ask all this. Whether the API server answers at all is the target's to say.
func (a *Accounts) Ready(ctx context.Context) error {
	var missing []error
	for _, o := range []object{tokenReviews, accessReviews} {
		may, err := a.access(ctx, selfReviews, "SelfSubjectAccessReview", accessSpec{}, "create", o)
		if err == nil && !may {
			missing = append(missing, hinted(&Error{Kind: Forbidden, Verb: "create", object: o}))
		}
	}
	return errors.Join(missing...)
}
