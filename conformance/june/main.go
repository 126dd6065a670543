// Command june speaks to a server as the public Go client of the June dialect does: its requests, its checks of the
// replies, and Go's own JSON for the bundle hash. It is not that client, only what the client's behaviour asks of a
// server; it needs nothing but the standard library.
//
// usage: june URL TOKEN-PREFIX SEEDS
package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand"
	"os"
	"reflect"
	"strconv"
	"strings"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: june URL TOKEN-PREFIX SEEDS")
		os.Exit(2)
	}
	seeds, err := strconv.Atoi(os.Args[3])
	if err != nil || seeds < 1 {
		fmt.Fprintln(os.Stderr, "SEEDS is a number of 1 or more")
		os.Exit(2)
	}
	var bundles, rows int
	for seed := 1; seed <= seeds; seed++ {
		p := &play{
			rand:   rand.New(rand.NewSource(int64(seed))),
			device: newDevice(strings.TrimRight(os.Args[1], "/"), fmt.Sprintf("%s%d", os.Args[2], seed), "june"),
			state:  map[string]known{},
		}
		if err := p.run(); err != nil {
			fmt.Fprintf(os.Stderr, "seed %d: %v\n", seed, err)
			os.Exit(1)
		}
		bundles, rows = bundles+len(p.history), rows+p.rows
	}
	fmt.Printf("june: %d bundles with %d rows passed, of %d seeds\n", bundles, rows, seeds)
}

// known is a row as the server is known to have it.
type known struct {
	table, id string
	version   int64
	payload   map[string]any
}

type play struct {
	rand    *rand.Rand
	device  *Device
	state   map[string]known
	history []Bundle
	rows    int
}

const pushes, chunkRows, pageRows, pullBundles = 12, 7, 5, 3

func (p *play) run() error {
	var capabilities struct {
		Features map[string]bool `json:"features"`
	}
	if err := p.device.call("GET", "/sync/capabilities", nil, &capabilities); err != nil {
		return err
	}
	if !capabilities.Features["connect_lifecycle"] {
		return fmt.Errorf("connect_lifecycle is not offered")
	}
	var connected struct {
		Resolution       string `json:"resolution"`
		InitializationID string `json:"initialization_id"`
	}
	if err := p.device.call("POST", "/sync/connect", map[string]any{"has_local_pending_rows": true}, &connected); err != nil {
		return err
	}
	if connected.Resolution != "initialize_local" || connected.InitializationID == "" {
		return fmt.Errorf("a new scope answers %+v", connected)
	}
	for n := int64(1); n <= pushes; n++ {
		if err := p.push(n, connected.InitializationID); err != nil {
			return fmt.Errorf("push %d: %w", n, err)
		}
		connected.InitializationID = ""
	}
	if err := p.pull(); err != nil {
		return fmt.Errorf("pull: %w", err)
	}
	if err := p.snapshot(); err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	return nil
}

// edits makes the rows of a push, upserts before deletes.
func (p *play) edits() []Row {
	var upserts, deletes []Row
	touched := map[string]bool{}
	add := func(op, table, id string, base int64) {
		row := Row{Schema: "main", Table: table, Key: map[string]any{"id": id}, Op: op, BaseVersion: base}
		if op == "DELETE" {
			deletes = append(deletes, row)
			return
		}
		row.Payload, _ = json.Marshal(payload(p.rand, table, id))
		upserts = append(upserts, row)
	}
	for range 4 + p.rand.Intn(12) {
		table := []string{"notes", "typed_rows"}[p.rand.Intn(2)]
		add("INSERT", table, identity(p.rand, table), 0)
	}
	for _, name := range sortedKeys(p.state) {
		row := p.state[name]
		if touched[name] || p.rand.Intn(6) != 0 {
			continue
		}
		touched[name] = true
		add([]string{"UPDATE", "UPDATE", "DELETE"}[p.rand.Intn(3)], row.table, row.id, row.version)
	}
	return append(upserts, deletes...)
}

func (p *play) push(n int64, lease string) error {
	rows := p.edits()
	create := map[string]any{"source_bundle_id": n, "planned_row_count": len(rows)}
	if lease != "" {
		create["initialization_id"] = lease
	}
	var session struct {
		Status                 string `json:"status"`
		PushID                 string `json:"push_id"`
		PlannedRowCount        int64  `json:"planned_row_count"`
		NextExpectedRowOrdinal int64  `json:"next_expected_row_ordinal"`
	}
	if err := p.device.call("POST", "/sync/push-sessions", create, &session); err != nil {
		return err
	}
	if session.Status != "staging" || session.PlannedRowCount != int64(len(rows)) || session.NextExpectedRowOrdinal != 0 {
		return fmt.Errorf("create answers %+v", session)
	}
	at := "/sync/push-sessions/" + session.PushID
	for start := 0; start < len(rows); start += chunkRows {
		end := min(start+chunkRows, len(rows))
		var taken struct {
			PushID                 string `json:"push_id"`
			NextExpectedRowOrdinal int64  `json:"next_expected_row_ordinal"`
		}
		chunk := map[string]any{"start_row_ordinal": start, "rows": rows[start:end]}
		if err := p.device.call("POST", at+"/chunks", chunk, &taken); err != nil {
			return err
		}
		if taken.PushID != session.PushID || taken.NextExpectedRowOrdinal != int64(end) {
			return fmt.Errorf("a chunk answers %+v", taken)
		}
	}
	var committed, again Bundle
	if err := p.device.call("POST", at+"/commit", nil, &committed); err != nil {
		return err
	}
	if committed.BundleSeq != n || committed.SourceID != p.device.source || committed.SourceBundleID != n {
		return fmt.Errorf("commit answers %+v", committed)
	}
	// As after a lost reply; with the lease, as the client remembers it.
	if err := p.device.call("POST", "/sync/push-sessions", create, &again); err != nil {
		return err
	}
	if again.Status != "already_committed" || again.head() != committed.head() {
		return fmt.Errorf("the same push again answers %+v, after %+v", again, committed)
	}
	bundle, err := p.committedRows(committed)
	if err != nil {
		return err
	}
	if err := sameRows(rows, bundle.Rows); err != nil {
		return err
	}
	for _, row := range bundle.Rows {
		name := row.Table + "\x00" + row.Key["id"].(string)
		if row.Op == "DELETE" {
			delete(p.state, name)
			continue
		}
		var sent map[string]any
		if err := json.Unmarshal(row.Payload, &sent); err != nil {
			return err
		}
		p.state[name] = known{row.Table, row.Key["id"].(string), row.RowVersion, sent}
	}
	p.history, p.rows = append(p.history, bundle), p.rows+len(rows)
	return nil
}

// committedRows fetches a bundle page by page and proves it by its hash.
func (p *play) committedRows(committed Bundle) (Bundle, error) {
	whole, after := committed, int64(-1)
	for {
		path := fmt.Sprintf("/sync/committed-bundles/%d/rows?max_rows=%d", committed.BundleSeq, pageRows)
		if after >= 0 {
			path += fmt.Sprintf("&after_row_ordinal=%d", after)
		}
		var page Bundle
		if err := p.device.call("GET", path, nil, &page); err != nil {
			return whole, err
		}
		if page.head() != committed.head() || page.NextRowOrdinal != after+int64(len(page.Rows)) || len(page.Rows) == 0 {
			return whole, fmt.Errorf("a page after %d answers %+v", after, page)
		}
		whole.Rows, after = append(whole.Rows, page.Rows...), page.NextRowOrdinal
		if !page.HasMore {
			return whole, proven(whole)
		}
	}
}

// pull reads the history again and compares it with what the pushes brought.
func (p *play) pull() error {
	var after, target int64
	for {
		path := fmt.Sprintf("/sync/pull?after_bundle_seq=%d&max_bundles=%d", after, pullBundles)
		if target > 0 {
			path += fmt.Sprintf("&target_bundle_seq=%d", target)
		}
		var page struct {
			Stable  int64    `json:"stable_bundle_seq"`
			Bundles []Bundle `json:"bundles"`
			HasMore bool     `json:"has_more"`
		}
		if err := p.device.call("GET", path, nil, &page); err != nil {
			return err
		}
		if page.Stable != pushes || len(page.Bundles) == 0 {
			return fmt.Errorf("after %d: stable is %d, %d bundles", after, page.Stable, len(page.Bundles))
		}
		target = page.Stable
		for _, bundle := range page.Bundles {
			if after++; bundle.BundleSeq != after || bundle.head() != p.history[after-1].head() {
				return fmt.Errorf("bundle %d is %+v", after, bundle)
			}
			if err := proven(bundle); err != nil {
				return err
			}
			if err := sameRows(p.history[after-1].Rows, bundle.Rows); err != nil {
				return err
			}
		}
		if !page.HasMore {
			if after != target {
				return fmt.Errorf("it ends at %d of %d", after, target)
			}
			return nil
		}
	}
}

// snapshot reads all rows and compares them with what the history leaves.
func (p *play) snapshot() error {
	var session struct {
		ID       string `json:"snapshot_id"`
		Seq      int64  `json:"snapshot_bundle_seq"`
		RowCount int64  `json:"row_count"`
	}
	if err := p.device.call("POST", "/sync/snapshot-sessions", nil, &session); err != nil {
		return err
	}
	if session.Seq != pushes || session.RowCount != int64(len(p.state)) {
		return fmt.Errorf("%+v, with %d rows known", session, len(p.state))
	}
	for after := int64(0); ; {
		var page Bundle
		path := fmt.Sprintf("/sync/snapshot-sessions/%s?after_row_ordinal=%d&max_rows=%d", session.ID, after, pageRows)
		if err := p.device.call("GET", path, nil, &page); err != nil {
			return err
		}
		if page.NextRowOrdinal != after+int64(len(page.Rows)) {
			return fmt.Errorf("a page after %d answers %+v", after, page)
		}
		after = page.NextRowOrdinal
		for _, row := range page.Rows {
			name := row.Table + "\x00" + row.Key["id"].(string)
			was, found := p.state[name]
			var payload map[string]any
			if err := json.Unmarshal(row.Payload, &payload); err != nil {
				return err
			}
			if !found || was.version != row.RowVersion || !reflect.DeepEqual(was.payload, payload) {
				return fmt.Errorf("row %q is %+v %v, was %+v", name, row, payload, was)
			}
			delete(p.state, name)
		}
		if !page.HasMore {
			if len(p.state) > 0 {
				return fmt.Errorf("%d rows are missing", len(p.state))
			}
			return nil
		}
	}
}

// proven checks a bundle's hash: Go reads every number as a double and writes what it read.
func proven(b Bundle) error {
	rows := make([]any, 0, len(b.Rows))
	for ordinal, row := range b.Rows {
		if row.RowVersion != b.BundleSeq {
			return fmt.Errorf("row %d has version %d in bundle %d", ordinal, row.RowVersion, b.BundleSeq)
		}
		var payload any
		if row.Op != "DELETE" {
			if err := json.Unmarshal(row.Payload, &payload); err != nil {
				return err
			}
		}
		rows = append(rows, map[string]any{
			"row_ordinal": ordinal, "schema": row.Schema, "table": row.Table, "key": row.Key, "op": row.Op,
			"row_version": row.RowVersion, "payload": payload,
		})
	}
	text, err := json.Marshal(rows)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(text)
	if found := hex.EncodeToString(sum[:]); found != b.BundleHash || int64(len(b.Rows)) != b.RowCount {
		return fmt.Errorf("bundle %d with %d rows has hash %s, not %s: %s", b.BundleSeq, len(b.Rows), found, b.BundleHash, text)
	}
	return nil
}

// sameRows is the client's proof that a bundle is what it sent: in any order, as doubles.
func sameRows(sent, came []Row) error {
	byKey := map[string]Row{}
	for _, row := range came {
		byKey[fmt.Sprint(row.Table, row.Key)] = row
	}
	for _, row := range sent {
		other, found := byKey[fmt.Sprint(row.Table, row.Key)]
		var a, b any
		if row.Op != "DELETE" && found && other.Op == row.Op {
			if err := json.Unmarshal(row.Payload, &a); err != nil {
				return err
			}
			if err := json.Unmarshal(other.Payload, &b); err != nil {
				return err
			}
		}
		if !found || other.Op != row.Op || !reflect.DeepEqual(a, b) {
			return fmt.Errorf("%s of %s %v was %s and is %s", row.Op, row.Table, row.Key, row.Payload, other.Payload)
		}
	}
	if len(byKey) != len(sent) {
		return fmt.Errorf("%d rows became %d", len(sent), len(byKey))
	}
	return nil
}
