//! `logs`: what a container in the background has written, on the streams that it wrote it to.

use std::io::{self, Write};
use std::pin::pin;

use cofferdam::engine::ContainerLog;
use cofferdam::logs::{LogEntry, Stream, nobody_reads};
use serde_json::json;

use crate::cli::{LogsArgs, ReadingArgs};
use crate::context::Context;
use crate::output::{CliError, warn};

pub(super) async fn logs(context: &Context, args: LogsArgs) -> Result<u8, CliError> {
    let log = context.engine.logs(&args.container, args.reading.limits()).await?;
    let code = print_log(log, &args.reading).await?;
    // It may have been forgotten meanwhile.
    let view = context.engine.find(&args.container).await.ok();
    if view.and_then(|view| view.report).is_some_and(|report| report.stdio.truncated) {
        warn(
            "what it wrote last may be missing: nobody read it to the end (`stdio.truncated` in its report)",
        );
    }
    Ok(code)
}

/// Prints what is wanted of a log.
pub(super) async fn print_log(mut log: ContainerLog, args: &ReadingArgs) -> Result<u8, CliError> {
    let mut printer = Printer { timestamps: args.timestamps, json: args.json(), open: [false; 2] };
    let mut nobody_reads = pin!(nobody_reads(io::stdout()));
    loop {
        let entry = if args.follow {
            tokio::select! {
                entry = log.next() => entry?,
                () = &mut nobody_reads => break,
            }
        } else {
            log.next_here()?
        };
        let Some(entry) = entry else { break };
        match printer.print(&entry) {
            Ok(()) => {}
            // Whoever reads it has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
            Err(error) => return Err(CliError::internal("the log cannot be printed", &error)),
        }
    }
    match log.damaged() {
        0 => {}
        count => warn(format_args!("{count} lines of the log are damaged, and were passed over")),
    }
    Ok(0)
}

struct Printer {
    timestamps: bool,
    json: bool,
    /// Whether a line of the stream has begun and not ended.
    open: [bool; 2],
}

impl Printer {
    fn print(&mut self, entry: &LogEntry) -> io::Result<()> {
        if self.json {
            return print_json_line(entry);
        }
        let mut text = Vec::with_capacity(entry.bytes.len() + 64);
        let open = &mut self.open[usize::from(entry.stream == Stream::Stderr)];
        if self.timestamps && !*open {
            write!(text, "{:.9} ", entry.time)?;
        }
        *open = !entry.ends_line;
        text.extend_from_slice(&entry.bytes);
        if entry.ends_line {
            text.push(b'\n');
        }
        match entry.stream {
            Stream::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(&text)?;
                out.flush()
            }
            Stream::Stderr => io::stderr().lock().write_all(&text),
        }
    }
}

/// An entry with its number, for programs that go on from where they were.
fn print_json_line(entry: &LogEntry) -> io::Result<()> {
    let text = String::from_utf8_lossy(&entry.bytes);
    let line = json!({
        "seq": entry.seq,
        "time": entry.time.to_string(),
        "stream": entry.stream.name(),
        "ends_line": entry.ends_line,
        "text": text,
    });
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}
