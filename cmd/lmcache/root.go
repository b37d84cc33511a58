package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/lmcache/lmcache-go/replay"
	"github.com/lmcache/lmcache-go/sm"
)

// Exit statuses.
const (
	exitDone        = 0
	exitFailed      = 1   // what only the world tells went wrong, or a replayed record failed
	exitUsage       = 2   // the command line was wrong and nothing was done
	exitInterrupted = 130 // as a shell reports SIGINT
)

// app is what every command needs.
type app struct {
	stdout   io.Writer
	stderr   io.Writer
	log      *slog.Logger
	level    *slog.LevelVar // of log
	logs     *logs
	terminal io.Writer // stderr as it is, for what draws there
}

// usageError reports a wrong command line.
type usageError struct {
	cmd  *cobra.Command // whose usage helps; nil for the command that ran
	prog string         // who speaks, if not cmd
	err  error
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return &usageError{err: fmt.Errorf(format, args...)} }

// printJSON prints v as one indented JSON object on stdout.
func (a *app) printJSON(v any) error {
	e := json.NewEncoder(a.stdout)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// errReported is the error of a command that has said itself what failed.
var errReported = errors.New("already reported")

// run executes one command line and returns the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	logs := newLogs(stdout, stderr)
	defer func() {
		if err := logs.close(); err != nil {
			fmt.Fprintln(stderr, "lmcache: "+oneLine(err))
		}
	}()
	a := &app{stdout: logs.behind(stdout), stderr: logs.behind(stderr), log: logs.logger, level: logs.level, logs: logs, terminal: stderr}
	stderr = a.stderr
	root := newRoot(a)
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	var usage *usageError
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &usage):
		if usage.cmd != nil {
			cmd = usage.cmd
		}
		prog := usage.prog
		if prog == "" {
			prog = cmd.CommandPath()
		}
		fmt.Fprintf(stderr, "usage: %s (see %s --help)\n%s: error: %v\n", cmd.UseLine(), cmd.CommandPath(), prog, usage.err)
		return exitUsage
	case ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, replay.ErrInterrupted)):
		fmt.Fprintln(stderr, "lmcache: interrupted")
		return exitInterrupted
	case !errors.Is(err, errReported):
		fmt.Fprintln(stderr, "lmcache: "+oneLine(err))
	}
	return exitFailed
}

// about makes err name the file that it is about, where it does not yet.
func about(path string, err error) error {
	if err == nil || strings.Contains(err.Error(), path) {
		return err
	}
	return fmt.Errorf("%s: %w", path, err)
}

// oneLine describes a failure in one line. That of a file begins with its path.
func oneLine(err error) string {
	text := err.Error()
	if pathError, ok := err.(*fs.PathError); ok {
		text = pathError.Path + ": " + pathError.Err.Error()
	}
	return strings.ReplaceAll(text, "\n", "; ")
}

func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:           "lmcache COMMAND",
		Short:         "Record, inspect and replay traces of LMCache's storage manager",
		Version:       version(),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetVersionTemplate("lmcache {{.Version}}\n")
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetFlagErrorFunc(flagError)
	root.SetHelpFunc(writeHelp)
	root.SetHelpCommand(newHelp(root))
	root.AddCommand(newTrace(a), newServer(a), newBench(a), newPing(a), newDescribe(a), newKVCache(a), newVersion(a))
	group(root, "command")
	root.InitDefaultVersionFlag()
	root.Flags().Lookup("version").Usage = "print the version"
	root.InitDefaultCompletionCmd()
	if c, _, err := root.Find([]string{"completion"}); err == nil {
		c.Use = "completion SHELL"
		c.Short = "Print a completion script for a shell"
		group(c, "shell")
		for _, shell := range c.Commands() {
			shell.Args = func(_ *cobra.Command, args []string) error { return noOperands(args) }
		}
	}
	tidyHelp(root)
	return root
}

// group makes cmd a command that only has sub-commands: alone, or with an
// unknown one, it is a usage error.
func group(cmd *cobra.Command, operand string) {
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			if !cmd.HasParent() { // as LMCache does
				writeHelp(cmd, nil)
			}
			return usagef("the following arguments are required: %s", operand)
		}
		var names []string
		for _, c := range cmd.Commands() {
			if !c.Hidden {
				names = append(names, c.Name())
			}
		}
		return usagef("argument %s: %w", operand, invalidChoice(args[0], names))
	}
}

// oneFile accepts exactly one operand, FILE. missing names flags that are
// required and absent, so that one message names all.
func oneFile(args []string, missing ...string) (string, error) {
	if len(args) == 0 {
		missing = slices.Insert(missing, 0, "FILE")
	}
	switch {
	case len(missing) > 0:
		return "", usagef("the following arguments are required: %s", strings.Join(missing, ", "))
	case args[0] == "": // often a variable that is not set
		return "", usagef("argument FILE: invalid value: '' (allowed: a file)")
	}
	return args[0], noOperands(args[1:])
}

// distinct refuses to write to the file that is read: that would empty it.
func distinct(flag, output, input string) error {
	in, err := os.Stat(input)
	if err != nil {
		return nil // whoever opens it says so
	}
	if out, err := os.Stat(output); err == nil && out.Mode().IsRegular() && os.SameFile(in, out) {
		return fmt.Errorf("%s %s: is the input", flag, output)
	}
	return nil
}

func noOperands(args []string) error {
	if len(args) > 0 {
		return unrecognized(strings.Join(args, " "))
	}
	return nil
}

// unrecognized is the usage error for what no parser knows; upstream's comes
// from its top parser.
func unrecognized(what string) error {
	return &usageError{prog: "lmcache", err: errors.New("unrecognized arguments: " + what)}
}

// flagError puts what the flag library says into the words of Python's.
func flagError(cmd *cobra.Command, err error) error {
	var (
		unknown *pflag.NotExistError
		bad     *pflag.InvalidValueError
		empty   *pflag.ValueRequiredError
		syntax  *pflag.InvalidSyntaxError
	)
	switch {
	case errors.As(err, &unknown):
		name := unknown.GetSpecifiedName()
		if group := unknown.GetSpecifiedShortnames(); group != "" {
			err = unrecognized("-" + group)
		} else {
			err = unrecognized("--" + name)
		}
	case errors.As(err, &bad):
		if bad.GetFlag().Value.Type() == "bool" {
			err = usagef("argument %s: ignored explicit argument '%s'", flagNames(bad.GetFlag()), bad.GetValue())
		} else {
			err = usagef("argument %s: %w", flagNames(bad.GetFlag()), bad.Unwrap())
		}
	case errors.As(err, &empty):
		err = usagef("argument %s: expected one argument", flagNames(empty.GetFlag()))
	case errors.As(err, &syntax):
		err = unrecognized(syntax.GetSpecifiedFlag())
	default:
		err = &usageError{err: err}
	}
	var usage *usageError
	errors.As(err, &usage)
	usage.cmd = cmd
	return usage
}

func flagNames(f *pflag.Flag) string {
	if f.Shorthand != "" {
		return "-" + f.Shorthand + "/--" + f.Name
	}
	return "--" + f.Name
}

// settingError makes a usage error of what the configuration refuses.
func settingError(err error) error {
	var setting *sm.SettingError
	if errors.As(err, &setting) {
		return usagef("argument %w", err)
	}
	return &usageError{err: err}
}
