package rotation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meshca/meshca/ca"
	"github.com/meshca/meshca/issuer"
	"github.com/meshca/meshca/store"
)

// Boot finds the CA at the start of a process, or founds it at the first start. It fails closed: a lost
// store, a lost seal or another's seal is refused by name, and nothing is changed.
type Boot struct {
	StorePath string
	SealPath  string
	Open      func() (store.Store, error) // opens the store at StorePath, making it where there is none
	Exists    bool                        // there is a store file
	Target    Target
	Services  []string
	Params    ca.Params
	Now       time.Time
	Log       *slog.Logger
	// NewRoot founds a new CA although an older store was lost. Confirm is shown what that breaks first,
	// and refuses with an error.
	NewRoot bool
	// Accept does so only where one was lost.
	Accept  bool
	Confirm func(breaks []string) error

	// Looks is what the places held when the CA was founded; nil where it was there already. The engine's start
	// decides on the same.
	Looks Looks
}

// Looks are observations of places, by service.
type Looks map[string]look

// look is an observation, or why there is none.
type look struct {
	Observation
	err error
}

// lookAt observes places, a few at once.
func lookAt(ctx context.Context, target Target, services []string) Looks {
	all := make([]look, len(services))
	var group errgroup.Group
	group.SetLimit(parallel)
	for i, service := range services {
		group.Go(func() error { // ends with lookAt
			all[i].Observation, all[i].err = target.Observe(ctx, service)
			return nil
		})
	}
	_ = group.Wait() // no error is returned above
	looks := make(Looks, len(services))
	for i, service := range services {
		looks[service] = all[i]
	}
	return looks
}

// A LostError says that the store, or its seal, is not where it should be.
type LostError struct {
	Reason string
	Hints  []string // the ways on
}

func (e *LostError) Error() string { return e.Reason }

// Run opens or founds the CA. The caller closes the store, also after an error where it is not nil.
func (b *Boot) Run(ctx context.Context) (st store.Store, authority *ca.Authority, err error) {
	founded := false
	if b.Exists {
		if st, err = b.Open(); err != nil {
			return nil, nil, err
		}
		if founded, err = ca.Founded(st); err != nil {
			return st, nil, err
		}
	}
	if founded {
		authority, err = b.open(st)
		return st, authority, err
	}
	claims, err := b.mayFound(ctx)
	if err != nil {
		return st, nil, err
	}
	if st == nil {
		if st, err = b.Open(); err != nil {
			return nil, nil, err
		}
		// Two first starts at once: the other one had the lock first, and has ended since.
		if founded, err = ca.Founded(st); err != nil || founded {
			return st, nil, errors.Join(err, errFoundedMeanwhile)
		}
	}
	// Only who holds the store's lock makes the seal.
	seal, err := b.seal()
	if err != nil {
		return st, nil, err
	}
	authority, err = b.found(st, seal, claims)
	return st, authority, err
}

var errFoundedMeanwhile = errors.New("another process has founded a CA in this store meanwhile: start again")

func (b *Boot) open(st store.Store) (*ca.Authority, error) {
	if b.NewRoot {
		return nil, &LostError{
			Reason: fmt.Sprintf("store %s holds a CA: a new root is only for a store that is lost", b.StorePath),
			Hints:  []string{"start without --new-root, or move the store and its seal away first"},
		}
	}
	back := []string{
		"put the seal of this store back",
		fmt.Sprintf("or, if it is lost for good: move %s away and start with --new-root", b.StorePath),
	}
	seal, err := ca.OpenSeal(b.SealPath)
	if errors.Is(err, ca.ErrNoSeal) {
		return nil, &LostError{Reason: fmt.Sprintf("store %s is there, but its %v", b.StorePath, err), Hints: back}
	}
	if err != nil {
		return nil, &LostError{Reason: err.Error(), Hints: []string{"a seal is a file of its owner alone (chmod 600), exactly as it was made"}}
	}
	authority, err := ca.Open(st, seal)
	if errors.Is(err, ca.ErrWrongSeal) {
		return nil, &LostError{Reason: err.Error(), Hints: back}
	}
	return authority, err
}

// mayFound says whether a CA may be founded, and which places are then taken over. A store that was there
// before shows in the identity beside the seal, and in the marks of the places it wrote.
func (b *Boot) mayFound(ctx context.Context) (claims map[string]*Mark, err error) {
	remembered, err := ca.StoreIdentity(b.SealPath)
	if err != nil {
		return nil, err
	}
	var traces []string
	claims = make(map[string]*Mark)
	if remembered != "" {
		traces = append(traces, fmt.Sprintf("seal %s belongs to store %s", b.SealPath, remembered))
	}
	b.Looks = lookAt(ctx, b.Target, b.Services)
	for _, service := range b.Services {
		o, err := b.Looks[service].Observation, b.Looks[service].err
		if err != nil && !errors.Is(err, ErrNotWritable) {
			return nil, fmt.Errorf("no CA is founded while it is not known what is there: %w", err)
		}
		if o.Mark != nil {
			claims[service] = o.Mark
			traces = append(traces, fmt.Sprintf("%s was written by store %s", b.Target.Place(service), o.Mark.Store))
		}
	}
	if len(traces) == 0 {
		return nil, nil
	}
	if b.NewRoot || b.Accept {
		return claims, b.Confirm(b.breaks(claims))
	}
	return nil, &LostError{
		Reason: fmt.Sprintf("store %s is empty, but there was one: %s", b.StorePath, summary(traces)),
		Hints: []string{
			"put the store back at " + b.StorePath,
			"or, if it is lost for good: start with --accept, which says first what will break",
		},
	}
}

func summary(traces []string) string {
	if n := len(traces) - 1; n > 0 {
		return fmt.Sprintf("%s (and %d more traces)", traces[0], n)
	}
	return traces[0]
}

// breaks says what a new root breaks.
func (b *Boot) breaks(claims map[string]*Mark) []string {
	lines := []string{"A new root replaces the one that was lost. The old one's key is not here, so this cannot be done gently:"}
	for _, service := range slices.Sorted(maps.Keys(claims)) {
		lines = append(lines, fmt.Sprintf("  %s: new key, certificate and ca.crt in %s at once", service, b.Target.Place(service)))
	}
	return append(lines,
		"Processes that still hold the old files refuse those that hold the new ones, and are refused, with",
		"CERTIFICATE_VERIFY_FAILED, until all of them have read the new files. Copies of the old ca.crt elsewhere",
		"no longer verify anything. If a copy of the old store exists, putting it back breaks nothing.")
}

// seal opens the seal that an interrupted first start left, or makes one.
func (b *Boot) seal() (*ca.Seal, error) {
	seal, err := ca.OpenSeal(b.SealPath)
	if !errors.Is(err, ca.ErrNoSeal) {
		return seal, err
	}
	if seal, err = ca.CreateSeal(b.SealPath); err == nil {
		b.Log.Info("made the seal: keep it apart from the store, and a copy of each safe", "seal", b.SealPath)
	}
	return seal, err
}

// found makes the CA. Claims come first: a crash in between leaves a store without a CA, which is refused
// again beside what its predecessor wrote.
func (b *Boot) found(st store.Store, seal *ca.Seal, claims map[string]*Mark) (*ca.Authority, error) {
	if len(claims) > 0 {
		err := st.Update(func(w store.Writer) error {
			for service, mark := range claims {
				if err := issuer.Claim(w, service, b.Target.Subject(service), []string{mark.token()}); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	if b.NewRoot || b.Accept {
		if err := seal.Forget(); err != nil {
			return nil, err
		}
	}
	authority, err := ca.Found(st, seal, b.Params, b.Now)
	if err == nil {
		root := authority.Root().Certificate
		b.Log.Info("founded the CA", "root", root.Subject.CommonName, "expires", root.NotAfter.Format(time.RFC3339))
	}
	return authority, err
}
