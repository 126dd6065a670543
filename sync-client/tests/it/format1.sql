-- A file as the first version of the client made it: one table, its log, and triggers that append to it.
CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, title TEXT);
CREATE TABLE _sync_meta (name TEXT PRIMARY KEY NOT NULL, value) WITHOUT ROWID;
CREATE TABLE _sync_table (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, columns TEXT NOT NULL,
  grown_from INTEGER);
CREATE TABLE _sync_dirty (t INTEGER NOT NULL, k BLOB NOT NULL, since INTEGER NOT NULL, base BLOB, held TEXT, message TEXT,
  PRIMARY KEY (t, k)) WITHOUT ROWID;
CREATE TABLE _sync_row (t INTEGER NOT NULL, k BLOB NOT NULL, v INTEGER NOT NULL, PRIMARY KEY (t, k)) WITHOUT ROWID;
CREATE TABLE _sync_outbox (state TEXT NOT NULL, source_id TEXT NOT NULL, source_bundle_id INTEGER NOT NULL,
  rows INTEGER NOT NULL, request_hash BLOB NOT NULL, bundle_seq INTEGER NOT NULL);
CREATE TABLE _sync_out (ordinal INTEGER PRIMARY KEY, t INTEGER NOT NULL, k BLOB NOT NULL, op INTEGER NOT NULL,
  base_version INTEGER NOT NULL, row BLOB, base BLOB, since INTEGER NOT NULL);
CREATE TABLE _sync_inbox (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, at INTEGER NOT NULL, tbl TEXT NOT NULL,
  key TEXT NOT NULL, op TEXT NOT NULL, reason TEXT NOT NULL, message TEXT NOT NULL, local_row TEXT, base_row TEXT,
  server_row TEXT);
CREATE TABLE _sync_history (seq INTEGER PRIMARY KEY, hash BLOB NOT NULL);
INSERT INTO _sync_meta VALUES ('format', 1), ('server', 'http://localhost'), ('wire_schema', 'main'),
  ('source_id', 'an-old-source'), ('next_source_bundle_id', 1), ('tables', '*');
INSERT INTO _sync_table VALUES (1, 't', '["id","title"]', NULL);
CREATE TABLE "_sync_log_1" (n INTEGER PRIMARY KEY, op, c0, c1);
CREATE TRIGGER "_sync_1_insert" AFTER INSERT ON "t" BEGIN INSERT INTO "_sync_log_1" (op, c0) VALUES (1, NEW."id"); END;
CREATE TRIGGER "_sync_1_update" AFTER UPDATE ON "t" BEGIN
  INSERT INTO "_sync_log_1" (op, c0, c1) VALUES (2, OLD."id", OLD."title"); END;
CREATE TRIGGER "_sync_1_rekey" AFTER UPDATE OF "id" ON "t" WHEN OLD."id" IS NOT NEW."id" BEGIN
  INSERT INTO "_sync_log_1" (op, c0) VALUES (1, NEW."id"); END;
CREATE TRIGGER "_sync_1_delete" AFTER DELETE ON "t" BEGIN
  INSERT INTO "_sync_log_1" (op, c0, c1) VALUES (3, OLD."id", OLD."title"); END;
CREATE TRIGGER "_sync_1_evict_update" BEFORE UPDATE OF "id" ON "t" BEGIN
  INSERT INTO "_sync_log_1" (op, c0, c1) SELECT 4, "id", "title" FROM "t" WHERE "id" = NEW."id" AND NOT ("id" IS OLD."id"); END;
INSERT INTO _sync_inbox (kind, at, tbl, key, op, reason, message, local_row)
  VALUES ('discarded', 0, 't', '{"id":"gone"}', 'UPDATE', 'server_wins', 'kept whole', '{"id":"gone","title":"x"}');
