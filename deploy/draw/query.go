package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"gonum.org/v1/plot/plotter"
)

// window is the time that is shown.
type window struct{ from, until time.Time }

// series is one line: x in seconds from the start of the window. Gaps are left
// out.
type series struct {
	name   string
	points plotter.XYs
}

// variables of the dashboard: all instances, and an interval of a few scrapes.
var variables = strings.NewReplacer("$__rate_interval", "5s", "$instance", ".*", "$run", ".*")

var placeholder = regexp.MustCompile(`\{\{\s*(\w+)\s*\}\}`)

// query asks for an expression over the window, every second. legend names the
// lines, as Grafana's does.
func query(server, expr, legend string, w window) ([]series, error) {
	resp, err := http.Get(server + "/api/v1/query_range?" + url.Values{
		"query": {variables.Replace(expr)}, "step": {"1"},
		"start": {strconv.FormatInt(w.from.Unix(), 10)}, "end": {strconv.FormatInt(w.until.Unix(), 10)},
	}.Encode())
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var answer struct {
		Error string
		Data  struct {
			Result []struct {
				Metric map[string]string
				Values [][2]any
			}
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return nil, fmt.Errorf("%s: %s: %w", server, resp.Status, err)
	}
	if answer.Error != "" {
		return nil, fmt.Errorf("%s: %s", expr, answer.Error)
	}
	instances := map[string]bool{}
	for _, r := range answer.Data.Result {
		instances[r.Metric["instance"]] = true
	}
	var list []series
	for _, r := range answer.Data.Result {
		s := series{name: strings.TrimSpace(placeholder.ReplaceAllStringFunc(legend, func(p string) string {
			label := placeholder.FindStringSubmatch(p)[1]
			if label == "instance" && len(instances) < 2 {
				return "" // there is nothing to tell apart
			}
			return r.Metric[label]
		}))}
		for _, v := range r.Values {
			at, isTime := v[0].(float64)
			text, _ := v[1].(string)
			y, err := strconv.ParseFloat(text, 64)
			if isTime && err == nil && y == y && y-y == 0 { // neither NaN nor infinite
				s.points = append(s.points, plotter.XY{X: at - float64(w.from.Unix()), Y: y})
			}
		}
		if len(s.points) > 0 {
			list = append(list, s)
		}
	}
	return list, nil
}
