//! `sync-client`: keeps any `SQLite` file in sync with a server, beside the apps that write to it.
//!
//! One file per group of commands; what each prints is in its help (`sync-client help COMMAND`).

mod args;
mod ask;
mod commands;
mod conflicts;
mod fault;
mod file;
mod inbox;
mod look;
mod output;
#[cfg(test)]
mod page;
mod progress;
mod run;
mod setup;
#[cfg(feature = "ingest")]
mod stream;
mod text;
mod token;
mod verify;
mod watch;

use std::{path::Path, process::ExitCode};

use clap::Parser as _;

use self::{
    args::{Args, Command},
    output::{Done, Output},
};

fn main() -> ExitCode {
    let Args { command, json } = Args::parse();
    let out = Output { json };
    if let Err(failure) = fault::asked() {
        return out.failure(&failure, None);
    }
    let file = command.file().map(Path::to_path_buf);
    let result = match command {
        Command::Init(args) => setup::init(&args, out),
        Command::Clone(args) => setup::clone(&args, out),
        Command::Schema(args) => setup::schema(&args, out),
        Command::Detach(args) => setup::detach(&args, out),
        Command::Import(args) => run::import(&args, out),
        Command::Sync(args) => run::sync(&args, out),
        Command::Watch(args) => watch::watch(&args, out),
        Command::Rebuild(args) => run::rebuild(&args, out),
        Command::Verify(args) => verify::verify(&args, out),
        Command::Compare(args) => verify::compare(&args, out),
        Command::Status(args) => look::status(&args.file, out),
        Command::Pending(args) => look::pending(&args.file, out),
        Command::Rejected(args) => inbox::list(&args, "rejected", out),
        Command::Discarded(args) => inbox::list(&args, "discarded", out),
        Command::Conflicts(args) => inbox::list(&args, "conflict", out),
        Command::Retry(args) => inbox::retry(&args, out),
        Command::Drop(args) => inbox::drop_row(&args, out),
        Command::Clear(args) => inbox::clear(&args, out),
        #[cfg(feature = "ingest")]
        Command::Stream(args) => stream::run(&args, out),
    };
    match result {
        Ok(Done::Clean) => ExitCode::SUCCESS,
        Ok(Done::SomethingWaits) => ExitCode::from(output::SOMETHING_WAITS),
        #[cfg(feature = "ingest")]
        Ok(Done::Ended(code)) => ExitCode::from(code),
        Err(failure) => out.failure(&failure, file.as_deref()),
    }
}
