// An app in Node whose file is synced by `sync-client watch --stdin`.
//
//     node watch.mjs SYNC_CLIENT FILE
//
// FILE was made a synced one with `sync-client init`; SYNC_TOKEN holds the token. The app writes to FILE with whatever
// SQLite library it likes, in this process or in another one; here it only listens, and syncs once. What goes in and comes
// out is in sync-client/JSON.md.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";

const [client, file] = process.argv.slice(2);
const watch = spawn(client, ["watch", file, "--stdin"], { stdio: ["pipe", "pipe", "inherit"] });
const ended = once(watch, "exit");
const asked = new Map();
let requests = 0;

createInterface({ input: watch.stdout }).on("line", (line) => {
  const said = JSON.parse(line);
  if (said.event === "changed") {
    console.log("others changed", said.table, JSON.stringify(said.keys));
  }
  asked.get(said.request)?.(said);
  asked.delete(said.request);
});

function ask(command, more = {}) {
  const request = ++requests;
  watch.stdin.write(JSON.stringify({ command, request, ...more }) + "\n");
  return new Promise((answered) => asked.set(request, answered));
}

const synced = await ask("sync");
if (synced.error) {
  throw new Error(synced.error.message);
}
const { status } = await ask("status");
console.log("pending:", status.pending_rows, "received:", synced.report.pull.applied_rows);

watch.stdin.end(); // it ends with this program, also where this one is killed
const [code] = await ended;
process.exit(code);
