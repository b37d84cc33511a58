package lint

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// rules is a set of tables, so that the checker can be tried on small ones.
type rules struct {
	everyone   []string
	arrows     []row
	monopolies []monopoly
	bans       []ban
}

// source is one parsed file.
type source struct {
	pkg  string // its folder, relative to the module
	test bool
	ast  *ast.File
}

// check returns the offences of all Go files in tree, which is the root of the
// named module, sorted, one line each. Files of every platform and build tag
// count. The error is for what cannot be read or parsed.
func (r *rules) check(tree fs.FS, module string) ([]string, error) {
	fset := token.NewFileSet()
	files, err := load(fset, tree)
	if err != nil {
		return nil, err
	}
	var found []string
	report := func(pos token.Pos, format string, args ...any) {
		p := fset.Position(pos)
		found = append(found, fmt.Sprintf("%s:%d: %s", p.Filename, p.Line, fmt.Sprintf(format, args...)))
	}
	for _, f := range files {
		for _, spec := range f.ast.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return nil, fmt.Errorf("import %s: %w", spec.Path.Value, err)
			}
			if ours, ok := strings.CutPrefix(imported, module+"/"); ok && !f.test {
				if msg := r.arrow(f.pkg, ours); msg != "" {
					report(spec.Pos(), "%s", msg)
				}
			}
			for _, m := range r.monopolies {
				if within(imported, m.path) && !matches(m.pkgs, f.pkg) && (m.tests || !f.test) {
					report(spec.Pos(), "%s imports %s, which is for %s only", f.pkg, imported, orNobody(m.pkgs))
				}
			}
			for _, b := range r.bans {
				if imported == b.path && !f.test && matches(b.pkgs, f.pkg) {
					b.mentions(f, spec, report)
				}
			}
		}
		if !f.test && r.row(f.pkg) == nil {
			report(f.ast.Package, "package %s has no line in the table of arrows", f.pkg)
		}
	}
	found = append(found, undocumented(files)...)
	slices.Sort(found)
	return found, nil
}

// load parses the Go files of tree. It passes over what the go command passes
// over: folders that begin with . or _, testdata, vendor, modules of their own.
func load(fset *token.FileSet, tree fs.FS) ([]source, error) {
	var files []source
	err := fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if base := d.Name(); d.IsDir() {
			if name == "." {
				return nil
			}
			if base[0] == '.' || base[0] == '_' || base == "testdata" || base == "vendor" {
				return fs.SkipDir
			}
			if _, err := fs.Stat(tree, path.Join(name, "go.mod")); err == nil {
				return fs.SkipDir
			}
			return nil
		}
		if path.Ext(name) != ".go" || d.Name()[0] == '.' || d.Name()[0] == '_' {
			return nil
		}
		text, err := fs.ReadFile(tree, name)
		if err != nil {
			return err
		}
		parsed, err := parser.ParseFile(fset, name, text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		files = append(files, source{path.Dir(name), strings.HasSuffix(name, "_test.go"), parsed})
		return nil
	})
	return files, err
}

// row returns the line of a package, nil if there is none. An exact line goes
// before a pattern.
func (r *rules) row(pkg string) *row {
	var found *row
	for i := range r.arrows {
		if r.arrows[i].pkg == pkg {
			return &r.arrows[i]
		}
		if matches([]string{r.arrows[i].pkg}, pkg) {
			found = &r.arrows[i]
		}
	}
	return found
}

// arrow says what is wrong with an import inside the module, "" if nothing is.
func (r *rules) arrow(from, to string) string {
	line := r.row(from)
	switch {
	case line == nil:
		return "" // said once a file
	case matches(line.imports, to),
		slices.Contains(r.everyone, to) && !slices.Contains(r.everyone, from):
		return ""
	}
	return fmt.Sprintf("%s imports %s: there is no such arrow", from, to)
}

// mentions reports every use of a banned name. A call is one, and so is taking
// the function as a value.
func (b *ban) mentions(f source, spec *ast.ImportSpec, report func(token.Pos, string, ...any)) {
	local := path.Base(b.path)
	if spec.Name != nil {
		local = spec.Name.Name
	}
	if local == "." {
		report(spec.Pos(), "%s imports all names of %s: %s", f.pkg, b.path, b.why)
		return
	}
	ast.Inspect(f.ast, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if x, ok := sel.X.(*ast.Ident); ok && x.Name == local && slices.Contains(b.names, sel.Sel.Name) {
			report(sel.Pos(), "%s uses %s.%s: %s", f.pkg, b.path, sel.Sel.Name, b.why)
		}
		return true
	})
}

// undocumented returns an offence for every public package without a package
// comment in godoc's form, and for every command without one.
func undocumented(files []source) []string {
	documented := map[string]bool{}
	for _, f := range files {
		if internal(f.pkg) || strings.HasSuffix(f.ast.Name.Name, "_test") {
			continue
		}
		doc := f.ast.Doc.Text()
		good := strings.HasPrefix(doc, "Package "+f.ast.Name.Name+" ")
		if f.ast.Name.Name == "main" {
			good = doc != "" // "Command lmcache …", "Lmcache is …": both are custom
		}
		documented[f.pkg] = documented[f.pkg] || good
	}
	var found []string
	for pkg, ok := range documented {
		if !ok {
			found = append(found, fmt.Sprintf("%s: no package comment", pkg))
		}
	}
	return found
}

func internal(pkg string) bool { return slices.Contains(strings.Split(pkg, "/"), "internal") }

// matches reports whether one of the patterns stands for pkg.
func matches(patterns []string, pkg string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		if p == public {
			return !internal(pkg) && !within(pkg, "cmd")
		}
		ok, err := path.Match(p, pkg)
		return ok && err == nil
	})
}

// within reports whether p is prefix or below it.
func within(p, prefix string) bool { return p == prefix || strings.HasPrefix(p, prefix+"/") }

func orNobody(pkgs []string) string {
	if len(pkgs) == 0 {
		return "nobody"
	}
	return strings.Join(pkgs, ", ")
}
