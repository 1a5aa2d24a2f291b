//! `wait`: the end of containers.

use cofferdam::engine::EngineError;

use crate::cli::WaitArgs;
use crate::context::Context;
use crate::output::{CliError, OUR_FAILURE, print, print_failure};
use crate::template::Template;

/// The exit code when `--timeout` is reached: that of timeout(1).
const TIMED_OUT: u8 = 124;

pub(super) async fn wait(context: &Context, args: WaitArgs) -> Result<u8, CliError> {
    let template = match args.format.as_deref() {
        None => None,
        Some("json") => Some(Template::parse("{{json .}}")?),
        Some(text) => Some(Template::parse(text)?),
    };
    let mut code = 0;
    for name in &args.containers.containers {
        match context.engine.wait(name, args.timeout).await {
            Ok(report) => match &template {
                None => print(report.cause.shell_code())?,
                Some(template) => {
                    let mut value = serde_json::to_value(&report)
                        .map_err(|error| CliError::internal("no JSON", &error))?;
                    value["exit_code"] = report.cause.shell_code().into();
                    print(template.render(&value)?)?;
                }
            },
            Err(error) => {
                code =
                    if matches!(error, EngineError::StillRunning { .. }) { TIMED_OUT } else { OUR_FAILURE };
                print_failure(&CliError::from(error).0);
            }
        }
    }
    Ok(code)
}
