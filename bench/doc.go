// Package bench has the benchmarks that need more than one package, and those of
// other programs beside which ours are read. It is tests only; make bench runs
// them together with those of the packages, and bench/table prints the goals,
// what was measured, and the floors, one row each.
package bench
