package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Row is a row on the wire, in either direction.
type Row struct {
	Schema      string          `json:"schema"`
	Table       string          `json:"table"`
	Key         map[string]any  `json:"key"`
	Op          string          `json:"op,omitempty"`
	BaseVersion int64           `json:"base_row_version,omitempty"`
	RowVersion  int64           `json:"row_version,omitempty"`
	Payload     json.RawMessage `json:"payload,omitempty"`
}

// Bundle is a commit's reply, a bundle of a pull, or a page of a committed bundle.
type Bundle struct {
	Status         string `json:"status"`
	BundleSeq      int64  `json:"bundle_seq"`
	SourceID       string `json:"source_id"`
	SourceBundleID int64  `json:"source_bundle_id"`
	RowCount       int64  `json:"row_count"`
	BundleHash     string `json:"bundle_hash"`
	Rows           []Row  `json:"rows"`
	NextRowOrdinal int64  `json:"next_row_ordinal"`
	HasMore        bool   `json:"has_more"`
}

func (b Bundle) head() string {
	return fmt.Sprint(b.BundleSeq, b.SourceID, b.SourceBundleID, b.RowCount, b.BundleHash)
}

// Device is one source of one user. It knows nothing of what the server adds to the dialect.
type Device struct {
	base, token, source string
	http                http.Client
}

func newDevice(base, token, source string) *Device {
	return &Device{base: base, token: token, source: source, http: http.Client{Timeout: 30 * time.Second}}
}

// call sends a request and decodes its reply, which must be a 200.
func (d *Device) call(method, path string, body, reply any) error {
	var in io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return err
		}
		in = bytes.NewReader(raw)
	}
	request, err := http.NewRequest(method, d.base+path, in)
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+d.token)
	request.Header.Set("Oversync-Source-ID", d.source)
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := d.http.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: status %d: %s", method, path, response.StatusCode, raw)
	}
	return json.Unmarshal(raw, reply)
}
