//! Signals that the foreground process gets and passes on to its container.

use std::io;

use cofferdam::signal::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// What is passed on: what a user, a shell or a service manager sends. Not CHLD, PIPE and the like, which are about
/// this process.
const PASSED_ON: [Signal; 7] =
    [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM, Signal::USR1, Signal::USR2, Signal::CONT];

/// How often a user may ask for the end before it is made to happen: a first process without a handler ignores
/// SIGINT and SIGTERM, and the user would be stuck.
pub(crate) const PATIENCE: usize = 3;

/// Signals as they come in.
#[derive(Debug)]
pub(crate) struct Incoming(mpsc::Receiver<Signal>);

impl Incoming {
    /// Begins to catch signals. From here on they do not end this process.
    pub(crate) fn catch() -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel(16);
        for kind in PASSED_ON.into_iter().chain([Signal::WINCH]) {
            let mut stream = signal(SignalKind::from_raw(kind.number()))?;
            let sender = sender.clone();
            tokio::spawn(
                async move { while stream.recv().await.is_some() && sender.send(kind).await.is_ok() {} },
            );
        }
        Ok(Self(receiver))
    }

    /// The next signal. Cancel safe.
    pub(crate) async fn next(&mut self) -> Signal {
        match self.0.recv().await {
            Some(signal) => signal,
            // The tasks above live as long as the event loop.
            None => std::future::pending().await,
        }
    }

    /// The next signal that asks for an end.
    pub(crate) async fn asked_to_end(&mut self) -> Signal {
        loop {
            let signal = self.next().await;
            if asks_for_end(signal) {
                return signal;
            }
        }
    }
}

/// Whether whoever sends this signal wants the process to end.
pub(crate) fn asks_for_end(signal: Signal) -> bool {
    [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT].contains(&signal)
}
