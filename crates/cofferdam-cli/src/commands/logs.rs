//! `logs`: what a container in the background has written, on the streams that it wrote it to.

use std::io::{self, Write};

use cofferdam::logs::{LogEntry, ReadLimits, Stream};

use crate::cli::LogsArgs;
use crate::context::Context;
use crate::output::{CliError, warn};

pub(super) async fn logs(context: &Context, args: LogsArgs) -> Result<u8, CliError> {
    let limits = ReadLimits { since: args.since, until: args.until, tail: args.tail.0 };
    let mut log = context.engine.logs(&args.container, limits).await?;
    let mut printer = Printer { timestamps: args.timestamps, open: [false; 2] };
    loop {
        let entry = if args.follow { log.next().await? } else { log.next_here()? };
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
    /// Whether a line of the stream has begun and not ended.
    open: [bool; 2],
}

impl Printer {
    fn print(&mut self, entry: &LogEntry) -> io::Result<()> {
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
