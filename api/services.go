package api

import (
	"context"
	"errors"
	"net/netip"
	"slices"

	"github.com/meshca/meshca/api/internal/contract"
	"github.com/meshca/meshca/issuer"
	"github.com/meshca/meshca/profile"
	"github.com/meshca/meshca/rotation"
)

// ListServices lists the services that the caller may see.
func (v *V1) ListServices(ctx context.Context, _ contract.ListServicesRequestObject) (contract.ListServicesResponseObject, error) {
	if _, err := wants(ctx, jsonType); err != nil {
		return nil, err
	}
	names, err := v.visible(ctx, nil)
	if err != nil {
		return nil, err
	}
	if names == nil {
		names = v.Issuer.Services()
	}
	status := v.Engine.Status()
	list := contract.ServiceList{Services: make([]contract.Service, 0, len(names))}
	for _, name := range names {
		if policy, ok := v.Issuer.Policy(name); ok {
			list.Services = append(list.Services, v.service(&policy, status))
		}
	}
	return contract.ListServices200JSONResponse(list), nil
}

// GetService tells of one service.
func (v *V1) GetService(ctx context.Context, r contract.GetServiceRequestObject) (contract.GetServiceResponseObject, error) {
	if _, err := wants(ctx, jsonType); err != nil {
		return nil, err
	}
	policy, err := v.known(ctx, r.Name, VerbList)
	if err != nil {
		return nil, err
	}
	return contract.GetService200JSONResponse(v.service(policy, v.Engine.Status())), nil
}

// known is a service's policy, for whom it may be told.
func (v *V1) known(ctx context.Context, name, verb string) (*issuer.Policy, error) {
	if profile.CheckLabel(name) != nil {
		return nil, badRequest.because("a service's name is a DNS label", "name")
	}
	if _, err := v.mayAsk(ctx, name, verb); err != nil {
		if p, ok := errors.AsType[*problem](err); ok && p.pointers != nil {
			p.pointers = []string{"name"}
		}
		return nil, err
	}
	policy, ok := v.Issuer.Policy(name)
	if !ok {
		return nil, notFound.because("the catalogue has no such service", "name")
	}
	return &policy, nil
}

// service tells of one service.
func (v *V1) service(p *issuer.Policy, status *rotation.Status) contract.Service {
	grant, _ := v.Grants.get(p.Service)
	d := contract.Service{Name: p.Service, DnsNames: append([]string{}, p.Identity.DNSNames...), IpAddresses: spell(p.Identity.IPAddresses, netip.Addr.String),
		Uri: p.Identity.URI.String(), CommonName: p.Identity.CommonName, KeyType: contract.PublicKeyType(p.Key), GenerateKey: grant.GenerateKey}
	i := slices.IndexFunc(status.Services, func(s rotation.ServiceStatus) bool { return s.Name == p.Service })
	if i < 0 {
		d.State = "new"
		return d
	}
	s := &status.Services[i]
	d.Place, d.State = s.Place, s.State
	d.Finding, d.Hint, d.Serial = given(s.Error), given(s.Hint), given(s.Serial)
	if !s.NotAfter.IsZero() {
		d.NotAfter, d.Due = &s.NotAfter, &s.Due
	}
	return d
}

// given is nil for what is not there.
func given(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}
