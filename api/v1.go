package api

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/meshca/meshca/api/internal/contract"
	"github.com/meshca/meshca/issuer"
)

//go:generate go run -C ../tools github.com/oapi-codegen/oapi-codegen/v2/cmd/oapi-codegen -config ../api/internal/contract/generate.yaml -o ../api/internal/contract/contract.gen.go ../api/openapi.yaml
//go:generate go run -C ../tools github.com/oapi-codegen/oapi-codegen/v2/cmd/oapi-codegen -config ../api/client/generate.yaml -o ../api/client/client.gen.go ../api/openapi.yaml

// Contract is api/openapi.yaml.
//
//go:embed openapi.yaml
var Contract []byte

// maxBody is how long a request's body may be, in bytes.
const maxBody = 64 << 10

// V1 answers the operations of the contract. It is safe for concurrent use.
type V1 struct {
	Issuer   *issuer.Issuer
	Engine   Engine
	Operator Operator
	Read     func(context.Context) (*Reading, error) // reads and compares what all services hold, beside the engine
	Events   *Events                                 // nil where nothing is told of but what is done here
	Grants   *Grants
	Admin    *AdminToken          // nil where there is none
	Accounts Accounts             // nil without a cluster
	RenewAt  float64              // fraction of a certificate's life after which it should be renewed
	Revoked  func(service string) // told that a certificate of the service was revoked
	Now      func() time.Time
	Log      *slog.Logger

	begun    sync.Once
	ready    readiness
	looks    looks
	signed   signed
	written  written
	signing  chan struct{} // a place for each certificate that is being signed
	making   chan struct{} // a place for each key that is being made: one of RSA takes seconds of a processor
	limits   *limits
	refusals sieve
}

// Handler answers on TCP: whoever asks proves who it is, and does not ask too often.
func (v *V1) Handler() http.Handler {
	return v.handler(v.authenticate)
}

// Owner answers on the Unix socket, which only the owner of the store can open: an operator, without a limit.
func (v *V1) Owner() http.Handler {
	return v.handler(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			request := requestOf(r)
			request.caller = Caller{Name: "owner", everything: true}
			request.again = func() (Caller, error) { return request.caller, nil }
			next.ServeHTTP(w, r)
		})
	})
}

func (v *V1) handler(identify func(http.Handler) http.Handler) http.Handler {
	v.begun.Do(v.prepare)
	router := chi.NewRouter()
	refuse := func(k kind, why string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { v.refuse(w, r, k.because(why)) }
	}
	router.Use(v.begin(router), identify, checkForm(v.refuse))
	router.NotFound(refuse(notFound, "the contract has no such path: see /openapi.yaml"))
	notAllowed := refuse(methodNotAllowed, "the path is known, and not with this method: see /openapi.yaml")
	router.MethodNotAllowed(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Allow", strings.Join(methodsOf(router, r), ", "))
		notAllowed(w, r)
	})
	router.Get("/", v.index)
	strict := contract.NewStrictHandlerWithOptions(v, nil, contract.StrictHTTPServerOptions{
		RequestErrorHandlerFunc: func(w http.ResponseWriter, r *http.Request, err error) {
			v.refuse(w, r, badRequest.because("the body is not what the contract says").caused(err))
		},
		ResponseErrorHandlerFunc: v.refuse,
	})
	return contract.HandlerWithOptions(strict, contract.ChiServerOptions{BaseRouter: router,
		ErrorHandlerFunc: func(w http.ResponseWriter, r *http.Request, err error) { v.refuse(w, r, badParameter(err)) }})
}

// prepare makes what all doors share: one may be opened when another is in use.
func (v *V1) prepare() {
	v.ready.engine = v.Engine
	v.looks.turn = make(chan struct{}, 1)
	if v.Events == nil {
		v.Events = NewEvents(v.Now)
	}
	v.signing = make(chan struct{}, signingAtOnce)
	v.making = make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2))
	v.limits = newLimits()
}

// badParameter names a parameter that could not be read, and nothing of its value: not to the log either, since what is
// sent in the wrong place may be a secret.
func badParameter(err error) *problem {
	name := ""
	switch e := err.(type) {
	case *contract.InvalidParamFormatError:
		name = e.ParamName
	case *contract.TooManyValuesForParamError:
		name = e.ParamName
	case *contract.RequiredParamError:
		name = e.ParamName
	case *contract.UnescapedCookieParamError:
		name = e.ParamName
	}
	p := badRequest.because("a parameter is not of the form that the contract says")
	if name != "" {
		p.pointers = []string{name}
	}
	return p
}

// begin makes what is known of a request, bounds it, and has a panic be one answer instead of the end of a connection.
func (v *V1) begin(routes chi.Routes) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			known := &request{id: newRequestID(), operation: operationOf(routes, r), accept: r.Header.Values("Accept"), path: r.URL.Path, begun: v.Now()}
			r = r.WithContext(context.WithValue(r.Context(), requestKey{}, known))
			h := w.Header()
			h.Set("X-Request-Id", known.id)
			h.Set("X-Content-Type-Options", "nosniff")
			h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
			h.Set("Referrer-Policy", "no-referrer")
			h.Set("Cache-Control", "no-store")
			h.Set("Vary", "Accept") // also of a 304, which stands for one of several forms
			defer func() {
				switch failure := recover(); failure {
				case nil:
				case http.ErrAbortHandler: // the connection is meant to end
					panic(failure)
				default:
					v.refuse(w, r, fmt.Errorf("panic: %v\n%s", failure, debug.Stack()))
				}
			}()
			r.Body = http.MaxBytesReader(w, r.Body, maxBody)
			next.ServeHTTP(w, r)
		})
	}
}

// GetHealth says that the process answers.
func (v *V1) GetHealth(context.Context, contract.GetHealthRequestObject) (contract.GetHealthResponseObject, error) {
	return contract.GetHealth200TextResponse("ok\n"), nil
}

// GetReadiness says what is away to the owner. Anybody may ask, and paths and the words of errors are not for anybody.
func (v *V1) GetReadiness(ctx context.Context, _ contract.GetReadinessRequestObject) (contract.GetReadinessResponseObject, error) {
	if err := v.ready.check(ctx); err != nil {
		if !fromContext(ctx).caller.everything {
			err = errors.New("/readyz on listen.metrics, and on the socket, says what is away")
		}
		return contract.GetReadiness503TextResponse("not ready: " + strings.ReplaceAll(err.Error(), "\n", "; ") + "\n"), nil
	}
	return contract.GetReadiness200TextResponse("ok\n"), nil
}

// GetContract gives the contract.
func (v *V1) GetContract(context.Context, contract.GetContractRequestObject) (contract.GetContractResponseObject, error) {
	return contract.GetContract200ApplicationyamlResponse{Body: bytes.NewReader(Contract), ContentLength: int64(len(Contract))}, nil
}

// index is a page for whoever opens the address in a browser.
func (v *V1) index(w http.ResponseWriter, _ *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
	_, _ = w.Write(index)
}

//go:embed index.html
var index []byte

// pemChain and its like are the media types of answers.
const (
	jsonType = "application/json"
	pemChain = "application/pem-certificate-chain"
	pemFile  = "application/x-pem-file"
	crlType  = "application/pkix-crl"
	sseType  = "text/event-stream"
)

// unchanged says whether the caller has what the tag stands for.
func unchanged(given *string, tag string) bool {
	if given == nil {
		return false
	}
	for part := range strings.SplitSeq(*given, ",") {
		if part = strings.TrimPrefix(strings.TrimSpace(part), "W/"); part == tag || part == "*" {
			return true
		}
	}
	return false
}
