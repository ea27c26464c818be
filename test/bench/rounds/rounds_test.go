// SPDX-License-Identifier: Apache-2.0

package rounds

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestInterleave(t *testing.T) {
	var order []string
	n := 0
	got, err := Interleave(3, 1, 2, nil, func(i int) (int, error) {
		order = append(order, fmt.Sprint(i))
		n++
		return n, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if o := strings.Join(order, " "); o != "0 1 2 2 1 0 0 1 2" {
		t.Errorf("order %s", o)
	}
	for i, want := range [][]int{{6, 7}, {5, 8}, {4, 9}} {
		if !slices.Equal(got[i], want) {
			t.Errorf("case %d: %v, want %v", i, got[i], want)
		}
	}
}

func TestInterleaveEnds(t *testing.T) {
	left := 3
	got, err := Interleave(2, 0, 9, func() bool { left--; return left >= 0 }, func(i int) (int, error) { return i, nil })
	if err != nil || len(got[0]) != 3 || len(got[1]) != 3 {
		t.Errorf("%v %v, want 3 whole rounds", got, err)
	}
	broken := errors.New("broken")
	if _, err := Interleave(2, 0, 9, nil, func(i int) (int, error) { return 0, broken }); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		v    []float64
		want float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1}, 5}, {[]float64{9, 1, 2}, 2}} {
		if got := Median(c.v); got != c.want {
			t.Errorf("%v: %v, want %v", c.v, got, c.want)
		}
	}
}

func TestAbove(t *testing.T) {
	// The second round was slow for both.
	if got := Above([]float64{5, 105, 6, 99}, []float64{4, 103, 5}); got != 1 {
		t.Errorf("got %v, want 1", got)
	}
	if got := Above(nil, []float64{1}); got != 0 {
		t.Errorf("of nothing: %v", got)
	}
}
