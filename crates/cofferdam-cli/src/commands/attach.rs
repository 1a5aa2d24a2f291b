//! `attach`: this terminal, or these streams, as those of a container in the background.

use std::io::{self, Read, Write};

use cofferdam::engine::{EngineError, View};
use cofferdam::exit::{AskedBy, ExitReport};
use cofferdam::logs::Stream;
use cofferdam::signal::Signal;
use cofferdam::supervise::frame::Frame;
use cofferdam::supervise::{Attached, AttachedInput, AttachedOutput};
use tokio::sync::mpsc;

use super::run::conclude;
use crate::args::refuse;
use crate::cli::AttachArgs;
use crate::context::Context;
use crate::detach_keys::{DetachKeys, Typed};
use crate::forward::Incoming;
use crate::output::{CliError, note, warn};
use crate::terminal::{RawMode, own_size, stdin_is_terminal};

/// What a caller reads at once, in bytes: a frame holds it.
const INPUT_BYTES: usize = 16 << 10;

/// `start --attach`: attached before it is started, so that nothing of its output is missed.
pub(super) async fn start(context: &Context, names: &[String], input: bool) -> Result<u8, CliError> {
    let [name] = names else {
        return Err(refuse("--attach", "one container at a time"));
    };
    let (view, attached) = context.engine.attach(name, input).await?;
    context.engine.start(view.container.id.as_str()).await?;
    let detach_keys = DetachKeys::usual();
    let attachment = Attachment { name, attached, no_stdin: !input, detach_keys, proxies: true };
    to_the_end(context, &view, attachment).await
}

pub(super) async fn attach(context: &Context, args: AttachArgs) -> Result<u8, CliError> {
    let (view, attached) = context.engine.attach(&args.container, !args.no_stdin).await?;
    let (no_stdin, detach_keys, proxies) = (args.no_stdin, args.detach_keys, !args.no_sig_proxy);
    let attachment = Attachment { name: &args.container, attached, no_stdin, detach_keys, proxies };
    to_the_end(context, &view, attachment).await
}

/// Takes part in a container's streams until it has ended or the caller detaches.
async fn to_the_end(context: &Context, view: &View, attachment: Attachment<'_>) -> Result<u8, CliError> {
    let (engine, id) = (&context.engine, view.container.id.to_string());
    let pass_on = async |signal| engine.kill_by(&id, signal, false, AskedBy::Forwarded).await;
    let report = match take_part(attachment, pass_on).await? {
        None => return Ok(0),
        Some(Some(report)) => *report,
        // Its supervisor has gone without a word.
        Some(None) => engine.wait(&id, None).await?,
    };
    Ok(conclude(&report))
}

/// An attachment, and how this terminal takes part in it.
pub(super) struct Attachment<'a> {
    /// What the user calls it.
    pub(super) name: &'a str,
    pub(super) attached: Attached,
    pub(super) no_stdin: bool,
    pub(super) detach_keys: DetachKeys,
    /// Whether signals are passed on.
    pub(super) proxies: bool,
}

/// Takes part until the end, whose report it gives if that came, or until the caller detaches: `None`.
pub(super) async fn take_part(
    attachment: Attachment<'_>,
    pass_on: impl AsyncFn(Signal) -> Result<(), EngineError>,
) -> Result<Option<Option<Box<ExitReport>>>, CliError> {
    let Attachment { name, attached, no_stdin, detach_keys, proxies } = attachment;
    let incoming = Incoming::catch().map_err(|error| CliError::internal("signals", &error))?;
    let Attached { output, input, terminal, takes_input } = attached;
    let takes_input = takes_input && !no_stdin;
    let raw_mode = if terminal && takes_input { RawMode::enter_if_possible() } else { None };
    // Keys are a person's: what a program sends may hold any bytes.
    let keys = if takes_input && stdin_is_terminal() { detach_keys } else { DetachKeys::none() };
    let caller = Caller { pass_on, terminal, keys, proxies };
    let printed = tokio::select! {
        printed = print_all(output) => Some(printed),
        () = caller.send_all(input, takes_input, incoming) => None,
    };
    drop(raw_mode);
    let Some(printed) = printed else {
        note(format_args!("detached from {name}, which goes on"));
        return Ok(None);
    };
    printed.map(Some).map_err(|error| CliError::internal("the output cannot be handed on", &error))
}

/// Prints what comes until the container has ended; gives its report, if that came.
async fn print_all(mut output: AttachedOutput) -> io::Result<Option<Box<ExitReport>>> {
    while let Some(frame) = output.next().await? {
        match frame {
            Frame::Output(Stream::Stdout, bytes) => {
                let mut out = io::stdout().lock();
                out.write_all(&bytes)?;
                out.flush()?;
            }
            Frame::Output(Stream::Stderr, bytes) => io::stderr().lock().write_all(&bytes)?,
            Frame::Gap(bytes) => {
                warn(format_args!("{bytes} bytes were passed over: this reader was too slow"))
            }
            Frame::Ended(report) => return Ok(Some(report)),
            Frame::Input(_) | Frame::Size { .. } => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
    Ok(None)
}

/// The caller's side of an attachment.
struct Caller<P> {
    pass_on: P,
    terminal: bool,
    keys: DetachKeys,
    proxies: bool,
}

impl<P: AsyncFn(Signal) -> Result<(), EngineError>> Caller<P> {
    /// Sends what the caller types, and his signals. Ends when he detaches.
    async fn send_all(mut self, mut input: AttachedInput, takes_input: bool, mut incoming: Incoming) {
        let mut typed = read_stdin(takes_input);
        self.send_size(&mut input).await;
        loop {
            tokio::select! {
                bytes = next_of(&mut typed) => match self.keys.take(&bytes) {
                    Typed::Bytes(bytes) => {
                        // The container has gone, which the output shows.
                        let _ = input.send(&Frame::Input(bytes)).await;
                    }
                    Typed::Detach => return,
                },
                signal = incoming.next() => match signal {
                    Signal::WINCH => self.send_size(&mut input).await,
                    signal if self.proxies => self.proxy(signal).await,
                    signal if signal.asks_for_the_end() => return,
                    _ => {}
                },
            }
        }
    }

    async fn send_size(&self, input: &mut AttachedInput) {
        if let Some((rows, columns)) = own_size().filter(|_| self.terminal) {
            // The container has gone, which the output shows.
            let _ = input.send(&Frame::Size { rows, columns }).await;
        }
    }

    async fn proxy(&self, signal: Signal) {
        if let Err(error) = (self.pass_on)(signal).await {
            tracing::debug!(%error, "the signal was not passed on");
        }
    }
}

/// Reads standard input in a thread, which nobody can interrupt. Its end is not passed on, as in docker: others may be
/// attached, and the container's input stays open.
fn read_stdin(wanted: bool) -> Option<mpsc::Receiver<Vec<u8>>> {
    if !wanted {
        return None;
    }
    let (sender, receiver) = mpsc::channel(4);
    std::thread::spawn(move || {
        let mut buffer = [0; INPUT_BYTES];
        while let Ok(count @ 1..) = io::stdin().read(&mut buffer) {
            if sender.blocking_send(buffer[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    Some(receiver)
}

/// What is typed next; never resolves after the end of it. Cancel safe.
async fn next_of(typed: &mut Option<mpsc::Receiver<Vec<u8>>>) -> Vec<u8> {
    if let Some(receiver) = typed
        && let Some(bytes) = receiver.recv().await
    {
        return bytes;
    }
    *typed = None;
    std::future::pending().await
}
