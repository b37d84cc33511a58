package main

import (
	"errors"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"lmcache": main})
}

// The scripts run the real program. Beside testscript's own commands there is
//
//	status N command args...
//
// which runs a command that must exit with status N, or with "any" one. $VECTORS
// is the folder with LMCache's files.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			vectors, err := filepath.Abs("../../testdata/lct-v1")
			env.Setenv("VECTORS", vectors)
			return err
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status": func(ts *testscript.TestScript, neg bool, args []string) {
				if neg || len(args) < 2 {
					ts.Fatalf("usage: status N command args...")
				}
				want, err := strconv.Atoi(args[0])
				if args[0] != "any" {
					ts.Check(err)
				}
				got := 0
				if err := ts.Exec(args[1], args[2:]...); err != nil {
					var exit *exec.ExitError
					if !errors.As(err, &exit) {
						ts.Fatalf("%v", err)
					}
					got = exit.ExitCode()
				}
				if got != want && args[0] != "any" {
					ts.Fatalf("%v: exit status %d; want %d", args[1:], got, want)
				}
			},
		},
	})
}
