//! `ps` and `list`: every container that can be found, with what is needed to find it again.

use cofferdam::engine::{Listing, Row};
use cofferdam::runtime::RuntimeKind;
use jiff::{Timestamp, Unit};
use serde_json::Value;

use crate::args::{absolute, refuse};
use crate::cli::PsArgs;
use crate::context::Context;
use crate::filter::{Filter, wanted};
use crate::output::{CliError, print, warn};
use crate::table::render_rows;
use crate::template::Template;

/// Characters of an id and of a command that a table shows unless it is told to show all: docker's.
const ID_SHOWN: usize = 12;
const COMMAND_SHOWN: usize = 24;

pub(super) async fn ps(context: &Context, args: PsArgs) -> Result<u8, CliError> {
    let filters = args.filter.iter().map(|text| Filter::parse(text)).collect::<Result<Vec<_>, _>>()?;
    let roots = args.root.iter().map(|text| parse_root(text)).collect::<Result<Vec<_>, _>>()?;
    let Listing { mut rows, warnings } =
        if args.own { context.engine.list_own().await? } else { context.engine.list_all(&roots).await? };
    rows.retain(|row| wanted(row, &filters, args.all));
    for warning in warnings {
        warn(format_args!("{} is left out: {}", warning.place.display(), warning.failure));
    }
    if args.quiet {
        return print_lines(rows.iter().map(|row| id(row, args.no_trunc)));
    }
    match args.format.as_deref() {
        Some(format) if format.starts_with("table ") => {
            let template = Template::parse(format.trim_start_matches("table "))?;
            let rows =
                rows.iter().map(|row| template.cells(&value_of(row)?)).collect::<Result<Vec<_>, _>>()?;
            print(render_rows(&template.titles(), rows))?;
            Ok(0)
        }
        None | Some("table") => {
            let titles: Vec<String> = columns(&args).iter().map(|column| column.title.to_owned()).collect();
            print(render_rows(&titles, rows.iter().map(|row| cells(row, &args))))?;
            Ok(0)
        }
        // One object a line, as docker prints it.
        Some(format) => {
            let template = Template::parse(if format == "json" { "{{json .}}" } else { format })?;
            let lines = rows.iter().map(|row| template.render(&value_of(row)?));
            print_lines(lines.collect::<Result<Vec<_>, _>>()?.into_iter())
        }
    }
}

fn value_of(row: &Row) -> Result<Value, CliError> {
    let mut value = serde_json::to_value(row).map_err(|error| CliError::internal("no JSON", &error))?;
    value["owner"] = row.owner().into();
    Ok(value)
}

fn print_lines(lines: impl Iterator<Item = String>) -> Result<u8, CliError> {
    let text = lines.collect::<Vec<_>>().join("\n");
    if !text.is_empty() {
        print(text)?;
    }
    Ok(0)
}

fn parse_root(text: &str) -> Result<(RuntimeKind, std::path::PathBuf), CliError> {
    let (name, root) = text.split_once('=').ok_or_else(|| refuse("--root", "write RUNTIME=DIR"))?;
    let kind = RuntimeKind::from_name(name);
    let kind =
        kind.ok_or_else(|| refuse("--root", &format!("`{name}` is not runc, crun, youki, runsc or gvisor")))?;
    Ok((kind, absolute(root.as_ref())?))
}

struct Column {
    title: &'static str,
    cell: fn(&Row, &PsArgs) -> String,
}

const NARROW: [Column; 9] = [
    Column { title: "CONTAINER ID", cell: |row, args| id(row, args.no_trunc) },
    Column { title: "NAME", cell: |row, _| row.name.clone().unwrap_or_default() },
    Column { title: "RUNTIME", cell: |row, _| row.runtime.clone() },
    Column { title: "STATUS", cell: |row, _| status(row) },
    Column { title: "PID", cell: |row, _| row.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()) },
    Column { title: "CREATED", cell: |row, _| row.created.map_or_else(|| "-".to_owned(), ago) },
    Column { title: "OWNER", cell: |row, _| row.owner().to_owned() },
    Column { title: "PORTS", cell: |row, _| row.ports.join(", ") },
    Column { title: "COMMAND", cell: |row, args| command(row, args.no_trunc) },
];

const WIDE: [Column; 4] = [
    Column { title: "IMAGE", cell: |row, _| row.image.clone().unwrap_or_else(|| "-".to_owned()) },
    Column { title: "GPUS", cell: |row, _| gpus(row) },
    Column { title: "ROOT", cell: |row, _| row.root.display().to_string() },
    Column { title: "BUNDLE", cell: |row, _| row.bundle.display().to_string() },
];

fn columns(args: &PsArgs) -> Vec<&'static Column> {
    let narrow = NARROW.iter();
    if args.wide { narrow.chain(&WIDE).collect() } else { narrow.collect() }
}

fn cells(row: &Row, args: &PsArgs) -> Vec<String> {
    columns(args).iter().map(|column| (column.cell)(row, args)).collect()
}

fn id(row: &Row, whole: bool) -> String {
    // A short form of an id that is not ours could be shared by two.
    if whole || !row.ours { row.id.clone() } else { row.id.chars().take(ID_SHOWN).collect() }
}

fn status(row: &Row) -> String {
    match (row.exit.as_deref(), row.exit_code) {
        (Some("exited"), Some(code)) => format!("exited ({code})"),
        (Some(word), Some(code)) => format!("{word} ({code})"),
        _ => row.status.clone(),
    }
}

fn gpus(row: &Row) -> String {
    let indices: Vec<String> = row.gpus.iter().map(u32::to_string).collect();
    if indices.is_empty() { "-".to_owned() } else { indices.join(",") }
}

fn command(row: &Row, whole: bool) -> String {
    let text = row.command.join(" ");
    if whole || text.chars().count() <= COMMAND_SHOWN {
        return text;
    }
    let cut: String = text.chars().take(COMMAND_SHOWN - 1).collect();
    format!("{cut}…")
}

/// A moment as people say it: `5 minutes ago`.
pub(super) fn ago(then: Timestamp) -> String {
    let seconds = Timestamp::now().since((Unit::Second, then)).map_or(0, |span| span.get_seconds());
    let (number, unit) = match seconds {
        ..60 => (seconds.max(0), "second"),
        60..3_600 => (seconds / 60, "minute"),
        3_600..86_400 => (seconds / 3_600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{number} {unit}{} ago", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_said_as_people_do() {
        let before = |seconds: i64| ago(Timestamp::now() - jiff::SignedDuration::from_secs(seconds));
        assert_eq!(before(61), "1 minute ago");
        assert_eq!(before(7_300), "2 hours ago");
        assert_eq!(before(200_000), "2 days ago");
        assert_eq!(before(-50), "0 seconds ago", "a clock that was set back");
    }

    #[test]
    fn roots_are_named_with_their_runtime() {
        assert_eq!(parse_root("gvisor=/x").unwrap(), (RuntimeKind::Runsc, "/x".into()));
        assert!(parse_root("/x").is_err() && parse_root("docker=/x").is_err());
    }
}
