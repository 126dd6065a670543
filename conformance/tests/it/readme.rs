//! The README's commands, against our server.

use std::path::Path;
use std::process::Command;

use crate::server::{Ours, PROFILE};

#[test]
fn the_readmes_commands_work() {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).unwrap();
    // The whole suite is run elsewhere.
    let whole = |line: &&str| line.starts_with("sync-conformance run ") && !line.contains("--filter");
    let commands: Vec<&str> =
        readme.lines().filter(|l| l.starts_with("sync-conformance ")).filter(|l| !whole(l)).collect();
    assert!(commands.len() >= 2, "{commands:?}");
    let ours = Ours::start();
    let dir = tempfile::TempDir::new().unwrap();
    let profile = PROFILE
        .replace("kind = \"jwt\"\nsecret_env = \"CONFORMANCE_SECRET\"", "kind = \"user\"")
        .replace("requests_per_second = 200", "requests_per_second = 0");
    let program = Path::new(env!("CARGO_BIN_EXE_sync-conformance")).parent().unwrap();
    let path = std::env::join_paths(
        std::iter::once(program.to_owned()).chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
    )
    .unwrap();
    for command in commands {
        std::fs::write(dir.path().join("profile.toml"), &profile).unwrap();
        let output = Command::new("sh")
            .args(["-ec", &command.replace("https://host/base", &ours.url())])
            .current_dir(dir.path())
            .env("PATH", &path)
            .env("TOKEN", "ada")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{command}\n{said}");
    }
}
