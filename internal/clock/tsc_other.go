//go:build !amd64

package clock

func readTSC() uint64    { return 0 }
func invariantTSC() bool { return false }
