package kv_test

import (
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/lmcache/lmcache-go/kv"
)

func dtype(t *testing.T, name string) kv.DType {
	t.Helper()
	d, ok := kv.ParseDType(name)
	if !ok {
		t.Fatalf("no dtype %q", name)
	}
	return d
}

func desc(t *testing.T, parts ...any) kv.LayoutDesc {
	t.Helper()
	var d kv.LayoutDesc
	for i := 0; i < len(parts); i += 2 {
		d.Shapes = append(d.Shapes, parts[i].([]int64))
		d.DTypes = append(d.DTypes, dtype(t, parts[i+1].(string)))
	}
	return d
}

// TestInternLayout pins sizes and the text form.
//
// Source: reference storage-manager.md, section 1.3.
func TestInternLayout(t *testing.T) {
	cases := []struct {
		desc  kv.LayoutDesc
		bytes int64
		text  string
	}{
		{desc(t, []int64{100, 2, 512}, "bfloat16"), 204800, "[100,2,512]:bfloat16"},
		{desc(t, []int64{1}, "uint8"), 1, "[1]:uint8"},
		{desc(t, []int64{}, "float32"), 4, "[]:float32"},
		{desc(t, []int64{0, 5}, "float32"), 0, "[0,5]:float32"},
		{desc(t, []int64{2, 32, 256, 1024}, "float8_e4m3fn", []int64{2, 32, 256}, "float32"), 2*32*256*1024 + 2*32*256*4,
			"[2,32,256,1024]:float8_e4m3fn+[2,32,256]:float32"},
		{desc(t, []int64{math.MaxInt64}, "int8"), math.MaxInt64, "[9223372036854775807]:int8"},
		{desc(t, []int64{3}, "complex128"), 48, "[3]:complex128"},
		{kv.LayoutDesc{}, 0, ""},
	}
	seen := map[kv.Layout]string{}
	for _, c := range cases {
		l, err := kv.InternLayout(c.desc)
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		if l.Bytes() != c.bytes || l.Desc().String() != c.text {
			t.Errorf("%s: %d bytes, %s; want %d", c.text, l.Bytes(), l.Desc(), c.bytes)
		}
		if again, _ := kv.InternLayout(c.desc); again != l {
			t.Errorf("%s is layout %d, then %d", c.text, l, again)
		}
		if other, ok := seen[l]; ok {
			t.Errorf("%q and %q are one layout", c.text, other)
		}
		seen[l] = c.text
	}
	if l := kv.Layout(1 << 31); l.Bytes() != 0 || l.Desc().Shapes != nil {
		t.Errorf("a layout never given has %d bytes, %v; want nothing", l.Bytes(), l.Desc())
	}
}

func TestLayoutOwnsItsDesc(t *testing.T) {
	d := desc(t, []int64{7, 11}, "int16", []int64{13}, "int8")
	l, err := kv.InternLayout(d)
	if err != nil {
		t.Fatal(err)
	}
	want := desc(t, []int64{7, 11}, "int16", []int64{13}, "int8")
	d.Shapes[0][1], d.Shapes[1], d.DTypes[0] = 99, []int64{1}, dtype(t, "float64")
	if got := l.Desc(); !reflect.DeepEqual(got, want) {
		t.Errorf("layout became %v; want %v", got, want)
	}
}

func TestInternLayoutErrors(t *testing.T) {
	f16 := dtype(t, "float16")
	cases := []struct {
		name string
		desc kv.LayoutDesc
		want string
	}{
		{"more shapes", kv.LayoutDesc{Shapes: [][]int64{{1}, {2}}, DTypes: []kv.DType{f16}}, "2 shapes and 1 dtypes, must have the same length"},
		{"more dtypes", kv.LayoutDesc{DTypes: []kv.DType{f16}}, "0 shapes and 1 dtypes, must have the same length"},
		{"no dtype", kv.LayoutDesc{Shapes: [][]int64{{1}}, DTypes: []kv.DType{0}}, "part 0 has no dtype"},
		{"negative", desc(t, []int64{1}, "int8", []int64{2, -1}, "int8"), "part 1 has dimension -1"},
		{"one dimension", desc(t, []int64{math.MaxInt64}, "float16"), "part 0 overflows"},
		{"the product", desc(t, []int64{1 << 31, 1 << 31, 2}, "int8"), "part 0 overflows"},
		{"128 bits", desc(t, []int64{1 << 40, 1 << 40}, "int8"), "part 0 overflows"},
		{"the sum", desc(t, []int64{1 << 62}, "int8", []int64{1 << 62}, "int8"), "size overflows"},
	}
	for _, c := range cases {
		if l, err := kv.InternLayout(c.desc); !errors.Is(err, kv.ErrLayout) || !strings.Contains(err.Error(), c.want) || l != 0 {
			t.Errorf("%s: layout %d, %v; want ErrLayout with %q", c.name, l, err, c.want)
		}
	}
}

// TestDTypes holds the table against the reference.
//
// Source: reference lct-v1.md, section 2.4, and storage-manager.md, section 1.3.
func TestDTypes(t *testing.T) {
	bySize := map[int]string{
		16: "complex128",
		8:  "float64 int64 complex64 uint64",
		4:  "float32 int32 uint32 complex32 bcomplex32 qint32",
		2:  "float16 bfloat16 int16 uint16 bits16",
		1: "float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz float8_e8m0fnu int8 uint8 bool float4_e2m1fn_x2 " +
			"int1 int2 int3 int4 int5 int6 int7 uint1 uint2 uint3 uint4 uint5 uint6 uint7 " +
			"bits8 bits1x8 bits2x4 bits4x2 qint8 quint8 quint2x4 quint4x2",
	}
	seen := map[kv.DType]bool{}
	for size, names := range bySize {
		for name := range strings.FieldsSeq(names) {
			for _, written := range []string{"torch." + name, name} {
				d, ok := kv.ParseDType(written)
				if !ok || d.Size() != size || d.String() != "torch."+name {
					t.Errorf("ParseDType(%s) = %v of %d bytes, %v; want %d bytes", written, d, d.Size(), ok, size)
				}
				seen[d] = true
			}
		}
	}
	if seen[0] || len(seen) != 47 {
		t.Errorf("%d dtypes, the zero one among them: %v; want 47, without", len(seen), seen[0])
	}
	for _, name := range []string{"", "torch.", "half", "torch.half", "Torch.float16", "torch.torch.float16", "float16 "} {
		if d, ok := kv.ParseDType(name); ok || d != 0 {
			t.Errorf("ParseDType(%q) = %v, %v; want none", name, d, ok)
		}
	}
}

// TestParseLayout checks that the text of a layout gives it back.
func TestParseLayout(t *testing.T) {
	for _, text := range []string{"", "[2,32,256,1024]:bfloat16", "[2,4]:float16+[]:uint8+[0]:int8"} {
		l, err := kv.ParseLayout(text)
		if err != nil || l.Desc().String() != text || (l == 0) != (text == "") {
			t.Errorf("ParseLayout(%q): got %q, %v", text, l.Desc(), err)
		}
	}
	for _, text := range []string{"2:int8", "[2]", "[2]:int9", "[2]:int8+", "[-1]:int8", "[a]:int8", "[2,]:int8", "[9223372036854775807,9]:int8"} {
		if _, err := kv.ParseLayout(text); !errors.Is(err, kv.ErrLayout) {
			t.Errorf("ParseLayout(%q): got %v; want an ErrLayout", text, err)
		}
	}
}
