//! `network`: what containers can be attached to, and attachments that are prepared for them.

use cofferdam::network::{Pool, PoolMarks};
use serde_json::{Value, json};

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

fn list(context: &Context, quiet: bool, format: Option<&str>) -> Result<u8, CliError> {
    let networks = context.engine.networks()?;
    let (catalog, pools) = (networks.catalog(), networks.pools()?);
    catalog.problems.iter().for_each(warn);
    let values: Vec<Value> = catalog
        .networks
        .iter()
        .map(|(name, network)| {
            let plugins: Vec<&str> = network.plugins.iter().map(|plugin| plugin.kind()).collect();
            let pool = pools.iter().find(|pool| pool.network == *name);
            let (marks, prepared) = pool.map_or((None, 0), |pool| (Some(pool.marks), pool.prepared));
            json!({
                "name": name, "plugins": plugins, "file": network.source, "pool": marks, "prepared": prepared,
            })
        })
        .collect();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    match format {
        _ if quiet => values.iter().try_for_each(|value| print(text(&value["name"])))?,
        Some("json") => print_json(&values)?,
        None | Some("table") => {
            let rows = values.iter().zip(catalog.networks.keys()).map(|(value, name)| {
                let plugins: Vec<String> =
                    value["plugins"].as_array().into_iter().flatten().map(text).collect();
                let pool =
                    pools.iter().find(|pool| pool.network == *name).map_or_else(|| "-".to_owned(), said);
                [name.clone(), plugins.join(","), pool, text(&value["file"])]
            });
            print(render(["NAME", "PLUGINS", "POOL", "FILE"], rows))?;
        }
        Some(template) => {
            let template = Template::parse(template)?;
            for value in &values {
                print(template.render(value)?)?;
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
