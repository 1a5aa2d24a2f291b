//! `gc`: what killed processes have left behind.

use cofferdam::engine::Leftover;

use crate::cli::GcFormat;
use crate::context::Context;
use crate::output::{CliError, print, print_json};
use crate::table::render;

/// The exit code when something could not be taken away.
const LEFT: u8 = 1;

pub(super) async fn gc(context: &Context, only_show: bool, format: GcFormat) -> Result<u8, CliError> {
    let found = context.engine.collect_garbage(only_show).await?;
    match format {
        GcFormat::Json => print_json(&found)?,
        GcFormat::Table if found.is_empty() => print("nothing is left behind")?,
        GcFormat::Table => {
            let titles = ["KIND", "WHAT", "WHY", "DONE"];
            print(render(titles, found.iter().map(row)))?;
        }
    }
    Ok(if !only_show && found.iter().any(|item| !item.done) { LEFT } else { 0 })
}

fn row(item: &Leftover) -> [String; 4] {
    let done = match &item.failure {
        Some(failure) => failure.to_string(),
        None if item.done => "yes".into(),
        None => "no".into(),
    };
    [item.kind.word().into(), item.what.clone(), item.why.clone(), done]
}
