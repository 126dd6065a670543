//! The hops come in their order: in what the quickstart prints, and for one row.

use examples::hops::{Hop, Recorder, Seen, in_order};
use examples::lab::Lab;
use rusqlite::Connection;
use sync_client::Client;

use crate::{QUICKSTART, printed};

/// Hops as printed: `  12.3 ms  freeze   A   …`.
fn parse(text: &str) -> Vec<Seen> {
    let hop = |rest: &str| Hop::ALL.into_iter().find(|h| rest.starts_with(h.name()));
    let device = |rest: &str| ["A", "B"].into_iter().find(|d| rest.trim_start().starts_with(*d));
    text.lines()
        .filter_map(|line| {
            let (ms, rest) = line.split_once(" ms  ")?;
            let at = std::time::Duration::from_secs_f64(ms.trim().parse::<f64>().ok()? / 1e3);
            let hop = hop(rest)?;
            Some(Seen { at, device: device(&rest[hop.name().len()..])?, hop, text: rest.to_owned() })
        })
        .collect()
}

#[test]
fn the_quickstart_prints_them_in_order() {
    let text = printed(QUICKSTART, &["--notes", "200"]);
    let seen = parse(&text);
    assert!(seen.is_sorted_by_key(|s| s.at), "{text}");
    let way = [
        ("A", Hop::AppSql),
        ("A", Hop::Capture),
        ("A", Hop::Freeze),
        ("A", Hop::Push),
        ("A", Hop::Commit),
        ("B", Hop::Pull),
        ("B", Hop::Apply),
        ("B", Hop::Settle),
        ("B", Hop::Freeze),
        ("B", Hop::Push),
        ("A", Hop::Watch),
        ("A", Hop::Pull),
        ("A", Hop::Apply),
    ];
    in_order(&seen, &way).unwrap_or_else(|e| panic!("{e}\n{text}"));
    for hop in Hop::ALL {
        assert!(seen.iter().any(|s| s.hop == hop), "{} is missing:\n{text}", hop.name());
    }
}

#[test]
fn one_row_takes_each_hop_once_and_in_order() {
    const SCHEMA: &str = "CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, v REAL);";
    let lab = Lab::start(SCHEMA).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let recorder = Recorder::default();
    let open = |name: &'static str| -> Client {
        let file = dir.path().join(name);
        Connection::open(&file).unwrap().execute_batch(SCHEMA).unwrap();
        recorder.observe(name, &lab.url(), lab.device(&file)).unwrap().open().unwrap()
    };
    let (a, b) = (open("a"), open("b"));
    a.sync().unwrap();
    b.start().unwrap();
    recorder.wait_listening("b").unwrap();

    recorder.begin();
    Connection::open(dir.path().join("a")).unwrap().execute("INSERT INTO t VALUES ('x', 9e999)", []).unwrap();
    recorder.note("a", Hop::AppSql, String::new());
    assert_eq!(a.status().unwrap().pending_rows, 1);
    recorder.note("a", Hop::Capture, String::new());
    a.push().unwrap();
    recorder.wait_checkpoint("b", 1).unwrap();
    b.stop();

    let seen = recorder.seen();
    for (device, way) in [
        ("a", vec![Hop::AppSql, Hop::Capture, Hop::Freeze, Hop::Push, Hop::Commit]),
        ("b", vec![Hop::Watch, Hop::Pull, Hop::Apply]),
    ] {
        let hops: Vec<Hop> = seen.iter().filter(|s| s.device == device).map(|s| s.hop).collect();
        assert_eq!(hops, way, "{seen:#?}");
    }
    in_order(&seen, &[("a", Hop::Push), ("b", Hop::Watch)]).unwrap();
    let v: f64 =
        Connection::open(dir.path().join("b")).unwrap().query_row("SELECT v FROM t", [], |r| r.get(0)).unwrap();
    assert_eq!(v, f64::INFINITY);
}

#[test]
fn a_hop_out_of_turn_is_named() {
    let seen = |hop| Seen { at: std::time::Duration::ZERO, device: "A", hop, text: String::new() };
    let seen = [seen(Hop::Push), seen(Hop::Freeze)];
    let e = in_order(&seen, &[("A", Hop::Freeze), ("A", Hop::Push)]).unwrap_err();
    assert_eq!(e.to_string(), "the hop \"push\" of device A did not come in its turn");
}
