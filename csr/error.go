package csr

// A Code says in which way a request is refused. The codes are stable: the API has one problem type for each.
type Code string

// The ways to refuse a request. The comments name the HTTP status that says the same.
const (
	CodeTooLong   Code = "too-long"       // longer than MaxBytes: 413
	CodeMalformed Code = "malformed"      // not one PEM block of strict DER that is a PKCS #10 request: 400
	CodeProof     Code = "proof-failed"   // its signature does not prove that the sender has the key: 400
	CodeKey       Code = "key-refused"    // a key that no certificate may carry: 422
	CodeName      Code = "name-malformed" // a name that no certificate may carry: 422
)

// An Error is why a request is refused. Detail is for the sender: it says what is wrong, where, and what to do,
// is short, and holds nothing of the request but numbers and object identifiers.
type Error struct {
	Code   Code
	Detail string
}

// Error returns the detail.
func (e *Error) Error() string { return e.Detail }

func malformed(detail string) error  { return &Error{CodeMalformed, detail} }
func refusedKey(detail string) error { return &Error{CodeKey, detail} }
func unproved(detail string) error   { return &Error{CodeProof, detail} }
