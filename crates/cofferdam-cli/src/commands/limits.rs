//! `update` and `top`: what a container may use, and what runs in it.

use super::each;
use crate::args::{LimitArgs, refuse};
use crate::cli::Containers;
use crate::context::Context;
use crate::output::{CliError, print};
use crate::table;

pub(super) async fn update(
    context: &Context,
    limits: &LimitArgs,
    containers: &Containers,
) -> Result<u8, CliError> {
    let limits = limits.parse()?;
    if limits.is_empty() {
        return Err(refuse("update", "there is no limit to change: give --memory or --cpus, say"));
    }
    each(&containers.containers, async |name| Ok(context.engine.update(name, &limits).await?)).await
}

pub(super) async fn top(context: &Context, container: &str) -> Result<u8, CliError> {
    let processes = context.engine.processes(container).await?;
    let rows = processes.into_iter().map(|process| {
        [process.uid, process.pid.to_string(), process.ppid.to_string(), process.time, process.command]
    });
    print(table::render(["UID", "PID", "PPID", "TIME", "CMD"], rows))?;
    Ok(0)
}
