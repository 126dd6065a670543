package main

import (
	"encoding/base64"
	"fmt"
	"maps"
	"math"
	"math/rand"
	"slices"
)

// Characters that encoders treat in ways of their own.
var characters = []rune("aé/<>&\"\\'\b\f\n\r\t\x00\x01\x1f\x7f\u0085\u2028\u2029\u200d\ufeff\ufffd\ue000😀𝄞ß漢")

func text(r *rand.Rand) string {
	out := make([]rune, r.Intn(12))
	for i := range out {
		out[i] = characters[r.Intn(len(characters))]
	}
	return string(out)
}

// integer is one that the client reads from its file as a double.
func integer(r *rand.Rand) any {
	switch r.Intn(5) {
	case 0:
		return float64(1<<53) + float64(r.Intn(9)-4)
	case 1:
		return []any{float64(math.MaxInt64), float64(math.MinInt64), nil, 0.0, -1.0}[r.Intn(5)]
	case 2:
		return float64(r.Int63()) * float64(1-2*r.Intn(2))
	default:
		return float64(r.Intn(2000) - 1000)
	}
}

func real(r *rand.Rand) any {
	edges := []any{nil, 0.0, 1.0, 0.1, 1e20, 1e21, 1e-6, 1e-7, 1.234e-6, 5e-324, math.MaxFloat64, -math.MaxFloat64, 123456789012345680000.0}
	if r.Intn(2) == 0 {
		return edges[r.Intn(len(edges))]
	}
	for {
		f := math.Float64frombits(r.Uint64())
		if !math.IsNaN(f) && !math.IsInf(f, 0) {
			return f
		}
	}
}

func blob(r *rand.Rand) any {
	if r.Intn(4) == 0 {
		return nil
	}
	raw := make([]byte, r.Intn(20))
	r.Read(raw)
	return base64.StdEncoding.EncodeToString(raw)
}

func uuid(r *rand.Rand) string {
	var b [16]byte
	r.Read(b[:])
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// payload is a whole row of a table.
func payload(r *rand.Rand, table, id string) map[string]any {
	if table == "notes" {
		return map[string]any{"id": id, "title": text(r), "body": []any{nil, text(r)}[r.Intn(2)], "pinned": integer(r)}
	}
	return map[string]any{
		"id": id, "name": text(r), "note": text(r), "count_value": integer(r), "rating": real(r), "data": blob(r),
		"stars": float64(r.Intn(6)),
	}
}

func identity(r *rand.Rand, table string) string {
	if table == "notes" {
		return fmt.Sprintf("%s%d", text(r), r.Int63())
	}
	return uuid(r)
}

func sortedKeys[V any](m map[string]V) []string {
	return slices.Sorted(maps.Keys(m))
}
