//! `events`: what happens to containers, as it happens.

use std::io;
use std::pin::pin;
use std::time::Duration;

use cofferdam::engine::EventsFrom;
use cofferdam::error::{Code, Failure};
use cofferdam::event::Event;
use cofferdam::logs::nobody_reads;

use crate::cli::EventsArgs;
use crate::context::Context;
use crate::output::{CliError, print};
use crate::template::Template;

/// How often it is seen to that every container has a supervisor, which tells of its end.
const REPAIRS: Duration = Duration::from_secs(5);

/// One `KEY=VALUE`, in docker's grammar.
enum Filter {
    Container(String),
    Event(String),
}

impl Filter {
    fn parse(text: &str) -> Result<Self, CliError> {
        match text.split_once('=') {
            Some(("container", value)) => Ok(Self::Container(value.to_owned())),
            Some(("event", value)) => Ok(Self::Event(value.to_owned())),
            _ => Err(CliError(Failure {
                code: Code::InvalidValue,
                what: format!("--filter: `{text}` cannot be used"),
                why: vec![
                    "the filters are container=NAME, of a name, an id or its beginning, and event=WORD"
                        .into(),
                ],
                next: None,
            })),
        }
    }

    fn fits(&self, event: &Event) -> bool {
        match self {
            Self::Event(word) => event.what.word() == word,
            Self::Container(text) => {
                event.name.as_ref().is_some_and(|name| name.as_str() == text)
                    || event.id.as_str().starts_with(text.as_str())
            }
        }
    }
}

pub(super) async fn events(context: &Context, args: EventsArgs) -> Result<u8, CliError> {
    let filters = args.filter.iter().map(|text| Filter::parse(text)).collect::<Result<Vec<_>, _>>()?;
    let format = args.format.as_deref();
    let template = format.filter(|format| *format != "json").map(Template::parse).transpose()?;
    let from = EventsFrom { since: args.since, until: args.until, after: args.after };
    let mut stream = context.engine.events(from)?;
    let mut repairs = tokio::time::interval(REPAIRS);
    let mut nobody_reads = pin!(nobody_reads(io::stdout()));
    loop {
        let event = tokio::select! {
            event = stream.next() => event?,
            () = &mut nobody_reads => break,
            _ = repairs.tick() => {
                // Whoever looks at a container whose supervisor has died mends that, and what has happened is told.
                let _ = context.engine.containers().await;
                continue;
            }
        };
        let Some(event) = event else { break };
        // Of several filters of one kind any will do, of several kinds all have to fit.
        let (by_word, by_container): (Vec<&Filter>, Vec<&Filter>) =
            filters.iter().partition(|filter| matches!(filter, Filter::Event(_)));
        let any =
            |filters: &[&Filter]| filters.is_empty() || filters.iter().any(|filter| filter.fits(&event));
        if !any(&by_word) || !any(&by_container) {
            continue;
        }
        match (&template, format) {
            (Some(template), _) => print(template.render(&json(&event)?)?)?,
            (None, Some(_)) => print(json(&event)?)?,
            (None, None) => {
                let name = event.name.as_ref().map_or_else(String::new, |name| format!(" ({name})"));
                print(format_args!(
                    "{} {} {}{name} {}",
                    event.time,
                    event.seq,
                    event.id.short(),
                    event.what
                ))?;
            }
        }
    }
    Ok(0)
}

fn json(event: &Event) -> Result<serde_json::Value, CliError> {
    serde_json::to_value(event).map_err(|error| CliError::internal("no JSON", &error))
}
