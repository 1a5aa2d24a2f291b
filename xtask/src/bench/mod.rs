//! placeholder
use anyhow::Result;
use clap::Args;
use xshell::Shell;
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {}
pub(crate) fn run(_shell: &Shell, _args: &BenchArgs) -> Result<()> {
    Ok(())
}
