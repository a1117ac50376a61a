package config

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

var (
	syntaxError = regexp.MustCompile(`(?s)^yaml: (?:line ([0-9]+): )?(.*)$`)
	// The one syntax error that comes without a line.
	unknownAnchor = regexp.MustCompile(`^unknown anchor '(.*)' referenced`)
	plainKey      = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
)

// document returns the root node of the one document in data, or reports why there is none.
func document(data []byte, r *report) *yaml.Node {
	if !text(data, r) {
		return nil
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	err := dec.Decode(&doc)
	if errors.Is(err, io.EOF) || err == nil && isNull(doc.Content[0]) {
		r.addAt(1, "", "write version: 1, and the services", "is empty")
		return nil
	}
	if err == nil {
		if err = dec.Decode(&second); err == nil {
			r.addAt(second.Line, "", "one file is one configuration: leave out what follows the ---", "begins a second document")
			return nil
		}
	}
	if err != nil && !errors.Is(err, io.EOF) {
		reportSyntax(err, data, r)
		return nil
	}
	return doc.Content[0]
}

// text says whether data is UTF-8 without NUL, and reports the first place where it is not.
func text(data []byte, r *report) bool {
	if at := bytes.IndexByte(data, 0); at >= 0 {
		r.addAt(lineAt(data, at), "", "save the file as UTF-8 text", "holds a NUL byte")
		return false
	}
	for at := 0; at < len(data); {
		c, size := utf8.DecodeRune(data[at:])
		if c == utf8.RuneError && size == 1 {
			r.addAt(lineAt(data, at), "", "save the file as UTF-8 text", "is not UTF-8")
			return false
		}
		at += size
	}
	return true
}

func lineAt(data []byte, at int) int { return 1 + bytes.Count(data[:at], []byte("\n")) }

func reportSyntax(err error, data []byte, r *report) {
	line, message, hint := 1, err.Error(), ""
	if m := syntaxError.FindStringSubmatch(message); m != nil {
		message = m[2]
		if n, err := strconv.Atoi(m[1]); err == nil {
			line = n
		}
	}
	if m := unknownAnchor.FindStringSubmatch(message); m != nil {
		line, hint = lineAt(data, max(0, bytes.Index(data, []byte("*"+m[1])))), "put the text in quotes; aliases are refused as well"
	}
	if lines := bytes.Split(data, []byte("\n")); line <= len(lines) && bytes.HasPrefix(bytes.TrimLeft(lines[line-1], " "), []byte("\t")) {
		hint = "indent with spaces, YAML takes no tabs"
	}
	r.addAt(line, "", hint, "is no YAML: "+clip(message))
}

// A decoder fills structs from nodes by their yaml tags, noting each key's line. The standard decoder
// stops at what it does not like and forgets the lines of what it does.
type decoder struct{ *report }

func (d decoder) into(n *yaml.Node, c *Config) { d.value(n, "", reflect.ValueOf(c).Elem()) }

// otherVersion says whether the file is of another format, or of none. Then that is all there is to say.
func (d decoder) otherVersion(version int) bool {
	if !d.has("version") {
		if !d.ok("") {
			return true // the file is no mapping, which was said
		}
		d.add("version", "begin the file with version: 1", "is missing, this meshca reads version 1")
		return false
	}
	if version == 1 || !d.ok("version") {
		return false
	}
	d.problems = nil
	d.add("version", "", "is %d, this meshca reads version 1", version)
	return true
}

func (d decoder) value(n *yaml.Node, path string, v reflect.Value) {
	if !d.plain(n, path) {
		return
	}
	if u, ok := v.Addr().Interface().(yaml.Unmarshaler); ok {
		if err := u.UnmarshalYAML(n); err != nil {
			d.add(path, "", "%v", err)
		}
		return
	}
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		if d.kind(n, path, "text", "!!str") && u.UnmarshalText([]byte(n.Value)) != nil {
			d.add(path, "", "%s is no IP address", quote(n.Value))
		}
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		if d.kind(n, path, "a mapping", "!!map") {
			d.mapping(n, path, v)
		}
	case reflect.Slice:
		if d.kind(n, path, "a list", "!!seq") {
			d.sequence(n, path, v)
		}
	case reflect.Pointer:
		v.Set(made(v.Type().Elem()))
		d.value(n, path, v.Elem())
	default:
		d.scalar(n, path, v)
	}
}

// plain refuses what would make a value stand somewhere else than where it is read: aliases, the anchors
// that they need, and tags.
func (d decoder) plain(n *yaml.Node, path string) bool {
	switch {
	case n.Kind == yaml.AliasNode:
		d.addAt(n.Line, path, "write the value out", "is an alias (*"+clip(n.Value)+"), which is refused")
	case n.Anchor != "":
		d.addAt(n.Line, path, "leave the anchor out", "has an anchor (&"+clip(n.Anchor)+"), which is refused")
	case n.Style&yaml.TaggedStyle != 0:
		d.addAt(n.Line, path, "leave the tag out", "has a tag ("+clip(n.Tag)+"), which is refused")
	default:
		return true
	}
	return false
}

// kind says whether n is of one of the tags, and reports what it is instead.
func (d decoder) kind(n *yaml.Node, path, want string, tags ...string) bool {
	got := n.ShortTag()
	for _, tag := range tags {
		if got == tag {
			return true
		}
	}
	hint := ""
	if want == "text" && n.Kind == yaml.ScalarNode && !isNull(n) {
		hint = "put it in quotes: " + quote(n.Value)
	}
	if isNull(n) {
		hint = "write a value, or leave the key out for the default"
	}
	d.add(path, hint, "is %s, want %s", describe(n), want)
	return false
}

func describe(n *yaml.Node) string {
	switch n.ShortTag() {
	case "!!map":
		return "a mapping"
	case "!!seq":
		return "a list"
	case "!!null":
		return "nothing"
	case "!!int", "!!float":
		return "the number " + clip(n.Value)
	case "!!bool":
		return "the truth value " + n.Value
	case "!!timestamp":
		return "the date " + n.Value
	}
	return "the text " + quote(n.Value)
}

func (d decoder) scalar(n *yaml.Node, path string, v reflect.Value) {
	var ok bool
	switch v.Kind() {
	case reflect.String:
		if ok = d.kind(n, path, "text", "!!str"); ok {
			v.SetString(n.Value)
		}
		return
	case reflect.Bool:
		ok = d.kind(n, path, "true or false", "!!bool")
	case reflect.Int:
		ok = d.kind(n, path, "a whole number", "!!int")
	case reflect.Float64:
		ok = d.kind(n, path, "a number", "!!int", "!!float")
	default:
		panic(fmt.Sprintf("config: no decoding for %s", v.Type())) // a field of a new kind, met by any test
	}
	if ok && n.Decode(v.Addr().Interface()) != nil {
		d.add(path, "", "is %s, which is out of range", describe(n))
	}
}

func (d decoder) sequence(n *yaml.Node, path string, v reflect.Value) {
	for i, item := range n.Content {
		at := fmt.Sprintf("%s[%d]", path, i)
		d.lines[at] = item.Line
		e := made(v.Type().Elem())
		d.value(item, at, e.Elem())
		v.Set(reflect.Append(v, e.Elem()))
	}
}

func (d decoder) mapping(n *yaml.Node, path string, v reflect.Value) {
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, val := n.Content[i], n.Content[i+1]
		at := join(path, key)
		switch first, again := seen[key.Value]; {
		case key.ShortTag() == "!!merge":
			d.addAt(key.Line, at, "write the keys out", "is a merge key, which is refused")
		case !d.plain(key, at):
		case key.Kind != yaml.ScalarNode:
			d.addAt(key.Line, at, "", "has a key that is no name")
		case again:
			d.addAt(key.Line, at, "keep one of the two", fmt.Sprintf("is set twice, first on line %d", first))
		default:
			seen[key.Value] = key.Line
			d.entry(key, val, at, v)
		}
	}
}

func (d decoder) entry(key, val *yaml.Node, at string, v reflect.Value) {
	var names []string
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ",")
		if name != "" && name == key.Value {
			d.lines[at] = key.Line
			d.value(val, at, v.Field(i))
			return
		}
		if name != "" {
			names = append(names, name)
		}
	}
	message, hint := "unknown key", ""
	if near := nearest(key.Value, names); near != "" {
		message += " (nearest: " + near + ")"
	} else {
		hint = "known here: " + strings.Join(names, ", ")
	}
	d.addAt(key.Line, at, hint, message)
}

// made returns a pointer to a new t with its defaults.
func made(t reflect.Type) reflect.Value {
	v := reflect.New(t)
	if s, ok := v.Interface().(interface{ setDefaults() }); ok {
		s.setDefaults()
	}
	return v
}

// join appends key to path; a key that is no plain name is quoted, so that a message stays on its line.
func join(path string, key *yaml.Node) string {
	name := key.Value
	if !plainKey.MatchString(name) {
		name = quote(name)
	}
	if path == "" {
		return name
	}
	return path + "." + name
}

func isNull(n *yaml.Node) bool { return n.ShortTag() == "!!null" }
