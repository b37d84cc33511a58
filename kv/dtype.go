package kv

import "strings"

// DType is an element type of PyTorch. The zero DType is no type.
type DType uint8

// dtypeTable lists the types by name without the prefix "torch.". Its order is
// not stored anywhere: files carry names.
//
// Source: reference lct-v1.md, section 2.4.
var dtypeTable = []struct {
	name string
	size int
}{
	{"", 0},
	{"float64", 8}, {"float32", 4}, {"float16", 2}, {"bfloat16", 2},
	{"float8_e4m3fn", 1}, {"float8_e5m2", 1}, {"float8_e4m3fnuz", 1}, {"float8_e5m2fnuz", 1}, {"float8_e8m0fnu", 1},
	{"complex32", 4}, {"complex64", 8}, {"complex128", 16},
	{"int64", 8}, {"int32", 4}, {"int16", 2}, {"int8", 1},
	{"uint64", 8}, {"uint32", 4}, {"uint16", 2}, {"uint8", 1}, {"bool", 1},
	{"bcomplex32", 4}, {"float4_e2m1fn_x2", 1},
	{"int1", 1}, {"int2", 1}, {"int3", 1}, {"int4", 1}, {"int5", 1}, {"int6", 1}, {"int7", 1},
	{"uint1", 1}, {"uint2", 1}, {"uint3", 1}, {"uint4", 1}, {"uint5", 1}, {"uint6", 1}, {"uint7", 1},
	{"bits8", 1}, {"bits16", 2}, {"bits1x8", 1}, {"bits2x4", 1}, {"bits4x2", 1},
	{"qint8", 1}, {"qint32", 4}, {"quint8", 1}, {"quint2x4", 1}, {"quint4x2", 1},
}

var dtypeByName = func() map[string]DType {
	m := make(map[string]DType, len(dtypeTable))
	for i, d := range dtypeTable[1:] {
		m[d.name] = DType(i + 1)
	}
	return m
}()

// ParseDType returns the type called name, with or without the prefix
// "torch."; ok is false for a name that PyTorch does not have.
func ParseDType(name string) (d DType, ok bool) {
	d, ok = dtypeByName[strings.TrimPrefix(name, "torch.")]
	return d, ok
}

// Size returns the bytes of one element.
func (d DType) Size() int { return dtypeTable[d].size }

// String returns the name as Python prints it, with the prefix "torch.".
func (d DType) String() string { return "torch." + dtypeTable[d].name }
