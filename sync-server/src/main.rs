//! The program `sync-server`: a command line around [`sync_server::router`].

fn main() -> std::process::ExitCode {
    sync_server::program::main()
}
