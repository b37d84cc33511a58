package trace_test

import (
	"bytes"
	"math"
	"os"
	"strings"
	"testing"

	"github.com/lmcache/lmcache-go/trace"
)

// textOf prints all of src.
func textOf(t *testing.T, src trace.Source) []byte {
	t.Helper()
	b := trace.AppendTextHeader(nil, src.Header())
	var a trace.Args
	var dropped uint64
	if o, ok := src.(trace.OutcomeSource); ok {
		o.OnOutcome(func(o *trace.OutcomeRecord) { b = trace.AppendTextOutcome(b, o) })
	}
	drops := func() {
		if d, ok := src.(interface{ Dropped() uint64 }); ok && d.Dropped() > dropped {
			dropped = d.Dropped()
			b = trace.AppendTextDrops(b, dropped)
		}
	}
	for src.Next() {
		drops()
		rec := src.Record()
		err := src.Args(&a)
		b = trace.AppendText(b, &rec, &a, err)
	}
	drops()
	if err := src.Err(); err != nil {
		t.Fatal(err)
	}
	return b
}

const everyLine = `lmcache-trace-text 1
format native 1
schema 1
level "storage"
level_meta "instance_id" "node \"a\""
t_mono_start 1.000000005
t_wall_start 1760000000.000000000
config "{}\n\xff\u00e9"
digest "0f685d8a"
release "0.5.6"
upstream 80
pid 4711
host "gpu-7"
build "v1"
ring "/dev/shm/ring"
block_bytes 4096
call 0 0.000000000 1760000000.000000001 reserve_write
  keys "m"@02000200@0 "m"@02010201@3@"salt": 01 02
  + ""@00000000@4294967295: - 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f
  layout_desc [2,4]:bfloat16+[]:uint8
  mode update
call 1 -0.000000001 -9223372036.854775808 finish_write
  keys
dropped 3
call 5 0.500000000 1760000000.500000000 submit_prefetch_task
  exact_t_mono 3fe0000000000001
  exact_t_wall 7ff8000000000001
  frame 8180
  spec policy=segmented_prefix lock=NO_LOCK readers=-2 flat=true groups=2
    l1_tags "cxl"/"local" "dram"/"remote"
    l2_tags
    group=0 window=-1 layout=-
      keys
    group=7 window=4 layout=[0]:int8
      keys "m"@01000100@7: 0102
      + "n"@01000100@7: 0103
  external_request_id "req <\u00e9>"
  skip_l2 true
call 6 1.000000000 1760000001.000000000 finish_read_prefetched
  keys "m"@01000100@0: 01
  read_locks -9223372036854775808
outcome 5 1.000000001 1760000001.000000001 submit_prefetch_task duration=0.500000001 failed=false l1_hit_keys=2 l2_hit_keys=0 missed_keys=4294967295
  bitmap 9 0101
  bitmap 0 -
outcome 0 1.000000002 1760000001.000000002 reserve_write duration=1.000000002 failed=true reserved_keys=3 refused_keys=0 oom_keys=1
  bitmap 12 0700
outcome 1 1.000000002 1760000001.000000002 "later" duration=0.000000000 failed=false "a b"=1 "failed"=2
call 7 1.000000000 1760000001.000000000 read_prefetched_results.__enter__
  error "argument keys: \"x\""
call 8 1.000000000 1760000001.000000000 "events.batch" args:msgpack
  args 80
call 9 1.000000000 1760000001.000000000 "later" "a name":text "error":flag keys:keys
  "a name" "text"
  "error" false
  keys
call 10 1.000000000 1760000001.000000000 "unknown" ?
  error "operation 9: not defined"
dropped 4
`

// TestTextForm reads a text with every line that there is, and prints it again.
func TestTextForm(t *testing.T) {
	r, err := trace.NewTextReader(strings.NewReader(everyLine))
	if err != nil {
		t.Fatal(err)
	}
	if got := string(textOf(t, r)); got != everyLine {
		t.Errorf("got\n%s\nwant\n%s", got, everyLine)
	}
	if r.Header().ConfigJSON != "{}\n\xffé" || r.Header().MonoStartNS != 1_000_000_005 {
		t.Errorf("header: got %+v", r.Header())
	}
}

// TestTextRecord looks at what was read, beyond that it prints the same.
func TestTextRecord(t *testing.T) {
	r, err := trace.NewTextReader(strings.NewReader("# a comment\n" + strings.ReplaceAll(everyLine, "\n  keys", "\n\n# a comment\n  keys")))
	if err != nil {
		t.Fatal(err)
	}
	var a trace.Args
	for i := 0; r.Next(); i++ {
		rec := r.Record()
		err := r.Args(&a)
		switch i {
		case 0:
			if err != nil || len(a.Keys) != 6 || a.Keys[3].Rank != 0x02010201 || a.Keys[3].Group != 3 || a.Keys[3].Scope.Salt() != "salt" ||
				a.Keys[4].HashLen != 0 || a.Keys[5].HashLen != 32 || a.Layout.Bytes() != 17 {
				t.Errorf("got %+v, %v", a, err)
			}
		case 1:
			if rec.MonoNS != -1 || rec.WallNS != math.MinInt64/1_000_000_000*1_000_000_000-854_775_808 {
				t.Errorf("got times %d, %d", rec.MonoNS, rec.WallNS)
			}
		case 2:
			x := rec.Extra
			if r.Dropped() != 3 || x == nil || x.MonoS != 0.5+math.Pow(2, -53) || !math.IsNaN(x.WallS) || !bytes.Equal(x.Frame, []byte{0x81, 0x80}) {
				t.Errorf("got %d dropped, %+v", r.Dropped(), x)
			}
			if s := a.Spec; err != nil || !s.Flat || s.L1Tags == nil || s.L2Tags == nil || len(s.L2Tags) != 0 || len(s.Groups[1].Keys) != 2 {
				t.Errorf("got %+v, %v", s, err)
			}
		case 4:
			if err == nil || err.Error() != `argument keys: "x"` {
				t.Errorf("got error %v", err)
			}
		case 5:
			if rec.Op != trace.OpUnknown || string(a.Raw) != "\x80" || rec.Row == nil {
				t.Errorf("got %+v, %+v", rec, a)
			}
		}
	}
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
}

// TestTextErrors checks that each mistake is found, and in its line.
func TestTextErrors(t *testing.T) {
	const call = "call 0 0.000000000 0.000000000 "
	head := "lmcache-trace-text 1\nformat native 1\nschema 1\nlevel \"storage\"\n"
	tests := []struct{ text, want string }{
		{"", "no trace in text form: the first line is not \"lmcache-trace-text 1\""},
		{"lmcache-trace-text 2\n", "no trace in text form: the first line is not \"lmcache-trace-text 1\""},
		{"lmcache-trace-text 1\nformat other 1\n", `line 2: format "other"`},
		{head + "color \"red\"\n", `line 5: "color": not a line of the header`},
		{head + "level \"storage\"\n", "line 5: level is there twice"},
		{head + "host gpu\n", `line 5: a text in quotes expected before "gpu"`},
		{head + call + "frobnicate\n", `line 5: unknown operation "frobnicate"`},
		{head + "call 0 0.0 0.000000000 finish_write\n", `line 5: "0.0" is no time in seconds with nine digits behind the point`},
		{head + "call 0 9223372036.854775808 0.000000000 finish_write\n", `line 5: time "9223372036.854775808" is out of range`},
		{head + "call -1 0.000000000 0.000000000 finish_write\n", `line 5: "-1 0.000000000 0.000000000 finish_write" is no number from 0 to 18446744073709551615`},
		{head + "call 0 0.000000000 0.000000000 finish_write now\n", `line 5: " now" left over`},
		{head + call + "finish_write\n  keys\nkeys\n", `line 7: "keys": not a call`},
		{head + call + "finish_write\n", "line 6: argument keys is missing"},
		{head + call + "finish_write\n  keys\n  mode new\n", "line 7: one argument too many"},
		{head + call + "finish_write\n  keys 01\n", `line 6: argument keys: a text in quotes expected before "01"`},
		{head + call + "finish_write\n  keys : 01\n", `line 6: argument keys: a text in quotes expected before ": 01"`},
		{head + call + "finish_write\n  keys: 01\n", "line 6: argument keys: a segment without contexts or hashes"},
		{head + call + "finish_write\n  keys \"m\"@00000001@0:\n", "line 6: argument keys: a segment without contexts or hashes"},
		{head + call + "finish_write\n  keys \"m\"@00000001@0: 0\n", `line 6: argument keys: "0" are no bytes in hex, or more than 32`},
		{head + call + "finish_write\n  keys \"m\"@00000001@0: " + strings.Repeat("00", 33) + "\n", `line 6: argument keys: "` + strings.Repeat("0", 40) + `" are no bytes in hex, or more than 32`},
		{head + call + "finish_write\n  keys \"a@b\"@00000001@0: 00\n", `line 6: argument keys: invalid object key: model name "a@b" contains @`},
		{head + call + "reserve_write\n  keys\n  layout_desc [2]:int9\n  mode new\n", `line 7: argument layout_desc: invalid layout: no dtype "int9"`},
		{head + call + "reserve_write\n  keys\n  layout_desc -\n  mode old\n", `line 8: argument mode: unknown value "old"`},
		{head + call + "submit_prefetch_task\n  spec policy=prefix lock=LOCK readers=1 flat=false groups=1\n", "line 6: argument spec: 0 groups, not 1"},
		{head + call + "\"op\" a:keys b:keys\n", `line 5: argument b of type "keys"`},
		{head + "outcome 0 0.000000000 0.000000000 finish_write duration=0.000000000 failed=false written_keys=2\n  bitmap 8 01\n", "line 6: bitmap 0 has 1 bits set, or is one too many"},
		{head + "outcome 0 0.000000000 0.000000000 finish_write duration=0.000000000 failed=false\n  bitmap 7 80\n", "line 6: 1 bytes for 7 bits, or a bit behind the last"},
		{head + call + "\"op\" a:color\n", `line 5: argument a of type "color"`},
	}
	for _, tt := range tests {
		r, err := trace.NewTextReader(strings.NewReader(tt.text))
		var a trace.Args
		for err == nil && r.Next() {
			err = r.Args(&a)
		}
		if err == nil {
			err = r.Err()
		}
		if got := errText(err); got != tt.want {
			t.Errorf("%q:\n got %s\nwant %s", tt.text, got, tt.want)
		}
	}
}

func errText(err error) string {
	if err == nil {
		return "no error"
	}
	return err.Error()
}

// FuzzParseText reads any text. Properties: it ends, and what was read prints as a
// text that reads and prints the same.
func FuzzParseText(f *testing.F) {
	f.Add([]byte(everyLine))
	f.Add([]byte(strings.Replace(everyLine, "window=4", "window=04", 1)))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := trace.NewTextReader(bytes.NewReader(data))
		if err != nil {
			return
		}
		var a trace.Args
		for r.Next() {
			if r.Args(&a) != nil {
				return
			}
		}
		if r.Err() != nil {
			return
		}
		r, _ = trace.NewTextReader(bytes.NewReader(data))
		once := textOf(t, r)
		if r, err = trace.NewTextReader(bytes.NewReader(once)); err != nil {
			t.Fatalf("%v in\n%s", err, once)
		}
		if twice := textOf(t, r); !bytes.Equal(once, twice) {
			t.Fatalf("printed\n%s\nthen\n%s", once, twice)
		}
	})
}

// TestTextExample reads the example of FORMAT.md.
func TestTextExample(t *testing.T) {
	page, err := os.ReadFile("../FORMAT.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "\n## 9. ")
	at := strings.LastIndex(section, "\n\n    call ")
	if at < 0 {
		t.Fatal("no example")
	}
	text := strings.ReplaceAll(section[at+1:], "\n    ", "\n")[1:]
	head := "lmcache-trace-text 1\nformat native 1\nschema 1\nt_mono_start 0.000000000\nt_wall_start 0.000000000\n"
	r, err := trace.NewTextReader(strings.NewReader(head + text))
	if err != nil {
		t.Fatal(err)
	}
	if got := string(textOf(t, r)); got != head+text || !strings.Contains(got, "mode new") {
		t.Errorf("got\n%s\nwant\n%s", got, head+text)
	}
}
