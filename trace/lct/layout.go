package lct

import (
	"errors"
	"fmt"

	"github.com/lmcache/lmcache-go/internal/pyfmt"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/tinylib/msgp/msgp"
)

// layoutReader decodes memory layouts. A trace repeats a few: they are found
// again by their encoded bytes.
type layoutReader struct {
	known map[string]kv.Layout // by encoded payload
}

// maxLayouts bounds the cache; what is not in it is decoded.
const maxLayouts = 1024

// read decodes a wrapped MemoryLayoutDesc.
func (d *layoutReader) read(b []byte) (l kv.Layout, rest []byte, err error) {
	b, after, err := codec(b, tagLayout)
	if err != nil {
		return 0, nil, err
	}
	if rest, err = msgp.Skip(b); err != nil {
		return 0, nil, err
	}
	payload := b[:len(b)-len(rest)]
	if after != nil {
		rest = after
	}
	if l, ok := d.known[string(payload)]; ok {
		return l, rest, nil
	}
	desc, err := layoutDesc(payload)
	if err != nil {
		return 0, nil, err
	}
	if l, err = kv.InternLayout(desc); err != nil {
		return 0, nil, err
	}
	if d.known == nil || len(d.known) >= maxLayouts {
		d.known = map[string]kv.Layout{}
	}
	d.known[string(payload)] = l
	return l, rest, nil
}

func layoutDesc(b []byte) (desc kv.LayoutDesc, err error) {
	n, b, err := fields(b)
	var shapes, dtypes bool
	for i := uint32(0); i < n && err == nil; i++ {
		var name []byte
		if name, b, err = mapKey(b); err != nil {
			break
		}
		switch string(name) {
		case "shapes":
			shapes = true
			desc.Shapes, b, err = readShapes(b)
		case "dtypes":
			dtypes = true
			desc.DTypes, b, err = readDTypes(b)
		default:
			b, err = msgp.Skip(b)
		}
	}
	switch {
	case err != nil:
	case !shapes:
		err = errors.New("missing shapes")
	case !dtypes:
		err = errors.New("missing dtypes")
	}
	return desc, err
}

func readShapes(b []byte) (shapes [][]int64, rest []byte, err error) {
	n, b, after, err := list(b)
	for i := uint32(0); i < n && err == nil; i++ {
		m, elems, inner, e := list(b)
		var shape []int64
		for j := uint32(0); j < m && e == nil; j++ {
			var v int64
			v, elems, e = readInt(elems)
			shape = append(shape, v)
		}
		if b, err = elems, e; inner != nil {
			b = inner
		}
		shapes = append(shapes, shape)
	}
	if after != nil {
		b = after
	}
	return shapes, b, err
}

func readDTypes(b []byte) (types []kv.DType, rest []byte, err error) {
	n, b, after, err := list(b)
	for i := uint32(0); i < n && err == nil; i++ {
		var name []byte
		if name, b, err = readStr(b); err != nil {
			break
		}
		t, ok := kv.ParseDType(string(name))
		if !ok {
			return nil, nil, fmt.Errorf("trace.codecs: unknown torch dtype %s", pyfmt.Repr(string(name)))
		}
		types = append(types, t)
	}
	if after != nil {
		b = after
	}
	return types, b, err
}
