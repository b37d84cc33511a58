package wire

import (
	"fmt"

	"github.com/tinylib/msgp/msgp"
)

// The fields of a context that have no default, as bits.
const (
	contextInstance = 1 << iota
	contextModel
	contextWorld
	contextBlock
	contextLayers
	contextHidden
	contextDType
	contextMLA
	contextRequired = 1<<iota - 1
)

// decodeContext reads the map of a registration.
func decodeContext(frame []byte) (Context, error) {
	var c Context
	seen := 0
	rest, err := readFields(frame, func(name, b []byte) (rest []byte, err error) {
		switch string(name) {
		case "instance_id":
			seen |= contextInstance
			c.Instance, rest, err = msgp.ReadInt64Bytes(b)
		case "model_name":
			seen |= contextModel
			c.Model, rest, err = readText(b)
		case "world_size":
			seen |= contextWorld
			c.WorldSize, rest, err = readInt(b)
		case "block_size":
			seen |= contextBlock
			c.BlockSize, rest, err = readInt(b)
		case "num_layers":
			seen |= contextLayers
			c.Layers, rest, err = readInt(b)
		case "hidden_dim_size":
			seen |= contextHidden
			c.Hidden, rest, err = readInt(b)
		case "dtype_str":
			seen |= contextDType
			c.DType, rest, err = readText(b)
		case "use_mla":
			seen |= contextMLA
			c.MLA, rest, err = msgp.ReadBoolBytes(b)
		case "num_physical_slots":
			if msgp.IsNil(b) {
				c.PhysicalSlots = 0
				return b[1:], nil
			}
			if c.PhysicalSlots, rest, err = readInt(b); err == nil && c.PhysicalSlots <= 0 {
				err = errRange
			}
		default:
			err = errUnknownField
		}
		if err != nil && err != errUnknownField {
			err = fmt.Errorf("%s: %w", name, err)
		}
		return rest, err
	})
	switch {
	case err != nil || len(rest) > 0:
		return Context{}, malformed("context", frame, rest, err)
	case seen != contextRequired:
		return Context{}, fmt.Errorf("context: %w", invalid("a field is missing"))
	}
	return c, nil
}

// AppendContext appends c with the fields of release 0.5.6, in its order.
func AppendContext(b []byte, c *Context) []byte {
	b = msgp.AppendMapHeader(b, 9)
	b = msgp.AppendString(b, "instance_id")
	b = appendInt(b, c.Instance)
	b = msgp.AppendString(b, "model_name")
	b = msgp.AppendString(b, c.Model)
	b = msgp.AppendString(b, "world_size")
	b = appendInt(b, c.WorldSize)
	b = msgp.AppendString(b, "block_size")
	b = appendInt(b, c.BlockSize)
	b = msgp.AppendString(b, "num_layers")
	b = appendInt(b, c.Layers)
	b = msgp.AppendString(b, "hidden_dim_size")
	b = appendInt(b, c.Hidden)
	b = msgp.AppendString(b, "dtype_str")
	b = msgp.AppendString(b, c.DType)
	b = msgp.AppendString(b, "use_mla")
	b = msgp.AppendBool(b, c.MLA)
	b = msgp.AppendString(b, "num_physical_slots")
	if c.PhysicalSlots == 0 {
		return msgp.AppendNil(b)
	}
	return appendInt(b, c.PhysicalSlots)
}
