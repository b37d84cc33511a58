package main

import (
	"encoding/json"
	"fmt"
	"os"
)

// board is what draw needs of a dashboard.
type board struct {
	Title  string
	Panels []panel
}

type panel struct {
	Type, Title string // row, stat or timeseries
	GridPos     struct{ X, Y, W, H int }
	FieldConfig struct {
		Defaults struct {
			Unit     string
			Min, Max *float64
			Custom   struct {
				Stacking          struct{ Mode string }
				ScaleDistribution struct{ Type string }
			}
		}
	}
	Targets []target
}

type target struct {
	Expr, LegendFormat string

	series []series
}

func readBoard(path string) (*board, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	b := new(board)
	if err := json.Unmarshal(text, b); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return b, nil
}
