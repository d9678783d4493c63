//! The `inferno-sidecar` command: parses the command line and hands over to the library.

use clap::Parser;
use inferno_sidecar::app;
use inferno_sidecar::options::Cli;
use std::process::ExitCode;

fn main() -> ExitCode {
    match Cli::parse().into_job().and_then(app::run) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
