//! `exec`: another process in a running container.

use cofferdam::engine::ExecRequest;
use cofferdam::request::StdioFiles;
use cofferdam::signal::Signal;
use cofferdam::supervise::stdio::StdioPlan;

use crate::args::{refuse, with_callers_value};
use crate::cli::ExecArgs;
use crate::context::Context;
use crate::forward::Incoming;
use crate::output::{CliError, note, print};
use crate::terminal::{RawMode, copy_size, stdin_is_terminal};

pub(super) async fn exec(context: &Context, args: ExecArgs) -> Result<u8, CliError> {
    if args.tty && args.interactive && !args.detach && !stdin_is_terminal() {
        return Err(refuse("--tty", "standard input is not a terminal"));
    }
    let request = ExecRequest {
        args: args.command,
        env: args.env.iter().filter_map(|entry| with_callers_value(entry)).collect(),
        cwd: args.workdir,
        user: args.user,
        terminal: args.tty,
        timeout: args.timeout,
    };
    if args.detach {
        let streams = StdioFiles { interactive: args.interactive, ..StdioFiles::default() };
        print(context.engine.exec_in_background(&args.container, request, streams).await?)?;
        return Ok(0);
    }
    let stdio =
        StdioPlan::inherit(args.interactive).map_err(|error| CliError::internal("own streams", &error))?;
    let mut incoming = Incoming::catch().map_err(|error| CliError::internal("signals", &error))?;
    let mut process = context.engine.exec(&args.container, request, stdio).await?;
    process.terminal().into_iter().for_each(copy_size);
    let raw_mode = if args.tty && args.interactive { RawMode::enter_if_possible() } else { None };
    let end = loop {
        let signal = tokio::select! {
            end = process.wait() => break end,
            signal = incoming.next() => signal,
        };
        match (signal, process.terminal()) {
            (Signal::WINCH, Some(terminal)) => copy_size(terminal),
            (Signal::WINCH, None) => {}
            (signal, _) => {
                if let Err(failure) = process.signal(signal).await {
                    tracing::debug!(%failure, "the signal was not passed on");
                }
            }
        }
    };
    drop(raw_mode);
    if !matches!(end.cause, cofferdam::exit::Cause::Exited { .. }) {
        note(format_args!("the command in {} ended: {}", args.container, end.cause));
    }
    Ok(end.cause.shell_code())
}
