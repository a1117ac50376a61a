// Package contract judges requests and answers by api/openapi.yaml, for tests, and makes requests from it.
//
// # What it guarantees
//
// [Contract.Check] passes an answer only if its status, media type, headers and body are those that the contract has
// for the operation; an answer of success also only if the request was what the contract allows, so that a server
// which takes more than it says is found out. What no operation stands for must be answered with a problem.
//
// kin-openapi does the judging: it knows OpenAPI 3.1 and JSON Schema 2020-12. What it leaves to its callers is added
// here: undocumented statuses and bodies, parameters that are unknown or given twice, statuses that a problem says
// otherwise.
//
// # Concurrency
//
// A Contract is safe for concurrent use, and never changes.
package contract

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
)

// A Contract is an OpenAPI document that was found sound.
type Contract struct {
	doc        *openapi3.T
	operations []*Operation
	options    *openapi3filter.Options
}

// An Operation is one of a contract's.
type Operation struct {
	ID     string // operationId
	Method string
	Path   string // with its parameters in braces

	route *routers.Route
}

// Load reads a contract. Its examples must be what their schemas say.
func Load(text []byte) (*Contract, error) {
	doc, err := openapi3.NewLoader().LoadFromData(text)
	if err != nil {
		return nil, err
	}
	if err := doc.Validate(context.Background(), openapi3.EnableExamplesValidation()); err != nil {
		return nil, err
	}
	c := &Contract{doc: doc, options: &openapi3filter.Options{
		IncludeResponseStatus:             true,
		RejectWhenRequestBodyNotSpecified: true,
		SkipSettingDefaults:               true,
		MultiError:                        true,
		AuthenticationFunc:                openapi3filter.NoopAuthenticationFunc,
		SchemaValidationOptions: []openapi3.SchemaValidationOption{
			openapi3.WithStringFormatValidator("date-time", openapi3.NewCallbackValidator(isTime)),
			openapi3.WithStringFormatValidator("uri", openapi3.NewCallbackValidator(isURI)),
		},
	}}
	for _, path := range doc.Paths.InMatchingOrder() { // literal segments before parameters
		item := doc.Paths.Value(path)
		for method, o := range item.Operations() {
			c.operations = append(c.operations, &Operation{ID: o.OperationID, Method: method, Path: path,
				route: &routers.Route{Spec: doc, Path: path, PathItem: item, Method: method, Operation: o}})
		}
	}
	slices.SortStableFunc(c.operations, func(a, b *Operation) int { return strings.Compare(a.Path, b.Path) })
	readAsText(c.operations)
	return c, nil
}

func isTime(s string) error {
	_, err := time.Parse(time.RFC3339, s)
	return err
}

func isURI(s string) error {
	u, err := url.Parse(s)
	if err == nil && !u.IsAbs() {
		err = fmt.Errorf("%q is no absolute URI", s)
	}
	return err
}

var registering sync.Mutex // kin-openapi has one table for all documents

// readAsText has bodies that are no JSON, and binary ones, taken as strings: all that the contract says of them.
func readAsText(operations []*Operation) {
	registering.Lock()
	defer registering.Unlock()
	text := func(body io.Reader, _ http.Header, _ *openapi3.SchemaRef, _ openapi3filter.EncodingFn) (any, error) {
		content, err := io.ReadAll(body)
		return string(content), err
	}
	for _, o := range operations {
		for _, response := range o.route.Operation.Responses.Map() {
			for media := range response.Value.Content {
				if !isJSON(media) {
					openapi3filter.RegisterBodyDecoder(media, text)
				}
			}
		}
	}
}

func isJSON(media string) bool {
	return media == "application/json" || strings.HasSuffix(media, "+json")
}

// Operations lists all of them, by path.
func (c *Contract) Operations() []*Operation { return slices.Clone(c.operations) }

// Find gives the operation that a request with this method and path asks for, and the parameters in the path; nil
// where there is none.
func (c *Contract) Find(method string, u *url.URL) (*Operation, map[string]string) {
	for _, o := range c.operations {
		if o.Method != method {
			continue
		}
		if parameters, ok := o.match(u.EscapedPath()); ok {
			return o, parameters
		}
	}
	return nil, nil
}

// match compares segment by segment: a parameter is one that is not empty.
func (o *Operation) match(path string) (map[string]string, bool) {
	have, want := strings.Split(path, "/"), strings.Split(o.Path, "/")
	if len(have) != len(want) {
		return nil, false
	}
	parameters := make(map[string]string)
	for i, segment := range want {
		name, is := strings.CutPrefix(segment, "{")
		switch {
		case is && have[i] != "":
			text, err := url.PathUnescape(have[i])
			if err != nil {
				return nil, false
			}
			parameters[strings.TrimSuffix(name, "}")] = text
		case is || have[i] != segment:
			return nil, false
		}
	}
	return parameters, true
}

// TakesBody says whether a request may have a body.
func (o *Operation) TakesBody() bool { return o.route.Operation.RequestBody != nil }

// Public says whether nobody has to say who he is.
func (o *Operation) Public() bool {
	security := o.route.Operation.Security
	return security != nil && len(*security) == 0
}
