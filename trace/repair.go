package trace

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/lmcache/lmcache-go/mmapio"
)

// Repair says what RepairNative, or lct.Repair, could do.
type Repair struct {
	Native  bool
	Whole   bool          // nothing was wrong with the file: it was sealed, or is upstream's, and is undamaged
	Kept    int64         // records of the file that are in the new one
	Ring    *RingRecovery // nil if there was no need to ask a ring
	Damage  []Damage      // in the order of the file
	Lost    int64         // records that are missing, as far as that can be known
	Dropped int64         // calls that the recorder gave up, by its own count
	Bytes   int64         // size of the new file
}

// Damage is a place where something is wrong with a file.
type Damage struct {
	From, To int64  // bytes of the file that are left out
	Field    string // as in CorruptError, "tail" for what follows the last whole frame, or "sequence" where calls are missing without damage
	Err      error
	// Missing calls, noticed here, have the numbers from FirstSeq on. Those that the
	// recorder dropped may be among them where its notice is lost. Upstream's
	// files number nothing: a malformed frame counts one.
	FirstSeq uint64
	Missing  uint64
	// Unreadable records, among the missing ones, are whole and refer to
	// something that is lost.
	Unreadable int64
}

// Records returns how many records the new file has.
func (r *Repair) Records() int64 {
	if r.Ring != nil {
		return r.Kept + r.Ring.Recovered
	}
	return r.Kept
}

// Complete reports whether every record that was committed is in the new file.
func (r *Repair) Complete() bool {
	return r.Lost == 0 && (r.Ring == nil || r.Ring.Err == nil && r.Ring.Unreadable == 0)
}

// ErrRecording says that a file is still being recorded.
var ErrRecording = errors.New("it is still being recorded")

// RepairNative makes a sealed native trace file at out of what is whole in the
// one at path, and of what its recorder's ring still holds if that was killed.
// Nothing at path is changed; a file at out is replaced, in one step.
//
// Frames go over as they are. Behind damage, calls of the same block that can
// still be understood are written anew, and drop notices say where calls are
// missing.
func RepairNative(path, out string) (*Repair, error) {
	if used, err := mmapio.InUse(path); err != nil {
		return nil, err
	} else if used {
		return nil, fmt.Errorf("repair %s: %w", path, ErrRecording)
	}
	file, guard, err := openNativeFile(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	rep := &Repair{Native: true, Whole: true}
	r, err := openDamaged(path, file, guard, rep)
	if err != nil {
		return nil, err
	}
	ring, err := r.deadRing()
	if errors.Is(err, mmapio.ErrInUse) {
		return nil, fmt.Errorf("repair %s: %w", path, ErrRecording)
	}
	if ring != nil {
		defer ring.Close()
	}
	if err != nil {
		rep.Ring = &RingRecovery{Path: r.header.RingPath, Err: err}
	}
	rep.Bytes, err = WriteNew(out, func(partial string) (size int64, err error) {
		h := *r.header
		h.RingPath = ""
		dst, err := mmapio.Create(partial, mmapio.AppenderOptions{HeadBytes: max(int(r.body), headSize(&h, 8))})
		if err != nil {
			return 0, err
		}
		w, err := newWriter(dst, &h, writerOptions{BlockBytes: blockBytes(&h)})
		if err != nil {
			return 0, errors.Join(err, dst.Close())
		}
		s := &salvage{r: r, w: w, ring: ring, rep: rep}
		fault := mmapio.Guard(func() { err = s.run() })
		if err = errors.Join(fault, err); err != nil {
			return 0, errors.Join(err, dst.Close())
		}
		return w.counters.end, nil
	})
	if err != nil {
		return nil, err
	}
	return rep, nil
}

// blockBytes returns the block size of h if this build can write it.
func blockBytes(h *Header) int64 {
	if _, err := (writerOptions{BlockBytes: h.BlockBytes}).withDefaults(); err != nil {
		return 0
	}
	return h.BlockBytes
}

// WriteNew lets write make a file beside path and then moves it there in one
// step, so that path never has half of it. It returns what write returns.
func WriteNew(path string, write func(partial string) (size int64, err error)) (size int64, err error) {
	partial := path + ".partial"
	if _, err := os.Lstat(partial); err == nil {
		return 0, fmt.Errorf("write %s: %s is in the way", path, partial)
	}
	size, err = write(partial)
	if err == nil {
		err = os.Rename(partial, path)
	}
	if err != nil {
		os.Remove(partial)
		return 0, err
	}
	return size, nil
}

// WriteText writes what a repair did, for people: path and out are shown as
// given.
func (r *Repair) WriteText(w io.Writer, path, out string) error {
	var b strings.Builder
	line := func(label, format string, args ...any) {
		fmt.Fprintf(&b, "  %-*s%s\n", labelWidth, label+":", fmt.Sprintf(format, args...))
	}
	fmt.Fprintf(&b, "Repaired: %s\n", path)
	line("written to", "%s, %d bytes", out, r.Bytes)
	line("records", "%d", r.Records())
	line("kept", "%d", r.Kept)
	if g := r.Ring; g != nil {
		switch {
		case g.Err != nil:
			line("from the ring", "%d; %v", g.Recovered, g.Err)
		default:
			line("from the ring", "%d, of %s", g.Recovered, g.Path)
		}
		if g.Unreadable > 0 {
			line("unreadable in it", "%d", g.Unreadable)
		}
		if g.Holes > 0 {
			line("not yet recorded", "%d calls had not returned when their process was killed", g.Holes)
		}
	}
	if r.Native {
		line("dropped", "%d, by the recorder's own count", r.Dropped)
	}
	line("lost", "%d", r.Lost)
	for _, d := range r.Damage {
		line("damage", "%s", d.text(r.Native))
	}
	if r.Whole {
		line("damage", "none: the file needed no repair")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (d *Damage) text(native bool) string {
	text := fmt.Sprintf("at offset %d", d.From)
	if d.To > d.From {
		text = fmt.Sprintf("offsets %d to %d", d.From, d.To)
	}
	text += fmt.Sprintf(": %s: %v", d.Field, d.Err)
	switch {
	case d.Missing == 0:
		return text + "; no record is missing"
	case !native:
		return text
	case d.Missing == 1:
		return text + fmt.Sprintf("; call %d is missing", d.FirstSeq)
	}
	return text + fmt.Sprintf("; %d calls are missing, from number %d on", d.Missing, d.FirstSeq)
}

// JSON returns the report for encoding/json: stable snake_case keys.
func (r *Repair) JSON() any {
	out := repairJSON{
		Native: r.Native, Whole: r.Whole, Complete: r.Complete(), Records: r.Records(), Kept: r.Kept,
		Lost: r.Lost, Bytes: r.Bytes, Damage: []damageJSON{},
	}
	if r.Native {
		out.Dropped = &r.Dropped
	}
	for _, d := range r.Damage {
		j := damageJSON{d.From, d.To, d.Field, d.Err.Error(), d.Missing, nil, d.Unreadable}
		if r.Native && d.Missing > 0 {
			j.FirstSeq = &d.FirstSeq
		}
		out.Damage = append(out.Damage, j)
	}
	if g := r.Ring; g != nil {
		out.Ring = &ringJSON{Path: g.Path, Recovered: g.Recovered, Moved: g.Moved, Holes: g.Holes, Unreadable: g.Unreadable}
		if g.Err != nil {
			out.Ring.Error = g.Err.Error()
		}
	}
	return out
}

type repairJSON struct {
	Native   bool         `json:"native"`
	Whole    bool         `json:"whole"`
	Complete bool         `json:"complete"`
	Records  int64        `json:"records"`
	Kept     int64        `json:"kept_records"`
	Lost     int64        `json:"lost_records"`
	Dropped  *int64       `json:"dropped_calls,omitempty"`
	Bytes    int64        `json:"size_bytes"`
	Ring     *ringJSON    `json:"ring,omitempty"`
	Damage   []damageJSON `json:"damage"`
}

type ringJSON struct {
	Path       string `json:"path"`
	Recovered  int64  `json:"recovered_records"`
	Moved      int64  `json:"moved_records"`
	Holes      int64  `json:"unfinished_calls"`
	Unreadable int64  `json:"unreadable_records"`
	Error      string `json:"error,omitempty"`
}

type damageJSON struct {
	From       int64   `json:"from_offset"`
	To         int64   `json:"to_offset"`
	Field      string  `json:"field"`
	Error      string  `json:"error"`
	Missing    uint64  `json:"missing_records"`
	FirstSeq   *uint64 `json:"first_missing,omitempty"`
	Unreadable int64   `json:"unreadable_records"`
}
