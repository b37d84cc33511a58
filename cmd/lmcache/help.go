package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

const (
	groupAnnotation = "lmcache-group"
	helpWidth       = 100
)

// section adds the flags that define makes to cmd, under one title of its help.
func section(cmd *cobra.Command, title string, define func(*pflag.FlagSet)) {
	flags := pflag.NewFlagSet(title, pflag.ContinueOnError)
	flags.SortFlags = false
	define(flags)
	flags.VisitAll(func(f *pflag.Flag) {
		f.Annotations = map[string][]string{groupAnnotation: {title}}
	})
	cmd.Flags().SortFlags = false
	cmd.Flags().AddFlagSet(flags)
}

// writeHelp prints what --help shows: sub-commands, or flags by section.
func writeHelp(cmd *cobra.Command, _ []string) {
	var b strings.Builder
	fmt.Fprintf(&b, "usage: %s\n", cmd.UseLine())
	about := cmd.Long
	if about == "" {
		about = cmd.Short + "."
	}
	fmt.Fprintf(&b, "\n%s\n", about)
	if cmd.HasAvailableSubCommands() {
		b.WriteString("\nCommands:\n")
		for _, c := range cmd.Commands() {
			if c.IsAvailableCommand() {
				fmt.Fprintf(&b, "  %-12s %s\n", c.Name(), c.Short)
			}
		}
	}
	var titles []string
	sections := map[string]*pflag.FlagSet{}
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		title := "Flags"
		if g := f.Annotations[groupAnnotation]; len(g) > 0 {
			title = g[0]
		}
		if sections[title] == nil {
			titles = append(titles, title)
			sections[title] = pflag.NewFlagSet(title, pflag.ContinueOnError)
			sections[title].SortFlags = false
		}
		sections[title].AddFlag(f)
	})
	for _, title := range titles {
		if title != unbuiltSection {
			fmt.Fprintf(&b, "\n%s:\n%s", title, sections[title].FlagUsagesWrapped(helpWidth))
		}
	}
	if unbuilt := sections[unbuiltSection]; unbuilt != nil {
		fmt.Fprintf(&b, "\n%s:\n", unbuiltSection)
		writeNames(&b, unbuilt)
	}
	if cmd.HasAvailableSubCommands() {
		fmt.Fprintf(&b, "\n%s COMMAND --help describes a command.\n", cmd.CommandPath())
	}
	fmt.Fprint(cmd.OutOrStdout(), b.String())
}

// writeNames lists flags that cannot be used by name only: what they are is
// said to those who use them.
func writeNames(b *strings.Builder, flags *pflag.FlagSet) {
	const indent = "  "
	line := indent
	flags.VisitAll(func(f *pflag.Flag) {
		if name := "--" + f.Name; len(line)+len(name)+1 > helpWidth {
			b.WriteString(strings.TrimRight(line, " ") + "\n")
			line = indent + name + " "
		} else {
			line += name + " "
		}
	})
	b.WriteString(strings.TrimRight(line, " ") + "\n")
}

// tidyHelp puts the help of cmd and of all below it into our form: flags in
// the order of their definition with --help as the last, one wording.
func tidyHelp(cmd *cobra.Command) {
	cmd.Flags().SortFlags = false
	cmd.InitDefaultHelpFlag()
	cmd.Flags().Lookup("help").Usage = "print this help"
	cmd.DisableFlagsInUseLine = true
	cmd.Long = strings.TrimSpace(cmd.Long)
	for _, c := range cmd.Commands() {
		tidyHelp(c)
	}
}

// newHelp is "lmcache help COMMAND", the same as its --help.
func newHelp(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:    "help [COMMAND]",
		Short:  "Print the help of a command",
		Hidden: true,
		RunE: func(_ *cobra.Command, args []string) error {
			cmd, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return usagef("no command %s", strings.Join(args, " "))
			}
			cmd.InitDefaultHelpFlag()
			writeHelp(cmd, nil)
			return nil
		},
	}
}
