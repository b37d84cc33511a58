package lint

import (
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

var ours = rules{everyone, arrows, monopolies, bans}

// TestModule holds this module to the tables.
func TestModule(t *testing.T) {
	const root = "../.."
	mod, err := os.ReadFile(root + "/go.mod")
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(mod), "\n")
	module, ok := strings.CutPrefix(first, "module ")
	if !ok {
		t.Fatalf("go.mod begins with %q", first)
	}
	found, err := ours.check(os.DirFS(root), module)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		t.Error(f)
	}
}

// TestCheck runs the checker, with the real tables, over small modules.
func TestCheck(t *testing.T) {
	cases := []struct {
		name string
		file string
		text string
		want string // the one offence, "" for none
	}{
		{"allowed arrow", "trace/a.go", `package trace; import _ "m/mmapio"`, ""},
		{"what everyone may", "trace/a.go", `package trace; import (_ "m/kv"; _ "m/internal/clock")`, ""},
		{"other module", "trace/a.go", `package trace; import _ "m2/sm"`, ""},
		{"forbidden arrow", "trace/a.go", `package trace; import _ "m/sm"`, "trace/a.go:1: trace imports sm: there is no such arrow"},
		{"into a sub-package", "trace/a.go", `package trace; import _ "m/trace/lct"`, "trace/a.go:1: trace imports trace/lct: there is no such arrow"},
		{"tiers apart", "l1/a.go", "package l1\n\nimport _ \"m/l2\"", "l1/a.go:3: l1 imports l2: there is no such arrow"},
		{"in a test", "trace/a_test.go", `package trace; import _ "m/sm"`, ""},
		{"in a build for others", "trace/a_windows.go", "//go:build never\n\npackage trace; import _ \"m/sm\"", "trace/a_windows.go:3: trace imports sm: there is no such arrow"},
		{"leaves stay leaves", "kv/a.go", `package kv; import _ "m/internal/clock"`, "kv/a.go:1: kv imports internal/clock: there is no such arrow"},
		{"adapter", "l2/fs/a.go", `package fs; import (_ "m/l2"; _ "golang.org/x/sys/unix")`, ""},
		{"adapter to adapter", "l2/fault/a.go", `package fault; import _ "m/l2/fs"`, "l2/fault/a.go:1: l2/fault imports l2/fs: there is no such arrow"},
		{"command", "cmd/lmcache/a.go", `package main; import (_ "m/l2/fs"; _ "m/trace/lct"; _ "m/internal/logfmt")`, ""},
		{"command to lint", "cmd/lmcache/a.go", `package main; import _ "m/internal/lint"`, "cmd/lmcache/a.go:1: cmd/lmcache imports internal/lint: there is no such arrow"},
		{"public has no commands", "bench/a.go", `package bench; import _ "m/cmd/lmcache"`, "bench/a.go:1: bench imports cmd/lmcache: there is no such arrow"},
		{"public has nothing internal", "bench/a.go", `package bench; import _ "m/internal/pyfmt"`, "bench/a.go:1: bench imports internal/pyfmt: there is no such arrow"},
		{"no line", "util/a.go", `package util`, "util/a.go:1: package util has no line in the table of arrows"},
		{"no line, deep", "l2/fs/deep/a.go", `package deep`, "l2/fs/deep/a.go:1: package l2/fs/deep has no line in the table of arrows"},
		{"no line, root", "a.go", `package m`, "a.go:1: package . has no line in the table of arrows"},

		{"unsafe at home", "mmapio/a.go", `package mmapio; import "unsafe"`, ""},
		{"unsafe elsewhere", "trace/a.go", `package trace; import "unsafe"`, "trace/a.go:1: trace imports unsafe, which is for mmapio only"},
		{"unsafe in a test", "trace/a_test.go", `package trace; import "unsafe"`, "trace/a_test.go:1: trace imports unsafe, which is for mmapio only"},
		{"cgo", "mmapio/a.go", `package mmapio; import "C"`, "mmapio/a.go:1: mmapio imports C, which is for nobody only"},
		{"unix", "sm/a.go", `package sm; import "golang.org/x/sys/unix"`, "sm/a.go:1: sm imports golang.org/x/sys/unix, which is for mmapio, internal/clock, l2, l2/* only"},
		{"unix in a test", "sm/a_test.go", `package sm; import "golang.org/x/sys/unix"`, ""},
		{"unix by prefix", "sm/a.go", `package sm; import "golang.org/x/sys/unixish"`, ""},
		{"part of a client library", "sm/a.go", `package sm; import "go.opentelemetry.io/otel/trace"`, "sm/a.go:1: sm imports go.opentelemetry.io/otel/trace, which is for telemetry only"},

		{"time", "l1/a.go", "package l1\n\nimport \"time\"\n\nvar t = time.Now()", "l1/a.go:5: l1 uses time.Now: time is injected, use internal/clock"},
		{"time as a value", "l2/fs/a.go", "package fs\nimport \"time\"\nvar f = time.AfterFunc", "l2/fs/a.go:3: l2/fs uses time.AfterFunc: time is injected, use internal/clock"},
		{"time renamed", "replay/a.go", `package replay; import tm "time"; func f() { tm.Sleep(1) }`, "replay/a.go:1: replay uses time.Sleep: time is injected, use internal/clock"},
		{"time dotted", "sm/a.go", `package sm; import . "time"`, "sm/a.go:1: sm imports all names of time: time is injected, use internal/clock"},
		{"time elsewhere", "server/a.go", `package server; import "time"; var t = time.Now()`, ""},
		{"time in a test", "sm/a_test.go", `package sm; import "time"; var t = time.Now()`, ""},
		{"duration", "sm/a.go", `package sm; import "time"; const d = time.Second; var u = time.Unix(0, 0)`, ""},
		{"another Now", "sm/a.go", `package sm; import "m/internal/clock"; func f(c clock.Clock) int64 { return c.Now() }`, ""},
		{"context timer", "sm/a.go", `package sm; import "context"; var f = context.WithTimeout`, "sm/a.go:1: sm uses context.WithTimeout: its timer is the machine's, use internal/clock"},
		{"context timer of an adapter", "l2/resp/a.go", `package resp; import "context"; var f = context.WithTimeout`, ""},

		{"passed over", "testdata/a.go", `package a; import "C"`, ""},
		{"passed over, hidden", ".git/a.go", `package a; import "C"`, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			found, err := ours.check(fstest.MapFS{c.file: {Data: []byte(c.text)}}, "m")
			if err != nil {
				t.Fatal(err)
			}
			found = slices.DeleteFunc(found, func(f string) bool { return strings.HasSuffix(f, ": no package comment") }) // see TestPackageComments
			if got := strings.Join(found, "\n"); got != c.want {
				t.Errorf("got %q; want %q", got, c.want)
			}
		})
	}
}

func TestPackageComments(t *testing.T) {
	tree := fstest.MapFS{
		"event/a.go":          {Data: []byte("// Package event is told.\npackage event")},
		"event/b.go":          {Data: []byte("package event")},
		"evict/a.go":          {Data: []byte("package evict")},
		"l1/a.go":             {Data: []byte("// Placement and locks.\npackage l1")},
		"l2/a.go":             {Data: []byte("// Package l2 is apart.\n\npackage l2")},
		"l2/fs/a.go":          {Data: []byte("//go:build linux\npackage fs")},
		"internal/clock/a.go": {Data: []byte("package clock")},
		"cmd/lmcache/a.go":    {Data: []byte("// Command lmcache does it all.\npackage main")},
		"cmd/other/a.go":      {Data: []byte("package main")},
		"bench/a_test.go":     {Data: []byte("package bench")},
		"sm/a_test.go":        {Data: []byte("// Package sm_test is no package comment.\npackage sm_test")},
		"sm/a.go":             {Data: []byte("// Package smith has another name.\npackage sm")},
	}
	found, err := ours.check(tree, "m")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"bench: no package comment", "cmd/other: no package comment", "evict: no package comment", "l1: no package comment",
		"l2/fs: no package comment", "l2: no package comment", "sm: no package comment"}
	if !slices.Equal(found, want) {
		t.Errorf("got %q; want %q", found, want)
	}
}

func TestCheckErrors(t *testing.T) {
	if _, err := ours.check(fstest.MapFS{"kv/a.go": {Data: []byte("package")}}, "m"); err == nil {
		t.Error("a file that does not parse passes")
	}
}

func TestNestedModule(t *testing.T) {
	tree := fstest.MapFS{
		"tools/go.mod": {Data: []byte("module tools")},
		"tools/a.go":   {Data: []byte(`package tools; import "C"`)},
	}
	if found, err := ours.check(tree, "m"); err != nil || len(found) > 0 {
		t.Errorf("a module of its own: %q, %v; want nothing", found, err)
	}
}

// TestTable follows the arrows of the table: there is no way around in a
// circle, and none between what must not know each other, however long.
func TestTable(t *testing.T) {
	reach := map[string]map[string]bool{}
	var visit func(pkg string) map[string]bool
	visit = func(pkg string) map[string]bool {
		if r, ok := reach[pkg]; ok {
			if r == nil {
				t.Fatalf("the arrows lead from %s back to it", pkg)
			}
			return r
		}
		reach[pkg] = nil
		line := ours.row(pkg)
		if line == nil {
			t.Fatalf("%s is imported and has no line", pkg)
		}
		r := map[string]bool{}
		for _, to := range line.imports {
			if to == public {
				continue // nobody imports those who may import all
			}
			r[to] = true
			for far := range visit(to) {
				r[far] = true
			}
		}
		reach[pkg] = r
		return r
	}
	for _, line := range arrows {
		visit(line.pkg)
		if n := len(slices.DeleteFunc(slices.Clone(arrows), func(l row) bool { return l.pkg != line.pkg })); n > 1 {
			t.Errorf("%s has %d lines", line.pkg, n)
		}
		if slices.Contains(line.imports, "bench") || slices.Contains(line.imports, "cmd/*") {
			t.Errorf("%s imports what may import all", line.pkg)
		}
	}
	for _, apart := range [][2]string{{"trace", "sm"}, {"trace/lct", "sm"}, {"l1", "l2"}, {"l2", "l1"}, {"l2/*", "l1"}, {"l1", "trace"}, {"evict", "event"},
		{"telemetry", "sm"}, {"mmapio", "trace"}, {"sm", "telemetry"}, {"sm", "server"}, {"replay", "server"}} {
		if reach[apart[0]][apart[1]] {
			t.Errorf("the arrows lead from %s to %s", apart[0], apart[1])
		}
	}
	for _, leaf := range []string{"kv", "event", "internal/clock", "internal/invariant"} {
		if len(reach[leaf]) > 0 {
			t.Errorf("%s imports %v; want nothing of ours", leaf, reach[leaf])
		}
	}
}
