package evict

import "math"

// NearlyWrap sets the clock so that it goes around soon. The keys used so far
// must be few.
func (l *IsolatedLRU) NearlyWrap() { l.clock = math.MaxUint32 - 50 }
