//go:build race

package raceflag

// Enabled is true in a build with -race.
const Enabled = true
