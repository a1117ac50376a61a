package rotation_test

import (
	"testing"

	"github.com/meshca/meshca/rotation/targettest"
)

// The target that the engine's tests use keeps the contract that real ones keep.
func TestMemoryTarget(t *testing.T) {
	targettest.Run(t, func(testing.TB) targettest.Subject { return new(targettest.Memory).Suite() })
}
