package httpapi

import "github.com/lmcache/lmcache-go/internal/pyfmt"

// float is a number that JSON shows as Python does: 0.0, not 0.
type float float64

func (f float) MarshalJSON() ([]byte, error) { return pyfmt.AppendJSONFloat(nil, float64(f)), nil }
