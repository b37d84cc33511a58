//go:build race

package lct_test

const raceEnabled = true
