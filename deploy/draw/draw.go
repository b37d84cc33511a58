package main

import (
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"math"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	vgdraw "gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
)

// One cell of Grafana's grid, of which a dashboard is 24 wide.
const (
	cellWidth  = vg.Length(42)
	cellHeight = vg.Length(22)
	columns    = 24
)

var (
	palette = []color.Color{
		color.RGBA{0x1f, 0x77, 0xb4, 255}, color.RGBA{0xd9, 0x5f, 0x02, 255}, color.RGBA{0x2c, 0xa0, 0x2c, 255},
		color.RGBA{0xc2, 0x18, 0x5b, 255}, color.RGBA{0x75, 0x4e, 0xb0, 255}, color.RGBA{0x8c, 0x6d, 0x31, 255},
	}
	ink   = color.Gray{0x33}
	faint = color.Gray{0xdd}
)

// drawBoard writes the dashboard as a PNG.
func drawBoard(w io.Writer, b *board, at window) error {
	rows := 0
	for i := range b.Panels {
		rows = max(rows, b.Panels[i].GridPos.Y+b.Panels[i].GridPos.H)
	}
	img := vgimg.NewWith(vgimg.UseWH(columns*cellWidth, vg.Length(rows)*cellHeight), vgimg.UseDPI(84), vgimg.UseBackgroundColor(color.White))
	canvas := vgdraw.New(img)
	for i := range b.Panels {
		p := &b.Panels[i]
		place := vgdraw.Crop(canvas,
			vg.Length(p.GridPos.X)*cellWidth+6, -vg.Length(columns-p.GridPos.X-p.GridPos.W)*cellWidth-6,
			vg.Length(rows-p.GridPos.Y-p.GridPos.H)*cellHeight+4, -vg.Length(p.GridPos.Y)*cellHeight-4)
		switch p.Type {
		case "row":
			place.FillText(style(13, ink), vg.Point{X: place.Min.X, Y: place.Min.Y}, p.Title)
			place.StrokeLine2(vgdraw.LineStyle{Color: faint, Width: 1}, place.Min.X, place.Min.Y-3, place.Max.X, place.Min.Y-3)
		case "stat":
			drawStat(place, p)
		default:
			if err := drawGraph(place, p, at); err != nil {
				return fmt.Errorf("panel %q: %w", p.Title, err)
			}
		}
	}
	return (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(w, paletted(img.Image()))
}

// paletted returns the picture in its colours and their blends with white, which
// is all that edges are made of: a third of the bytes.
func paletted(m image.Image) image.Image {
	const blends = 16
	colors := color.Palette{color.White}
	for _, c := range append([]color.Color{ink, faint}, palette...) {
		r, g, b, _ := c.RGBA()
		for i := range blends {
			mix := func(v uint32) uint8 { return uint8((int(v>>8)*(blends-i) + 255*i) / blends) }
			colors = append(colors, color.RGBA{mix(r), mix(g), mix(b), 255})
		}
	}
	out := image.NewPaletted(m.Bounds(), colors)
	nearest := map[color.Color]uint8{} // few colours, many dots
	for y := m.Bounds().Min.Y; y < m.Bounds().Max.Y; y++ {
		for x := m.Bounds().Min.X; x < m.Bounds().Max.X; x++ {
			c := m.At(x, y)
			i, ok := nearest[c]
			if !ok {
				i = uint8(colors.Index(c))
				nearest[c] = i
			}
			out.SetColorIndex(x, y, i)
		}
	}
	return out
}

func style(size vg.Length, c color.Color) vgdraw.TextStyle {
	f := plot.DefaultFont
	f.Variant, f.Size = "Sans", size
	return vgdraw.TextStyle{Color: c, Font: f, Handler: plot.DefaultTextHandler, XAlign: text.XLeft, YAlign: text.YBottom}
}

// drawStat writes the last value of each line.
func drawStat(c vgdraw.Canvas, p *panel) {
	c.FillText(style(9, ink), vg.Point{X: c.Min.X, Y: c.Max.Y - 12}, p.Title)
	x := c.Min.X
	for _, t := range p.Targets {
		for _, s := range t.series {
			value := format(p.FieldConfig.Defaults.Unit, s.points[len(s.points)-1].Y)
			st := style(22, palette[0])
			c.FillText(st, vg.Point{X: x, Y: c.Min.Y + 22}, value)
			c.FillText(style(8, ink), vg.Point{X: x, Y: c.Min.Y + 8}, s.name)
			x += st.Width(value) + 16
		}
	}
}

// drawGraph draws the lines of a panel.
func drawGraph(c vgdraw.Canvas, p *panel, at window) error {
	d := &p.FieldConfig.Defaults
	g := plot.New()
	g.Title.Text, g.Title.TextStyle = p.Title, style(10, ink)
	g.Title.TextStyle.XAlign, g.Title.TextStyle.YAlign = text.XCenter, text.YTop
	for _, axis := range []*plot.Axis{&g.X, &g.Y} {
		axis.Tick.Label.Font.Size, axis.Tick.Label.Font.Variant = 7, "Sans"
		axis.Color, axis.Tick.Color, axis.Tick.Label.Color = faint, faint, ink
		axis.Padding = 0
	}
	g.Add(&plotter.Grid{Horizontal: vgdraw.LineStyle{Color: faint, Width: .5}})

	log := d.Custom.ScaleDistribution.Type == "log"
	low, high := math.Inf(1), math.Inf(-1)
	var stack map[float64]float64
	if d.Custom.Stacking.Mode == "normal" {
		stack = map[float64]float64{}
	}
	var lines []plot.Plotter
	var names []string
	n := 0
	for _, t := range p.Targets {
		for _, s := range t.series {
			points := s.points
			if stack != nil {
				points = append(plotter.XYs{}, points...)
				for i := range points {
					stack[points[i].X] += points[i].Y
					points[i].Y = stack[points[i].X]
				}
			}
			if log {
				points = positive(points)
			}
			if len(points) == 0 {
				continue
			}
			line, err := plotter.NewLine(points)
			if err != nil {
				return err
			}
			line.Color, line.Width = palette[n%len(palette)], 1
			if stack != nil {
				line.FillColor = palette[n%len(palette)]
			}
			n++
			for _, q := range points {
				low, high = min(low, q.Y), max(high, q.Y)
			}
			lines = append(lines, line)
			names = append(names, s.name)
		}
	}
	for i := len(lines) - 1; i >= 0; i-- { // of a stack the lower ones cover the upper
		g.Add(lines[i])
	}
	if n == 0 {
		low, high = 0, 1
		st := style(9, color.Gray{0x99})
		st.XAlign, st.YAlign = text.XCenter, text.YCenter
		defer func() { c.FillText(st, c.Center(), "nothing of it") }()
	}
	g.X.Min, g.X.Max = 0, at.until.Sub(at.from).Seconds()
	width := float64(c.Max.X - c.Min.X)
	g.X.Tick.Marker = plot.TickerFunc(func(lo, hi float64) []plot.Tick { return secondTicks(lo, hi, width/30) })
	g.Y.Min, g.Y.Max = low, high+(high-min(low, 0))/20
	if d.Min != nil {
		g.Y.Min = min(*d.Min, low)
	}
	if d.Max != nil {
		g.Y.Max = *d.Max
	}
	if g.Y.Max <= g.Y.Min {
		g.Y.Max = g.Y.Min + 1
	}
	if log {
		g.Y.Scale = plot.LogScale{}
		g.Y.Min, g.Y.Max = math.Pow(10, math.Floor(math.Log10(low))), math.Pow(10, math.Ceil(math.Log10(high)))
		if n == 0 {
			g.Y.Min, g.Y.Max = 1, 10
		}
		g.Y.Tick.Marker = plot.TickerFunc(func(lo, hi float64) (ticks []plot.Tick) {
			for v := lo; v <= hi*1.01; v *= 10 {
				ticks = append(ticks, plot.Tick{Value: v, Label: format(d.Unit, v)})
			}
			return ticks
		})
	} else {
		g.Y.Tick.Marker = plot.TickerFunc(func(lo, hi float64) []plot.Tick {
			ticks := plot.DefaultTicks{}.Ticks(lo, hi)
			for i := range ticks {
				if ticks[i].Label != "" {
					ticks[i].Label = format(d.Unit, ticks[i].Value)
				}
			}
			return ticks
		})
	}
	g.Draw(vgdraw.Crop(c, 0, 0, drawLegend(c, names), 0))
	return nil
}

// drawLegend writes the names of lines below a panel, and returns the height
// that it took.
func drawLegend(c vgdraw.Canvas, names []string) vg.Length {
	const lineHeight = vg.Length(10)
	st := style(7, ink)
	type entry struct {
		x    vg.Length
		line int
	}
	var places []entry
	at := entry{}
	for _, name := range names {
		width := 14 + st.Width(name) + 8
		if at.x > 0 && c.Min.X+at.x+width > c.Max.X {
			at = entry{line: at.line + 1}
		}
		places = append(places, at)
		at.x += width
	}
	if len(names) == 0 || len(names) == 1 && names[0] == "" {
		return 0
	}
	for i, p := range places {
		x, y := c.Min.X+p.x, c.Min.Y+vg.Length(at.line-p.line)*lineHeight
		c.StrokeLine2(vgdraw.LineStyle{Color: palette[i%len(palette)], Width: 2}, x, y+4, x+10, y+4)
		c.FillText(st, vg.Point{X: x + 13, Y: y}, names[i])
	}
	return vg.Length(at.line+1)*lineHeight + 2
}

// positive leaves out what a logarithmic axis cannot show.
func positive(points plotter.XYs) (out plotter.XYs) {
	for _, p := range points {
		if p.Y > 0 {
			out = append(out, p)
		}
	}
	return out
}

// secondTicks marks whole steps of time, at most so many.
func secondTicks(lo, hi, most float64) (ticks []plot.Tick) {
	step := 10.0
	for _, s := range []float64{10, 15, 30, 60, 120, 300, 600} {
		if step = s; (hi-lo)/s <= most {
			break
		}
	}
	for v := lo; v <= hi; v += step {
		ticks = append(ticks, plot.Tick{Value: v, Label: strconv.Itoa(int(v)) + " s"})
	}
	return ticks
}

// format prints a value in one of Grafana's units.
func format(unit string, v float64) string {
	short := func(v float64, base float64, suffixes ...string) string {
		i := 0
		for ; math.Abs(v) >= base && i < len(suffixes)-1; i++ {
			v /= base
		}
		return strconv.FormatFloat(v, 'g', 3, 64) + suffixes[i]
	}
	switch unit {
	case "percentunit":
		return strconv.FormatFloat(100*v, 'g', 3, 64) + "%"
	case "bytes":
		return short(v, 1024, " B", " KiB", " MiB", " GiB", " TiB")
	case "Bps":
		return short(v, 1000, " B/s", " kB/s", " MB/s", " GB/s", " TB/s")
	case "GBs":
		return short(v*1e9, 1000, " B/s", " kB/s", " MB/s", " GB/s", " TB/s")
	case "s":
		switch {
		case v == 0:
			return "0"
		case math.Abs(v) < 0.9999e-3:
			return strconv.FormatFloat(v*1e6, 'g', 3, 64) + " µs"
		case math.Abs(v) < 0.9999:
			return strconv.FormatFloat(v*1e3, 'g', 3, 64) + " ms"
		}
		return strconv.FormatFloat(v, 'g', 3, 64) + " s"
	case "ops":
		return short(v, 1000, "/s", "k/s", "M/s", "G/s")
	}
	if v == math.Trunc(v) && math.Abs(v) < 1e5 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return short(v, 1000, "", "k", "M", "G", "T")
}
