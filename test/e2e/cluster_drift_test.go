package e2e

import "testing"

func testDrift(t *testing.T, k *kubernetes) {}
