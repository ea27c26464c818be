// SPDX-License-Identifier: Apache-2.0

// Package rounds times cases against each other on machines that are not
// quiet: round by round, forwards and backwards in turn, so that what slows the
// machine for a while slows all of them.
package rounds

import "slices"

// Interleave takes each of n cases once a round, in the order 0 … n-1 in one
// round and n-1 … 0 in the next, and gives the values of each case by round.
// Values of the first warm rounds are thrown away. It ends early, with whole
// rounds, when more, if not nil, says no before a round; and at once on an
// error.
func Interleave[T any](n, warm, rounds int, more func() bool, take func(i int) (T, error)) ([][]T, error) {
	took := make([][]T, n)
	for r := range warm + rounds {
		if more != nil && !more() {
			return took, nil
		}
		values := make([]T, n)
		for k := range n {
			i := k
			if r%2 == 1 {
				i = n - 1 - k
			}
			v, err := take(i)
			if err != nil {
				return took, err
			}
			values[i] = v
		}
		if r < warm {
			continue
		}
		for i, v := range values {
			took[i] = append(took[i], v)
		}
	}
	return took, nil
}

// Median is the middle of the values, or the mean of both middles; 0 of none.
func Median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// Above is the median of the differences a-b round by round: what slowed a
// whole round is not in it. Rounds that one of both has not are left out.
func Above(a, b []float64) float64 {
	var d []float64
	for i := range min(len(a), len(b)) {
		d = append(d, a[i]-b[i])
	}
	return Median(d)
}
