package config

import "strings"

// nearest returns the name that word most likely misspells, or "" if none is near: at most one edit, and
// one more for every four letters. Case does not count, since keyfile is the commonest way to miss keyFile.
func nearest(word string, names []string) string {
	best, least := "", 2+len(word)/4
	for _, name := range names {
		if abs(len(word)-len(name)) >= least {
			continue // the distance is at least the difference in length; spares a huge word the table
		}
		if n := distance(strings.ToLower(word), strings.ToLower(name)); n < least {
			best, least = name, n
		}
	}
	return best
}

// distance counts the insertions, deletions, substitutions and swaps of neighbours between a and b (the
// restricted Damerau-Levenshtein distance).
func distance(a, b string) int {
	before, last, next := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		next[0] = i
		for j := 1; j <= len(b); j++ {
			differ := 1
			if a[i-1] == b[j-1] {
				differ = 0
			}
			next[j] = min(last[j]+1, next[j-1]+1, last[j-1]+differ)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				next[j] = min(next[j], before[j-2]+1)
			}
		}
		before, last, next = last, next, before
	}
	return last[len(b)]
}

func abs(n int) int { return max(n, -n) }
