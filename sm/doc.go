// Package sm is the storage manager: the public calls of LMCache's MP-mode
// StorageManager over a memory tier (l1) and stores below it (l2), with the
// controllers that move objects between them.
package sm
