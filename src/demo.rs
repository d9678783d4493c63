//! The demo.
use crate::options::DemoFlags;
use std::process::ExitCode;
/// Runs the demo.
pub async fn run(_flags: &DemoFlags) -> anyhow::Result<ExitCode> {
    Ok(ExitCode::SUCCESS)
}
