package contract

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/url"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
)

// A Known gives a value that a parameter or field of this name may have, such as an id that an answer told of; false
// where none is known.
type Known func(name string, random *rand.Rand) (string, bool)

// Generate makes a request of any operation. Some are as the contract allows, most are spoilt in one way or more. With
// the same randomness and the same known values it is the same.
func (c *Contract) Generate(random *rand.Rand, known Known) *Message {
	g := &generator{random, known}
	o := pick(g, c.operations)
	m := g.allowed(o)
	m.Canary = fmt.Sprintf("canary%016x", random.Uint64())
	for range pick(g, []int{0, 0, 0, 1, 1, 1, 1, 1, 2, 3}) {
		s := pick(g, spoilers)
		m.Spoilt = append(m.Spoilt, s.name)
		s.spoil(g, m)
	}
	return m
}

type generator struct {
	*rand.Rand
	known Known
}

func pick[T any](g *generator, of []T) T { return of[g.IntN(len(of))] }

// oneIn is true once in n times.
func (g *generator) oneIn(n int) bool { return g.IntN(n) == 0 }

// allowed is a request as the contract says.
func (g *generator) allowed(o *Operation) *Message {
	m := &Message{Operation: o, Method: o.Method, Segments: strings.Split(o.Path, "/")}
	for _, p := range o.parameters() {
		if !p.Required && !g.oneIn(3) {
			continue
		}
		value := g.text(p.Name, p.Schema.Value)
		switch p.In {
		case openapi3.ParameterInPath:
			m.Segments[slices.Index(m.Segments, "{"+p.Name+"}")] = url.PathEscape(value)
		case openapi3.ParameterInQuery:
			m.Query = append(m.Query, url.QueryEscape(p.Name)+"="+url.QueryEscape(value))
		case openapi3.ParameterInHeader:
			m.Set(p.Name, value)
		}
	}
	if body := o.route.Operation.RequestBody; body != nil && (body.Value.Required || g.oneIn(2)) {
		m.Set("Content-Type", "application/json")
		m.Members = g.members(body.Value.Content["application/json"])
	}
	if media := o.successMedia(); len(media) > 0 && g.oneIn(3) {
		m.Set("Accept", pick(g, media))
	}
	return m
}

// successMedia are the media types of good answers.
func (o *Operation) successMedia() (all []string) {
	for status, response := range o.route.Operation.Responses.Map() {
		if strings.HasPrefix(status, "2") {
			all = append(all, slices.Collect(maps.Keys(response.Value.Content))...)
		}
	}
	slices.Sort(all)
	return all
}

// members are the fields of a flat object: those of an example, or those that are required and some of the others.
func (g *generator) members(media *openapi3.MediaType) []Field {
	all := []Field{}
	schema := media.Schema.Value
	example := g.example(media)
	for _, name := range slices.Sorted(maps.Keys(schema.Properties)) {
		value, shown := example[name]
		switch {
		case shown && schema.Properties[name].Value.Type.Is("boolean"):
			all = append(all, Field{name, fmt.Sprint(value)})
		case shown, example == nil && (slices.Contains(schema.Required, name) || g.oneIn(2)):
			all = append(all, Field{name, g.json(name, schema.Properties[name].Value)})
		}
	}
	return all
}

// example is one of those that the contract shows, or nil.
func (g *generator) example(media *openapi3.MediaType) map[string]any {
	names := slices.Sorted(maps.Keys(media.Examples))
	if len(names) == 0 || g.oneIn(3) {
		return nil
	}
	value, _ := media.Examples[pick(g, names)].Value.Value.(map[string]any)
	return value
}

// json is a value in JSON.
func (g *generator) json(name string, s *openapi3.Schema) string {
	value := g.text(name, s)
	if s.Type.Is("string") {
		quoted, _ := json.Marshal(value) // of a string: cannot fail
		return string(quoted)
	}
	return value
}

// text is a value as parameters write it.
func (g *generator) text(name string, s *openapi3.Schema) string {
	switch {
	case len(s.Enum) > 0:
		return fmt.Sprint(pick(g, s.Enum))
	case s.Type.Is("boolean"):
		return strconv.FormatBool(g.oneIn(2))
	case s.Type.Is("integer"):
		return strconv.Itoa(g.between(s.Min, s.Max))
	case s.Format == "date-time":
		return time.Unix(1.7e9+g.Int64N(1e9), 0).UTC().Format(time.RFC3339)
	}
	if value, ok := g.known(name, g.Rand); ok && !g.oneIn(4) {
		return value
	}
	if s.Pattern != "" {
		parsed, err := syntax.Parse(s.Pattern, syntax.Perl)
		if err != nil {
			return name
		}
		return g.pattern(parsed.Simplify())
	}
	return name
}

func (g *generator) between(low, high *float64) int {
	from, to := 0, 1000
	if low != nil {
		from = int(*low)
	}
	if high != nil {
		to = int(*high)
	}
	return from + g.IntN(max(1, to-from+1))
}

// pattern is a short text that a regular expression matches.
func (g *generator) pattern(r *syntax.Regexp) string {
	var b strings.Builder
	times := 1
	switch r.Op {
	case syntax.OpLiteral:
		return string(r.Rune)
	case syntax.OpCharClass:
		i := g.IntN(len(r.Rune)/2) * 2
		return string(r.Rune[i] + g.Int32N(r.Rune[i+1]-r.Rune[i]+1))
	case syntax.OpAlternate:
		return g.pattern(pick(g, r.Sub))
	case syntax.OpStar, syntax.OpPlus, syntax.OpQuest:
		most := map[syntax.Op]int{syntax.OpStar: 8, syntax.OpPlus: 8, syntax.OpQuest: 2}[r.Op]
		if times = g.IntN(most); r.Op == syntax.OpPlus {
			times++
		}
	}
	for range times {
		for _, sub := range r.Sub {
			b.WriteString(g.pattern(sub))
		}
	}
	return b.String()
}
