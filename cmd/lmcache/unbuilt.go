package main

import (
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// unbuiltFlag is a flag of LMCache that this build knows by name only: it is
// accepted at its default, so that scripts which spell defaults out go on
// working, and refused at any other value.
type unbuiltFlag struct {
	name   string
	value  pflag.Value // holds the default
	reason string      // why not; empty for a flag that only says the default
	toggle bool        // takes no value
}

func ptr[T any](v T) *T { return &v }

func textValue(def string) pflag.Value { return textFlag{&def} }

// textFlag is any text.
type textFlag struct{ p *string }

func (v textFlag) Type() string       { return "TEXT" }
func (v textFlag) String() string     { return *v.p }
func (v textFlag) Set(s string) error { *v.p = s; return nil }

func boolUnbuilt(name string, def bool, reason string) unbuiltFlag {
	return unbuiltFlag{name: name, value: switchValue{&def, true}, reason: reason, toggle: true}
}

const unbuiltSection = "Known from LMCache, not in this build (accepted at the default)"

func defineUnbuilt(cmd *cobra.Command, list []unbuiltFlag) []unbuiltFlag {
	section(cmd, unbuiltSection, func(flags *pflag.FlagSet) {
		for _, f := range list {
			usage := f.reason
			if usage == "" {
				usage = "the default"
			}
			flag := flags.VarPF(f.value, f.name, "", usage)
			if f.toggle {
				flag.NoOptDefVal = "true"
			}
		}
	})
	return list
}

// checkUnbuilt refuses the flags that are not at their default.
func checkUnbuilt(cmd *cobra.Command, list []unbuiltFlag) error {
	for _, f := range list {
		flag := cmd.Flags().Lookup(f.name)
		if f.reason != "" && flag.Changed && strings.TrimSpace(flag.Value.String()) != flag.DefValue {
			return usagef("--%s is not supported in this build: %s", f.name, f.reason)
		}
	}
	return nil
}
