"""An app in Python whose file is synced by `sync-client watch --stdin`.

    python3 watch.py SYNC_CLIENT FILE

FILE has a table notes (id TEXT PRIMARY KEY NOT NULL, body TEXT) and was made a synced one with `sync-client init`;
SYNC_TOKEN holds the token. What goes in and comes out is in sync-client/JSON.md.
"""
import json
import sqlite3
import subprocess
import sys
import threading
import uuid

client, file = sys.argv[1:3]
watch = subprocess.Popen([client, "watch", file, "--stdin"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
answers, arrived = {}, threading.Condition()


def listen():
    for line in watch.stdout:
        said = json.loads(line)
        if said.get("event") == "changed":
            print("others changed", said["table"], said["keys"])
        if "request" in said:
            with arrived:
                answers[said["request"]] = said
                arrived.notify_all()


def ask(command, **more):
    request = str(uuid.uuid4())
    print(json.dumps({"command": command, "request": request, **more}), file=watch.stdin, flush=True)
    with arrived:
        arrived.wait_for(lambda: request in answers)
        return answers.pop(request)


threading.Thread(target=listen, daemon=True).start()
app = sqlite3.connect(file)  # the app's own connection, its own SQL
with app:
    app.execute("INSERT INTO notes (id, body) VALUES (?, 'from Python')", (str(uuid.uuid4()),))
synced = ask("sync")
assert "error" not in synced, synced["error"]
print("pending:", ask("status")["status"]["pending_rows"])
watch.stdin.close()  # it ends with this program, also where this one is killed
sys.exit(watch.wait())
