package lint

// A row allows one package its imports from this module. The package may be a
// pattern of path.Match, and so may what it imports.
type row struct {
	pkg     string
	imports []string
}

// everyone may import these, except that none of them imports another: a row
// that is in here has only what its own line says.
var everyone = []string{"kv", "internal/clock", "internal/invariant"}

// public stands for every package that is neither internal nor a command.
const public = "public"

// arrows is one line a package, whether or not it exists yet. A package without
// a line is an error, so a new arrow is a line that somebody reviewed. Tests
// may import what they like.
var arrows = []row{
	// The nouns, and what everyone may use.
	{"kv", nil},
	{"internal/clock", nil},
	{"internal/invariant", nil},

	// What only some may use.
	{"internal/raceflag", nil}, // for tests
	{"internal/lint", nil},
	{"internal/logfmt", nil}, // log lines in upstream's format
	{"internal/pyfmt", nil},  // numbers and JSON as Python prints them

	// Files and events: nothing here knows of the storage manager.
	{"mmapio", nil},
	{"event", nil},
	{"telemetry", []string{"event"}},
	{"trace", []string{"mmapio", "internal/pyfmt"}},
	{"trace/lct", []string{"trace", "mmapio", "internal/pyfmt"}},
	{"trace/tracefile", []string{"trace", "trace/lct", "mmapio"}},

	// The storage manager and its tiers, which do not know each other.
	{"evict", nil},
	{"l1", []string{"evict", "event", "mmapio"}},
	{"l2", []string{"event", "mmapio"}},
	{"l2/*", []string{"l2", "event", "mmapio"}},
	{"sm", []string{"l1", "l2", "evict", "event", "trace", "internal/pyfmt"}},

	// Its callers. They name l1 only for the outcomes that calls of sm return.
	{"server", []string{"server/mq", "server/httpapi", "server/engine", "server/wire", "server/zmtp", "server/tokenhash", "sm", "l1", "trace", "trace/tracefile", "event", "telemetry", "mmapio"}},
	{"server/wire", nil},        // what is in the frames; clients use it too
	{"server/wire/golden", nil}, // recorded exchanges, for tests
	{"server/zmtp", nil},        // how frames travel; clients use it too
	{"server/tokenhash", nil},   // from tokens to the hashes of chunks
	{"server/client", []string{"server/wire", "server/zmtp", "server/tokenhash", "mmapio"}},
	{"server/engine", []string{"server/wire", "server/tokenhash", "sm", "l1", "event", "mmapio"}},
	{"server/mq", []string{"server/wire", "server/zmtp", "event"}},
	{"server/httpapi", []string{"server/wire", "server/engine", "sm", "l1", "l2", "trace", "event", "telemetry", "internal/pyfmt"}},
	{"replay", []string{"sm", "l1", "trace", "trace/tracefile", "event", "telemetry", "internal/pyfmt"}},
	{"bench/workload", []string{"sm", "l1", "trace", "event"}},
	{"bench/serving", []string{"bench/workload", "server/client", "server/wire", "mmapio"}},

	// The command line, and the suites that measure all of it.
	{"bench", []string{public}},
	{"bench/table", nil},
	{"deploy/draw", nil},
	{"cmd/*", []string{public, "internal/logfmt", "internal/pyfmt"}},
}

// A monopoly names the packages that may import a path, or what begins with it
// and a slash.
type monopoly struct {
	path  string
	pkgs  []string
	tests bool // the tests of other packages neither
}

var monopolies = []monopoly{
	{"C", nil, true},
	{"unsafe", []string{"mmapio"}, true},
	{"golang.org/x/sys/unix", []string{"mmapio", "internal/clock", "l2", "l2/*"}, false},
	{"github.com/spf13/cobra", []string{"cmd/*"}, false},
	{"github.com/vbauerster/mpb", []string{"cmd/*"}, false},
	{"go.opentelemetry.io", []string{"telemetry"}, false},
	{"github.com/prometheus", []string{"telemetry"}, false},
	{"github.com/redis/go-redis", []string{"l2/resp"}, false},
	{"github.com/minio/minio-go", []string{"l2/s3"}, false},
}

// A ban names functions of a standard package that the code of some packages
// must not mention; their tests may.
type ban struct {
	path  string
	names []string
	pkgs  []string
	why   string
}

var bans = []ban{
	{
		"time",
		[]string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "NewTimer", "NewTicker", "Tick"},
		[]string{"sm", "l1", "l2", "l2/*", "evict", "replay", "bench/workload"},
		"time is injected, use internal/clock",
	},
	{
		"context",
		[]string{"WithTimeout", "WithTimeoutCause", "WithDeadline", "WithDeadlineCause"},
		[]string{"sm", "l1", "l2", "evict", "replay", "bench/workload"}, // adapters bound their network calls with it
		"its timer is the machine's, use internal/clock",
	},
}
