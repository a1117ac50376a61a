package contract

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
)

// An Exchange is a request and its answer, with the bytes of both bodies.
type Exchange struct {
	Request     *http.Request // its Body is not read
	RequestBody []byte

	Status int
	Header http.Header
	Body   []byte // of a stream: what came of it
}

// Check says in what way the exchange is not what the contract allows.
func (c *Contract) Check(x *Exchange) error {
	o, parameters := c.Find(x.Request.Method, x.Request.URL)
	var err error
	if o == nil {
		err = c.checkElsewhere(x)
	} else {
		err = c.checkOperation(x, o, parameters)
	}
	if err != nil {
		return fmt.Errorf("%s %s answered with %d: %w", x.Request.Method, x.Request.URL, x.Status, err)
	}
	return nil
}

// CheckRequest says in what way a request is not one that the contract allows.
func (c *Contract) CheckRequest(r *http.Request, body []byte) error {
	o, parameters := c.Find(r.Method, r.URL)
	if o == nil {
		return errors.New("the contract has no such operation")
	}
	return o.checkRequest(c.requestInput(o, r, body, parameters), body)
}

func (c *Contract) requestInput(o *Operation, r *http.Request, body []byte, parameters map[string]string) *openapi3filter.RequestValidationInput {
	request := r.Clone(context.Background())
	request.Body = io.NopCloser(bytes.NewReader(body))
	request.ContentLength = int64(len(body))
	return &openapi3filter.RequestValidationInput{Request: request, PathParams: parameters, Route: o.route, Options: c.options}
}

func (c *Contract) checkOperation(x *Exchange, o *Operation, parameters map[string]string) error {
	asked := c.requestInput(o, x.Request, x.RequestBody, parameters)
	answer := &openapi3filter.ResponseValidationInput{RequestValidationInput: asked, Status: x.Status, Header: x.Header, Options: c.options}
	answer.SetBodyBytes(x.Body)
	if err := openapi3filter.ValidateResponse(context.Background(), answer); err != nil {
		return err
	}
	if err := o.checkBare(x); err != nil {
		return err
	}
	if x.Status >= http.StatusMultipleChoices {
		return checkProblem(x)
	}
	if err := o.checkRequest(asked, x.RequestBody); err != nil {
		return fmt.Errorf("the contract does not allow the request: %w", err)
	}
	return nil
}

// checkBare sees to answers that kin-openapi does not look at: redirections, and those that have no body.
func (o *Operation) checkBare(x *Exchange) error {
	response := o.route.Operation.Responses.Status(x.Status)
	if response == nil {
		return errors.New("status is not supported")
	}
	if len(response.Value.Content) == 0 && len(x.Body) > 0 {
		return errors.New("there is a body, and the contract has none")
	}
	return nil
}

// checkRequest judges a request that was answered with success.
func (o *Operation) checkRequest(asked *openapi3filter.RequestValidationInput, body []byte) error {
	if o.route.Operation.RequestBody == nil && len(body) > 0 {
		return errors.New("it has a body")
	}
	for name, values := range asked.Request.URL.Query() {
		switch {
		case o.parameter(openapi3.ParameterInQuery, name) == nil:
			return fmt.Errorf("query parameter %q is unknown", name)
		case len(values) > 1:
			return fmt.Errorf("query parameter %q is given %d times", name, len(values))
		}
	}
	return openapi3filter.ValidateRequest(context.Background(), asked)
}

func (o *Operation) parameter(in, name string) *openapi3.Parameter {
	for _, p := range o.parameters() {
		if p.In == in && p.Name == name {
			return p
		}
	}
	return nil
}

// parameters are those of the path and the operation.
func (o *Operation) parameters() (all []*openapi3.Parameter) {
	for _, p := range slices.Concat(o.route.PathItem.Parameters, o.route.Operation.Parameters) {
		all = append(all, p.Value)
	}
	return all
}

// checkElsewhere judges the answer to what is no operation: a problem that blames the request. A page for people is
// at the root.
func (c *Contract) checkElsewhere(x *Exchange) error {
	switch {
	case x.Request.Method == http.MethodHead:
		return nil // no answer to it has a body
	case x.Request.URL.EscapedPath() == "/" && x.Status == http.StatusOK:
		return nil
	case x.Status < 400 || x.Status >= 500:
		return errors.New("the contract has no such operation")
	case x.Header.Get("Content-Type") != problemType:
		return fmt.Errorf("the media type is %q", x.Header.Get("Content-Type"))
	}
	if err := c.CheckValue("Problem", x.Body); err != nil {
		return err
	}
	if x.Status == http.StatusMethodNotAllowed {
		if allowed := strings.Join(c.methods(x.Request.URL), ", "); allowed != "" && x.Header.Get("Allow") != allowed {
			return fmt.Errorf("the header Allow is %q, the contract says %q", x.Header.Get("Allow"), allowed)
		}
	}
	return checkProblem(x)
}

// CheckValue says in what way a JSON value is not one of the contract's component schema of that name, such as the data of
// an event of a stream.
func (c *Contract) CheckValue(schema string, value []byte) error {
	s, known := c.doc.Components.Schemas[schema]
	if !known {
		return fmt.Errorf("the contract has no schema %q", schema)
	}
	var decoded any
	if err := json.Unmarshal(value, &decoded); err != nil {
		return err
	}
	return s.Value.VisitJSON(decoded, append(c.options.SchemaValidationOptions, openapi3.EnableJSONSchema2020())...)
}

// methods lists those of a path's operations.
func (c *Contract) methods(u *url.URL) (methods []string) {
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		if o, _ := c.Find(method, u); o != nil {
			methods = append(methods, method)
		}
	}
	return methods
}

const problemType = "application/problem+json"

// checkProblem wants a problem to be about this answer (RFC 9457, section 3.1).
func checkProblem(x *Exchange) error {
	if x.Header.Get("Content-Type") != problemType {
		return nil
	}
	var p struct {
		Status   int
		Instance string
	}
	if err := json.Unmarshal(x.Body, &p); err != nil {
		return err
	}
	if id := x.Header.Get("X-Request-Id"); p.Status != x.Status || id == "" || p.Instance != "urn:meshca:request:"+id {
		return fmt.Errorf("the problem says status %d and %q, the header %q", p.Status, p.Instance, id)
	}
	return nil
}
