//! `update` and `top`: what a container may use and reach, and what runs in it.

use super::each;
use crate::args::{LimitArgs, refuse};
use crate::cli::Containers;
use crate::context::Context;
use crate::output::{CliError, print};
use crate::table;

pub(super) async fn update(
    context: &Context,
    limits: &LimitArgs,
    egress: Option<&str>,
    containers: &Containers,
) -> Result<u8, CliError> {
    let limits = limits.parse()?;
    if limits.is_empty() && egress.is_none() {
        return Err(refuse("update", "there is nothing to change: give --memory, --cpus or --egress, say"));
    }
    each(&containers.containers, async |name| {
        if let Some(policy) = egress {
            context.engine.change_egress(name, policy).await?;
        }
        if !limits.is_empty() {
            context.engine.update(name, &limits).await?;
        }
        Ok(())
    })
    .await
}

pub(super) async fn top(context: &Context, container: &str) -> Result<u8, CliError> {
    let processes = context.engine.processes(container).await?;
    let rows = processes.into_iter().map(|process| {
        [process.uid, process.pid.to_string(), process.ppid.to_string(), process.time, process.command]
    });
    print(table::render(["UID", "PID", "PPID", "TIME", "CMD"], rows))?;
    Ok(0)
}
