package trace

import "slices"

// What a writer needs to take over frames of another file as they are. Their
// blocks get the numbers and offsets that they have here.

// copyBlock starts a block that holds the frames that follow the block start h
// of another file.
func (w *writer) copyBlock(h *frameHeader, firstSeq uint64) error {
	w.restart = true // none of its definitions is known to this writer
	return w.timed(h, func() error { return w.startBlock(firstSeq) })
}

// copyFrame appends the frame h with its payload to a copied block.
func (w *writer) copyFrame(h *frameHeader, payload []byte) error {
	return w.timed(h, func() error {
		w.call = append(w.call[:frameStart], payload...)
		return w.emitFlags(h.kind, h.op, h.flags&(1<<blockShift-1), w.call)
	})
}

// timed lets emit write a frame with the times of h. Those of the last call stay
// what they are: a drop notice has them.
func (w *writer) timed(h *frameHeader, emit func() error) error {
	callMono, callWall := w.monoNS, w.wallNS
	w.monoNS, w.wallNS = h.monoNS, h.wallNS
	err := emit()
	w.monoNS, w.wallNS = callMono, callWall
	return err
}

// copyCall is copyFrame for a call.
func (w *writer) copyCall(h *frameHeader, payload []byte, rec *Record) error {
	row, f := rec.Op.Row(), (*foreignOp)(nil)
	if rec.Row != nil || rec.Op == OpUnknown {
		own := Row{Qualname: rec.Qualname} // its arguments are not known
		if rec.Row != nil {
			own = *rec.Row
		}
		var err error
		if f, err = w.foreignOp(&own); err != nil {
			return err
		}
	}
	if err := w.copyFrame(h, payload); err != nil {
		return err
	}
	w.monoNS, w.wallNS = h.monoNS, h.wallNS
	w.count(row, f, rec.Seq)
	return nil
}

// copyOutcome is copyFrame for the outcome o, nil if it is not understood.
func (w *writer) copyOutcome(h *frameHeader, payload []byte, o *OutcomeRecord) error {
	err := w.copyFrame(h, payload)
	if err == nil && o != nil {
		w.addOutcome(o)
	}
	return err
}

// addOutcome adds o to the footer's sums. Those of operations that are not in
// the schema have no place there.
func (w *writer) addOutcome(o *OutcomeRecord) {
	if o.Op != OpUnknown {
		w.outcomes[o.Op].Add(o)
	}
}

// OutcomeRecord appends an outcome that another file has. It reports false if
// that is not one of this build's operations, or counts other things.
func (w *writer) OutcomeRecord(o *OutcomeRecord) (ok bool, err error) {
	row := o.Op.Row()
	if o.Op == OpUnknown || !slices.Equal(o.Names, row.Counts) || len(o.Bits) > MaxOutcomeBits {
		return false, nil
	}
	out := Outcome{Failed: o.Failed}
	for i, n := range o.Counts {
		out.Counts[i] = uint32(n)
	}
	for i, b := range o.Bits {
		out.Bits[i] = Bits{Words: b.Words(), N: b.Len()}
	}
	return true, w.Outcome(o.Op, o.Seq, o.MonoNS, o.WallNS, o.DurationNS, &out)
}
