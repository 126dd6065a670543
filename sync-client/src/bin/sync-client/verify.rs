//! `verify`, `compare`: which rows differ, and what was done about it.

use std::sync::Arc;

use sync_client::{CompareReport, Difference, Kind, Remedy, Repair, VerifyReport};

use crate::{
    args,
    file::{self, Opened},
    output::{Done, Failure, Output},
    progress::Progress,
    text::{key, printable, rows, shell, table, thousands},
    token::Source,
};

pub(crate) fn verify(args: &args::Verify, out: Output) -> Result<Done, Failure> {
    let work = &args.work;
    file::must_exist(&work.file)?;
    let source = Source::require(work.token.given.as_deref(), &work.file)?;
    let progress = Arc::new(Progress::new(out));
    let shown = Arc::clone(&progress);
    let opened = Opened::new(&work.file, source, &work.rules, &work.wait, move |event| shown.show(event))?;
    let repair = match args.repair {
        None => Repair::No,
        Some(args::Repair::Server) => Repair::FromServer,
        Some(args::Repair::File) => Repair::FromFile,
    };
    let outcome = opened.run(|client| client.verify(repair));
    progress.clear();
    let report = outcome.map_err(|failure| failure.when_offline("`sync-client compare` needs no server."))?;
    let command = format!("sync-client verify {}", shell(&work.file.to_string_lossy()));
    out.result(&report, || verified(&report, repair, &command));
    Ok(Done::with_rejected(report.unrepaired_rows()))
}

pub(crate) fn compare(args: &args::Compare, out: Output) -> Result<Done, Failure> {
    file::must_exist(&args.first)?;
    file::must_exist(&args.second)?;
    let report = sync_client::compare_files(&args.first, &args.second)?;
    let names = [&args.first, &args.second].map(|p| p.display().to_string());
    out.result(&report, || compared(&report, &names));
    Ok(Done::with_rejected(u64::from(!report.is_same())))
}

fn verified(report: &VerifyReport, repair: Repair, command: &str) -> String {
    let at = format!("bundle {}", thousands(report.bundle_seq.unsigned_abs()));
    let all = rows(report.compared_rows);
    let mut lines = Vec::new();
    if report.differing_rows == 0 {
        lines.push(format!("Compared {all} with the server's at {at}: no difference."));
    } else {
        let cells: Vec<Vec<String>> = report.differences.iter().map(|d| cells(d, "the server", "this file")).collect();
        lines.push(table(&["TABLE", "KEY", "DIFFERENCE", "DONE"], &cells));
        lines.extend(unnamed(report.differing_rows, report.differences.len()));
        let (differing, repaired) = (thousands(report.differing_rows), thousands(report.repaired_rows));
        lines.push(match repair {
            Repair::No => format!(
                "{differing} of {all} differ from the server's at {at}. `{command} --repair server` takes the server's \
                 and keeps yours in `discarded`; `--repair file` sends yours."
            ),
            _ => format!("{differing} of {all} differed from the server's at {at}; {repaired} repaired."),
        });
    }
    if report.left_out_rows > 0 {
        let left_out = rows(report.left_out_rows);
        lines.push(format!("Left out: {left_out} that wait to be sent or for a person, or are newer."));
    }
    if !report.skipped_tables.is_empty() {
        lines.push(format!("Not on the server, or held back: {}.", report.skipped_tables.join(", ")));
    }
    lines.join("\n")
}

fn compared(report: &CompareReport, [first, second]: &[String; 2]) -> String {
    let mut lines = Vec::new();
    if !report.differences.is_empty() {
        // What was done is nothing here.
        let cells: Vec<Vec<String>> =
            report.differences.iter().map(|d| cells(d, second, first)[..3].to_vec()).collect();
        lines.push(table(&["TABLE", "KEY", "DIFFERENCE"], &cells));
        lines.extend(unnamed(report.differing_rows, report.differences.len()));
    }
    for (tables, what) in [
        (&report.only_in_first, format!("Only {first} has")),
        (&report.only_in_second, format!("Only {second} has")),
        (&report.other_keys, "Not compared, since their keys have other columns:".to_owned()),
    ] {
        if !tables.is_empty() {
            lines.push(format!("{what} {}.", printable(&tables.join(", "))));
        }
    }
    let all = rows(report.compared_rows);
    lines.push(match report.differing_rows {
        0 => format!("Compared {all}: no difference."),
        n => format!("{} of {all} differ.", thousands(n)),
    });
    if report.left_out_rows > 0 {
        let left_out = rows(report.left_out_rows);
        lines.push(format!("Left out: {left_out} that one file has not synced yet."));
    }
    lines.join("\n")
}

fn cells(d: &Difference, there: &str, here: &str) -> Vec<String> {
    let difference = match d.kind {
        Kind::Missing => format!("only {there} has it"),
        Kind::Extra => format!("only {here} has it"),
        Kind::Different => d.columns.join(", "),
    };
    let done = match d.remedy {
        Remedy::None => "",
        Remedy::FromServer => "taken from the server",
        Remedy::FromFile => "goes with the next sync",
        Remedy::Again => "nothing: it differs again after a repair",
        Remedy::Refused => "nothing: this file cannot take the server's",
        Remedy::Overtaken => "nothing: it changed meanwhile",
    };
    vec![d.table.clone(), printable(&key(&d.key)), printable(&difference), done.to_owned()]
}

fn unnamed(differing: u64, named: usize) -> Option<String> {
    let more = differing.saturating_sub(named as u64);
    (more > 0).then(|| format!("… and {} more", thousands(more)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said() {
        let mut report = VerifyReport { bundle_seq: 7, compared_rows: 1200, ..VerifyReport::default() };
        assert_eq!(
            verified(&report, Repair::No, "v"),
            "Compared 1,200 rows with the server's at bundle 7: no difference."
        );
        let difference = |kind, columns: &[&str], remedy| Difference {
            table: "notes".into(),
            key: r#"{"id":"n1"}"#.into(),
            kind,
            columns: columns.iter().map(|c| (*c).to_owned()).collect(),
            remedy,
        };
        report.differences = vec![
            difference(Kind::Different, &["body", "due"], Remedy::FromServer),
            difference(Kind::Missing, &[], Remedy::Again),
        ];
        (report.differing_rows, report.repaired_rows, report.left_out_rows) = (3, 1, 2);
        let text = verified(&report, Repair::FromServer, "v");
        for part in [
            "notes  n1   body, due               taken from the server",
            "notes  n1   only the server has it  nothing: it differs again after a repair",
            "… and 1 more",
            "3 of 1,200 rows differed from the server's at bundle 7; 1 repaired.",
            "Left out: 2 rows that wait",
        ] {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
        assert!(
            verified(&report, Repair::No, "sync-client verify a.db")
                .contains("`sync-client verify a.db --repair server`")
        );
    }
}
