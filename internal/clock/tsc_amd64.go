package clock

// readTSC reads the processor's time stamp counter: 10 ns, a third of what the
// vDSO takes. It is not ordered with the loads and stores around it.
//
//go:noescape
func readTSC() uint64

//go:noescape
func cpuid(leaf uint32) (eax, edx uint32)

// invariantTSC reports whether the processor says that its counter runs at one
// rate in all power states.
func invariantTSC() bool {
	const leaf = 0x80000007
	highest, _ := cpuid(0x80000000)
	if highest < leaf {
		return false
	}
	_, edx := cpuid(leaf)
	return edx&(1<<8) != 0
}
