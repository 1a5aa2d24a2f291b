//! `session`: what was executed in the background, and what became of it.

use cofferdam::engine::{EngineError, SessionView};
use cofferdam::exit::AskedBy;
use jiff::{Timestamp, Unit};
use serde_json::{Value, json};

use super::attach::{Attachment, Parting, take_part};
use super::each;
use super::logs::print_log;
use super::run::conclude;
use crate::cli::SessionCommand;
use crate::context::Context;
use crate::output::{CliError, OUR_FAILURE, print, print_failure};
use crate::table::render;
use crate::template::Template;

/// The exit code when `--timeout` is reached: that of timeout(1).
const TIMED_OUT: u8 = 124;
/// Characters of an id that a table shows.
const ID_SHOWN: usize = 12;

pub(super) async fn session(context: &Context, command: SessionCommand) -> Result<u8, CliError> {
    let engine = &context.engine;
    match command {
        SessionCommand::Ls { container, quiet, format } => {
            let views = engine.sessions(container.as_deref()).await?;
            list(&views, quiet, format.as_deref())
        }
        SessionCommand::Attach { no_stdin, detach_keys, session } => {
            let (view, attached) = engine.attach_to_session(&session, !no_stdin).await?;
            let id = view.folder.id.to_string();
            let attachment = Attachment { name: &session, attached, no_stdin, detach_keys, proxies: true };
            let pass_on = async |signal| engine.kill_session(&id, signal, AskedBy::Forwarded).await;
            let again = async || engine.attach_to_session(&id, !no_stdin).await.map(|(_, attached)| attached);
            match take_part(attachment, pass_on, again).await? {
                Parting::Detached => Ok(0),
                Parting::Ended(report) => Ok(conclude(&report)),
                Parting::Unseen => Ok(conclude(&engine.wait_for_session(&id, None).await?)),
            }
        }
        SessionCommand::Logs { reading, session } => {
            print_log(engine.session_logs(&session, reading.limits()).await?, &reading).await
        }
        SessionCommand::Kill { signal, sessions } => {
            each(&sessions, async |name| Ok(engine.kill_session(name, signal, AskedBy::Kill).await?)).await
        }
        SessionCommand::Wait { timeout, sessions } => {
            let mut code = 0;
            for name in &sessions {
                match engine.wait_for_session(name, timeout).await {
                    Ok(report) => print(report.cause.shell_code())?,
                    Err(error) => {
                        let is_late = matches!(error, EngineError::StillRunning { .. });
                        code = if is_late { TIMED_OUT } else { OUR_FAILURE };
                        print_failure(&CliError::from(error).0);
                    }
                }
            }
            Ok(code)
        }
        SessionCommand::Rm { force, sessions } => {
            each(&sessions, async |name| Ok(engine.remove_session(name, force).await?)).await
        }
    }
}

fn list(views: &[SessionView], quiet: bool, format: Option<&str>) -> Result<u8, CliError> {
    if quiet {
        views.iter().try_for_each(|view| print(&view.folder.id))?;
        return Ok(0);
    }
    if let Some(format) = format.filter(|format| *format != "table") {
        let template = Template::parse(if format == "json" { "{{json .}}" } else { format })?;
        for view in views {
            print(template.render(&value_of(view)?)?)?;
        }
        return Ok(0);
    }
    let short = |id: &str| id.chars().take(ID_SHOWN).collect::<String>();
    let rows = views.iter().map(|view| {
        let record = &view.record;
        let pid = record.process.as_ref().filter(|_| view.report.is_none());
        [
            short(record.id.as_str()),
            short(record.container.as_str()),
            status(view),
            pid.map_or_else(|| "-".into(), |process| process.pid.to_string()),
            started(record.started),
            record.command.join(" "),
        ]
    });
    print(render(["SESSION ID", "CONTAINER ID", "STATUS", "PID", "STARTED", "COMMAND"], rows))?;
    Ok(0)
}

fn status(view: &SessionView) -> String {
    match &view.report {
        Some(report) => format!("{} ({})", report.cause.word(), report.cause.shell_code()),
        None if view.supervised => "running".into(),
        None => "running (unsupervised)".into(),
    }
}

fn started(time: Timestamp) -> String {
    let rounded = time.round(Unit::Second).unwrap_or(time);
    rounded.to_string()
}

fn value_of(view: &SessionView) -> Result<Value, CliError> {
    let no_json = |error: serde_json::Error| CliError::internal("no JSON", &error);
    let mut value = serde_json::to_value(&view.record).map_err(no_json)?;
    value["status"] = json!(if view.report.is_some() { "stopped" } else { "running" });
    value["supervised"] = view.supervised.into();
    value["exit_code"] = json!(view.report.as_ref().map(|report| report.cause.shell_code()));
    value["report"] = serde_json::to_value(&view.report).map_err(no_json)?;
    Ok(value)
}
