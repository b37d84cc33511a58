// Package l2 is the contract between the storage manager and a store below L1,
// and the registry of such stores; each adapter is a sub-package.
package l2
