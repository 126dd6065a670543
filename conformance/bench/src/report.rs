//! The result: on the terminal, as JSON in the tree, and as the table of the README.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::Outcome;
use crate::measure::Figure;

/// A kept run. The machine is described by its processor, cores and kernel only.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) kernel: String,
    pub(crate) figures: Vec<Figure>,
}

/// Prints the figures and, with `write`, keeps them.
pub(crate) fn print(figures: &[Figure], write: bool) -> Outcome<()> {
    println!("{}", table(figures));
    if write {
        let run = Run { cpu: cpu(), cores: cores(), kernel: kernel(), figures: figures.to_vec() };
        std::fs::write(results(), serde_json::to_string_pretty(&run)? + "\n")?;
    }
    Ok(())
}

/// The figures as a Markdown table.
pub(crate) fn table(figures: &[Figure]) -> String {
    let mut out = String::from("| measure | median (range) | ratio to its floor | at most |\n|---|---|---|---|\n");
    for f in figures {
        let spread = if (f.high - f.low).abs() < f64::EPSILON {
            format!("{} {}", number(f.median), f.unit)
        } else {
            format!("{} ({}–{}) {}", number(f.median), number(f.low), number(f.high), f.unit)
        };
        let ratio = f.ratio.map_or_else(|| "–".into(), |r| format!("{r:.2}x"));
        let bar = f.bar.map_or_else(|| "–".into(), |b| format!("{b}x"));
        out.push_str(&format!("| {} | {spread} | {ratio} | {bar} |\n", f.name));
    }
    out
}

fn number(v: f64) -> String {
    if v.abs() >= 100.0 { format!("{v:.0}") } else { format!("{v:.1}") }
}

fn results() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("results.json")
}

fn cpu() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|l| l.strip_prefix("model name"));
    model.map_or_else(|| "unknown".into(), |m| m.trim_start_matches([' ', '\t', ':']).to_owned())
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(0, usize::from)
}

fn kernel() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let version: String = release.trim().split('-').next().unwrap_or_default().into();
    format!("Linux {version}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The README's table is the committed run, not a memory of another.
    #[test]
    fn the_readme_shows_the_kept_run() {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
        let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
        let run: Run = serde_json::from_str(&std::fs::read_to_string(results()).unwrap()).unwrap();
        let table = table(&run.figures);
        assert!(readme.contains(&table), "README.md lacks this table:\n{table}");
        assert!(readme.contains(&run.cpu), "README.md does not name the processor: {}", run.cpu);
    }
}
