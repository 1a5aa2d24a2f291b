//! `attach`: this terminal, or these streams, as those of a container in the background.

use std::io::{self, Read, Write};

use cofferdam::engine::{EngineError, View};
use cofferdam::exit::{AskedBy, ExitReport};
use cofferdam::logs::Stream;
use cofferdam::signal::Signal;
use cofferdam::state::StateError;
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
    let input = !attachment.no_stdin;
    let again = async || engine.attach(&id, input).await.map(|(_, attached)| attached);
    let report = match take_part(attachment, pass_on, again).await? {
        Parting::Detached => return Ok(0),
        Parting::Ended(report) => *report,
        Parting::Unseen => engine.wait(&id, None).await?,
    };
    Ok(conclude(&report))
}

/// How an attachment is over.
pub(super) enum Parting {
    Detached,
    Ended(Box<ExitReport>),
    /// The container has ended, and its supervisor had gone without a word.
    Unseen,
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

/// Takes part until the end, or until the caller detaches. `again` attaches to the next supervisor where one has died.
pub(super) async fn take_part(
    attachment: Attachment<'_>,
    pass_on: impl AsyncFn(Signal) -> Result<(), EngineError>,
    again: impl AsyncFn() -> Result<Attached, EngineError>,
) -> Result<Parting, CliError> {
    let Attachment { name, attached, no_stdin, detach_keys, proxies } = attachment;
    let mut incoming = Incoming::catch().map_err(|error| CliError::internal("signals", &error))?;
    let Attached { mut output, mut input, terminal, takes_input } = attached;
    let takes_input = takes_input && !no_stdin;
    let raw_mode = if terminal && takes_input { RawMode::enter_if_possible() } else { None };
    // Keys are a person's: what a program sends may hold any bytes.
    let keys = if takes_input && stdin_is_terminal() { detach_keys } else { DetachKeys::none() };
    let mut caller = Caller { pass_on, terminal, keys, proxies, typed: read_stdin(takes_input) };
    loop {
        let printed = tokio::select! {
            printed = print_all(output) => printed,
            () = caller.send_all(input, &mut incoming) => {
                drop(raw_mode);
                note(format_args!("detached from {name}, which goes on"));
                return Ok(Parting::Detached);
            }
        };
        let report = printed.map_err(|error| CliError::internal("the output cannot be handed on", &error))?;
        if let Some(report) = report {
            return Ok(Parting::Ended(report));
        }
        match again().await {
            Ok(attached) => (output, input) = (attached.output, attached.input),
            Err(error) if has_ended(&error) => return Ok(Parting::Unseen),
            Err(error) => return Err(error.into()),
        }
        // In raw mode a line begins where the last one ended.
        warn(format_args!(
            "the supervisor of {name} died. Another one goes on; what came meanwhile is in its log\r"
        ));
    }
}

/// Whether there is nothing to attach to any more.
const fn has_ended(error: &EngineError) -> bool {
    matches!(
        error,
        EngineError::WrongState(_)
            | EngineError::State(StateError::NoSuchContainer(_) | StateError::NoSuchSession(_))
    )
}

/// Prints what comes until the container has ended, whose report it gives, or its supervisor has died.
async fn print_all(mut output: AttachedOutput) -> io::Result<Option<Box<ExitReport>>> {
    // Whoever is killed may leave half a frame, or an error.
    while let Ok(Some(frame)) = output.next().await {
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
    typed: Option<mpsc::Receiver<Vec<u8>>>,
}

impl<P: AsyncFn(Signal) -> Result<(), EngineError>> Caller<P> {
    /// Sends what the caller types, and his signals. Ends when he detaches.
    async fn send_all(&mut self, mut input: AttachedInput, incoming: &mut Incoming) {
        self.send_size(&mut input).await;
        loop {
            tokio::select! {
                bytes = next_of(&mut self.typed) => match self.keys.take(&bytes) {
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
