//! `inspect` and `state`: all that is known of a container, and the OCI's part of it.

use cofferdam::engine::View;
use cofferdam::error::{Code, Diagnose};
use cofferdam::exit::ExitReport;
use serde_json::{Value, json};

use super::inspect_each;
use crate::cli::InspectArgs;
use crate::context::Context;
use crate::output::{CliError, print_json};

pub(super) async fn inspect(context: &Context, args: InspectArgs) -> Result<u8, CliError> {
    inspect_each(args.format.as_deref(), &args.containers.containers, async |name| {
        match context.engine.find(name).await {
            Ok(view) if args.spec => {
                cofferdam::bundle::read_config(&view.container.bundle()).map_err(CliError::from)
            }
            Ok(view) => describe(&view),
            Err(error) => match context.engine.state().kept_report(name) {
                Some(report) if error.code() == Code::NoSuchContainer => describe_forgotten(&report),
                _ => Err(error.into()),
            },
        }
    })
    .await
}

fn state_of(status: &str, report: Option<&ExitReport>) -> Value {
    json!({
        "status": status,
        "supervised": false,
        "pid": null,
        "started": report.and_then(|report| report.started),
        "finished": report.map(|report| report.ended),
        "exit_code": report.map(|report| report.cause.shell_code()),
        "cause": report.map(|report| report.cause.word()),
        "oom_killed": report.map(|report| report.cause.word() == "oom-killed"),
        "explanation": report.and_then(ExitReport::death_line),
    })
}

/// What is known of a container with --rm, for a while after its end.
fn describe_forgotten(report: &ExitReport) -> Result<Value, CliError> {
    let mut value = json!({ "id": report.id, "name": report.name });
    value["state"] = state_of("removed", Some(report));
    value["report"] = serde_json::to_value(report).map_err(|error| CliError::internal("no JSON", &error))?;
    Ok(value)
}

fn describe(view: &View) -> Result<Value, CliError> {
    let no_json = |error: serde_json::Error| CliError::internal("no JSON", &error);
    let mut value = serde_json::to_value(&view.record).map_err(no_json)?;
    let report = view.report.as_ref();
    value["state"] = state_of(&view.status().to_string(), report);
    value["state"]["supervised"] = view.supervised.into();
    value["state"]["pid"] =
        json!(view.record.process.as_ref().map(|process| process.pid).filter(|_| report.is_none()));
    value["state"]["started"] = json!(view.record.started);
    value["state"]["oom_kills"] = view.record.oom_kills.into();
    value["last_report"] =
        serde_json::to_value(view.container.read_last_report().ok().flatten()).map_err(no_json)?;
    value["report"] = serde_json::to_value(report).map_err(no_json)?;
    value["edits"] = serde_json::to_value(view.container.read_edits()).map_err(no_json)?;
    Ok(value)
}

pub(super) async fn state(context: &Context, container: &str) -> Result<u8, CliError> {
    let state = context.engine.oci_state(container).await?;
    let mut value = serde_json::to_value(&state).map_err(|error| CliError::internal("no JSON", &error))?;
    value["ociVersion"] = "1.0.2".into();
    print_json(&value)?;
    Ok(0)
}
