//! The client's integration tests, in one binary.

mod attach;
mod changed;
mod cli;
mod cli_server;
mod cli_verify;
mod conflicts;
mod detach;
mod export;
mod faults;
mod hard;
mod inbox;
mod june;
mod keep;
mod migration;
mod nameless;
mod neighbours;
mod numbers;
mod owner;
mod poison;
mod relay;
mod resume;
mod rounds;
mod status;
mod support;
mod verify;
mod world;
