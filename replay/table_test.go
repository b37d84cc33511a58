package replay

import "testing"

func TestTitle(t *testing.T) {
	for _, tt := range []struct{ text, fill, want string }{
		{"Trace Replay Result", "=", "===================== Trace Replay Result ======================\n"},
		{"Overall", "-", "--------------------------- Overall ----------------------------\n"},
		{"Per-Op Latency (ms)", "-", "--------------------- Per-Op Latency (ms) ----------------------\n"},
		{"even", "-", "----------------------------- even -----------------------------\n"},
		{"a title of more than sixty-four characters, for which there is no room", "-",
			" a title of more than sixty-four characters, for which there is no room \n"},
	} {
		var tab table
		tab.title(tt.text, tt.fill)
		if string(tab) != tt.want {
			t.Errorf("title(%q) = %q; want %q", tt.text, tab, tt.want)
		}
	}
}

func TestRow(t *testing.T) {
	for _, tt := range []struct{ label, value, want string }{
		{"Config digest", "match (0f685d8a)", "Config digest:                                  match (0f685d8a)\n"},
		{"a label of some thirty characters", "and a value that does not fit beside it", "a label of some thirty characters: and a value that does not fit beside it\n"},
	} {
		var tab table
		tab.row(tt.label, tt.value)
		if string(tab) != tt.want {
			t.Errorf("row(%q, %q) = %q; want %q", tt.label, tt.value, tab, tt.want)
		}
	}
}

// Wanted values from CPython: "%.2f" % round(v, 3).
func TestTwoDigits(t *testing.T) {
	for _, tt := range []struct {
		v    float64
		want string
	}{
		{0, "0.00"}, {0.1349, "0.14"}, {0.1249, "0.12"}, {0.125, "0.12"}, {0.135, "0.14"}, {3.125, "3.12"}, {226.69, "226.69"},
		{0.0049, "0.01"}, {0.004, "0.00"}, {0.9949, "0.99"}, {0.9951, "0.99"}, {0.9956, "1.00"}, {1e15, "1000000000000000.00"},
	} {
		if got := twoDigits(tt.v); got != tt.want {
			t.Errorf("twoDigits(%g) = %s; want %s", tt.v, got, tt.want)
		}
	}
}

func TestShortName(t *testing.T) {
	for _, tt := range []struct{ qualname, want string }{
		{"lmcache.v1.distributed.storage_manager.StorageManager.reserve_write", "reserve_write"},
		{"a.StorageManager.read_prefetched_results.__enter__", "read_prefetched_results.enter"},
		{"a.StorageManager.read_prefetched_results.__exit__", "read_prefetched_results.exit"},
		{"__enter__", "__enter__"}, {"plain", "plain"}, {"", ""},
	} {
		if got := shortName(tt.qualname); got != tt.want {
			t.Errorf("shortName(%q) = %q; want %q", tt.qualname, got, tt.want)
		}
	}
}

func TestByteSize(t *testing.T) {
	for _, tt := range []struct {
		n    int64
		want string
	}{
		{0, "0 B"}, {1023, "1023 B"}, {1024, "1.00 KiB"}, {1536, "1.50 KiB"}, {1<<20 - 1, "1.00 MiB"}, {1 << 20, "1.00 MiB"},
		{5 << 30, "5.00 GiB"}, {1 << 40, "1.00 TiB"}, {1<<63 - 1, "8.00 EiB"},
	} {
		if got := byteSize(tt.n); got != tt.want {
			t.Errorf("byteSize(%d) = %s; want %s", tt.n, got, tt.want)
		}
	}
}
