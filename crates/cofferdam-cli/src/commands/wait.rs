//! `wait`: the end of containers.

use cofferdam::error::{Code, Failure};
use cofferdam::exit::ExitReport;
use cofferdam::supervise::control::Until;

use crate::cli::{Condition, WaitArgs};
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
        match wait_for(context, name, &args).await {
            Ok(None) => {}
            Ok(Some(report)) => match &template {
                None => print(report.cause.shell_code())?,
                Some(template) => {
                    let mut value = serde_json::to_value(&report)
                        .map_err(|error| CliError::internal("no JSON", &error))?;
                    value["exit_code"] = report.cause.shell_code().into();
                    print(template.render(&value)?)?;
                }
            },
            Err(error) => {
                code = if error.0.code == Code::StillRunning { TIMED_OUT } else { OUR_FAILURE };
                print_failure(&error.0);
            }
        }
    }
    Ok(code)
}

/// The report, where the end was waited for.
async fn wait_for(context: &Context, name: &str, args: &WaitArgs) -> Result<Option<ExitReport>, CliError> {
    let until = match args.until {
        Condition::Exit => Until::Exit,
        Condition::Running => Until::Running,
        Condition::Healthy => Until::Healthy,
    };
    let report = context.engine.wait_until(name, until, args.timeout).await?;
    match report {
        Some(report) if until != Until::Exit => Err(CliError(Failure {
            code: Code::WrongState,
            what: format!("{name} has ended"),
            why: vec![report.cause.to_string()],
            next: Some(format!("`cofferdam inspect {name}` says more")),
        })),
        report => Ok(report),
    }
}
