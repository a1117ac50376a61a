package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/meshca/meshca/api"
	"github.com/meshca/meshca/kube"
	"github.com/meshca/meshca/profile"
	"github.com/meshca/meshca/rotation"
)

// accounts are a cluster's accounts as the API asks for them: neither package knows the other.
type accounts struct{ reviews *kube.Accounts }

// Review implements [api.Accounts].
func (a accounts) Review(ctx context.Context, token string) (*api.User, error) {
	account, err := a.reviews.Review(ctx, token)
	if errors.Is(err, kube.ErrNobody) {
		return nil, fmt.Errorf("%w: %w", api.ErrNoAccount, err)
	}
	return (*api.User)(account), mayNotAsk(err)
}

// May implements [api.Accounts].
func (a accounts) May(ctx context.Context, user *api.User, verb string) (bool, error) {
	may, err := a.reviews.May(ctx, (*kube.Account)(user), verb)
	return may, mayNotAsk(err)
}

// mayNotAsk marks the error of a right that meshca itself lacks.
func mayNotAsk(err error) error {
	if refused, ok := errors.AsType[*kube.Error](err); ok && refused.Kind == kube.Forbidden {
		return fmt.Errorf("%w: %w", api.ErrMayNotAsk, err)
	}
	return err
}

// reviewing is an engine that is not ready while it may not ask who callers are.
type reviewing struct {
	*rotation.Engine
	reviews *kube.Accounts
}

// Ready implements [api.Engine].
func (r reviewing) Ready(ctx context.Context) error {
	err := r.Engine.Ready(ctx)
	if missing := r.reviews.Ready(ctx); missing != nil {
		err = errors.Join(err, fmt.Errorf("callers: %w", missing))
	}
	return err
}

// ownName is the name of the Service that leads to the API in a cluster.
const ownName = "meshca"

// nameService adds the names by which the API is reached through its Service, and says in which namespace it is: that of
// meshca's pod or, outside of the cluster, that of the kubeconfig's context.
func nameService(own *profile.Identity, trustDomain, namespace string) error {
	if err := kube.CheckNamespace(namespace); err != nil {
		return fmt.Errorf("the API's own names: %w", err)
	}
	inside := ownName + "." + namespace
	for _, name := range []string{ownName, inside, inside + ".svc", inside + ".svc.cluster.local"} {
		if !slices.Contains(own.DNSNames, name) {
			own.DNSNames = append(own.DNSNames, name)
		}
	}
	own.URI = profile.SPIFFEID(trustDomain, namespace, api.OwnService)
	return nil
}
