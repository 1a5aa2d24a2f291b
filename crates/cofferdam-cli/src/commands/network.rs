//! `network`: what containers can be attached to, and attachments that are prepared for them.

use std::path::Path;

use cofferdam::network::{PluginConfig, Pool, PoolMarks};
use serde::Serialize;

use crate::args::refuse;
use crate::cli::NetworkCommand;
use crate::context::Context;
use crate::output::{CliError, print, print_json, warn};
use crate::table::render;
use crate::template::Template;

pub(super) async fn run(context: &Context, command: NetworkCommand) -> Result<u8, CliError> {
    match command {
        NetworkCommand::Ls { quiet, format } => list(context, quiet, format.as_deref()),
        NetworkCommand::Pool { low, high, off, network } => {
            let given = low.zip(high).map(|(low, high)| PoolMarks { low, high });
            pool(context, &network, given, off).await
        }
    }
}

/// What is printed of a network.
#[derive(Debug, Serialize)]
struct Listed<'a> {
    name: &'a str,
    plugins: Vec<&'a str>,
    file: &'a Path,
    /// How many attachments are to be prepared, where somebody wants it.
    pool: Option<PoolMarks>,
    prepared: usize,
}

fn list(context: &Context, quiet: bool, format: Option<&str>) -> Result<u8, CliError> {
    let networks = context.engine.networks()?;
    let (catalog, pools) = (networks.catalog(), networks.pools()?);
    catalog.problems.iter().for_each(warn);
    let pool_of = |name: &str| pools.iter().find(|pool| pool.network == name);
    let listed = catalog.networks.iter().map(|(name, network)| Listed {
        name,
        plugins: network.plugins.iter().map(PluginConfig::kind).collect(),
        file: &network.source,
        pool: pool_of(name).map(|pool| pool.marks),
        prepared: pool_of(name).map_or(0, |pool| pool.prepared),
    });
    let listed: Vec<Listed<'_>> = listed.collect();
    match format {
        _ if quiet => listed.iter().try_for_each(|network| print(network.name))?,
        Some("json") => print_json(&listed)?,
        None | Some("table") => {
            let rows = listed.iter().map(|network| {
                let pool = pool_of(network.name).map_or_else(|| "-".to_owned(), said);
                let file = network.file.display().to_string();
                [network.name.to_owned(), network.plugins.join(","), pool, file]
            });
            print(render(["NAME", "PLUGINS", "POOL", "FILE"], rows))?;
        }
        Some(template) => {
            let template = Template::parse(template)?;
            for network in &listed {
                let value = serde_json::to_value(network);
                let value = value.map_err(|error| CliError::internal("no JSON", &error))?;
                print(template.render(&value)?)?;
            }
        }
    }
    Ok(0)
}

async fn pool(context: &Context, network: &str, given: Option<PoolMarks>, off: bool) -> Result<u8, CliError> {
    let networks = context.engine.networks()?;
    let find = || {
        let pools = networks.pools()?;
        Ok::<_, CliError>(pools.into_iter().find(|pool| pool.network == network))
    };
    let marks = match (given, find()?) {
        _ if off => None,
        (Some(marks), _) => Some(marks),
        (None, Some(pool)) => Some(pool.marks),
        (None, None) => {
            return Err(refuse(
                "network pool",
                "nothing is prepared for this network: give --low and --high",
            ));
        }
    };
    context.engine.set_pool(network, marks).await?;
    match find()? {
        Some(pool) => print(said(&pool))?,
        None => print("nothing is prepared")?,
    }
    Ok(0)
}

/// How full a pool is: `5 of 4 to 16`.
fn said(pool: &Pool) -> String {
    format!("{} of {} to {}", pool.prepared, pool.marks.low, pool.marks.high)
}
