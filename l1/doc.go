// Package l1 is the memory tier: an arena with first-fit placement, the table
// of resident and staged objects, and their locks with a time to live.
package l1
