package sm

// Config says how a storage manager is built. Its JSON form and its digest are
// those of LMCache's StorageManagerConfig.
type Config struct {
	L1                  L1Config
	Eviction            EvictionConfig
	L2Adapters          []string // JSON objects with a "type"
	StorePolicy         string   // default, skip_l1
	PrefetchPolicy      string   // default, retain
	PrefetchMaxInFlight int
}

// L1Config describes the memory tier.
type L1Config struct {
	SizeBytes       int64
	UseLazy         bool
	InitSizeBytes   int64
	AlignBytes      int64
	WriteTTLSeconds int64
	ReadTTLSeconds  int64
}

// EvictionConfig describes eviction from L1.
type EvictionConfig struct {
	Policy    string
	Watermark float64 // used share of L1 at which a cycle evicts
	Ratio     float64 // share of the tracked keys that one cycle evicts
}

// Policies of the controllers.
const (
	StoreDefault    = "default" // every store gets every object
	StoreSkipL1     = "skip_l1" // and L1 drops what is stored
	PrefetchDefault = "default" // loaded objects go with their last reader
	PrefetchRetain  = "retain"  // loaded objects stay
)

// DefaultConfig returns the configuration of a command line without flags. The
// size of L1 and the eviction policy have no default and are left empty.
func DefaultConfig() Config {
	return Config{
		L1:                  L1Config{UseLazy: true, InitSizeBytes: 20 << 30, AlignBytes: 4096, WriteTTLSeconds: 600, ReadTTLSeconds: 300},
		Eviction:            EvictionConfig{Watermark: 0.8, Ratio: 0.2},
		StorePolicy:         StoreDefault,
		PrefetchPolicy:      PrefetchDefault,
		PrefetchMaxInFlight: 8,
	}
}
