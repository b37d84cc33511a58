package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lmcache/lmcache-go/trace/tracefile"
)

// repairOptions say how to repair.
type repairOptions struct {
	force  bool
	asJSON bool
}

func newTraceRepair(a *app) *cobra.Command {
	var o repairOptions
	cmd := &cobra.Command{
		Use:   "repair FILE OUT",
		Short: "Make a sound trace of a crashed, truncated or damaged one",
		Long: `Make a sound, sealed trace file OUT of FILE, whose recorder was killed, or which is
truncated or damaged. Whole frames are kept as they are. Calls that a killed
recorder had not moved to the file yet are taken from its ring, which the file
names. FILE and the ring are not changed. A file of LMCache stays one.

Exit status: 0 if every record that was recorded is in OUT, 1 if any is missing.`,
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) < 2 {
				return usagef("the following arguments are required: %s", strings.Join([]string{"FILE", "OUT"}[len(args):], ", "))
			}
			if err := noOperands(args[2:]); err != nil {
				return err
			}
			return a.traceRepair(args[0], args[1], o)
		},
	}
	cmd.Flags().BoolVar(&o.force, "force", false, "replace OUT if it exists")
	cmd.Flags().BoolVar(&o.asJSON, "json", false, "print one JSON object instead")
	return cmd
}

func (a *app) traceRepair(path, out string, o repairOptions) error {
	in, err := os.Stat(path)
	if err != nil {
		return err
	}
	switch there, err := os.Stat(out); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case os.SameFile(in, there):
		return usagef("%s and %s are the same file; a repair does not change its input", path, out)
	case !o.force:
		return fmt.Errorf("%s: exists; --force replaces it", out)
	case !there.Mode().IsRegular():
		return fmt.Errorf("%s: not a regular file", out)
	}
	rep, err := tracefile.Repair(path, out)
	if err != nil {
		return about(path, err)
	}
	if o.asJSON {
		err = a.printJSON(rep.JSON())
	} else {
		err = rep.WriteText(a.stdout, path, out)
	}
	switch {
	case err != nil || rep.Complete():
		return err
	case rep.Lost > 0:
		return fmt.Errorf("%s: %d records are missing", out, rep.Lost)
	}
	return fmt.Errorf("%s: records may be missing", out)
}
