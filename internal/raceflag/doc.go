// Package raceflag tells a test whether the race detector runs with it: memory
// then costs more, and a sync.Pool drops at random what it is given, so that
// what counts allocations or bytes cannot be held to its goal.
package raceflag
