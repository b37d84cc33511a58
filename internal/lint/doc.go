// Package lint holds rules about the source of this module that no compiler and
// no common linter knows: which package may import which (arrows.go, the map of
// ARCHITECTURE.md as a table), who may reach below the language, and who must
// not look at the machine's clock. They are kept by this package's test.
package lint
