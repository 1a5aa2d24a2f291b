//! Signals that the foreground process gets and passes on to its container.

use std::io;
use std::time::{Duration, Instant};

use cofferdam::signal::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// What is passed on: what a user, a shell or a service manager sends. Not CHLD, PIPE and the like, which are about
/// this process.
const PASSED_ON: [Signal; 7] =
    [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM, Signal::USR1, Signal::USR2, Signal::CONT];

/// How often a user may ask for the end within [`PATIENCE_TIME`] before it is made to happen: a first process without a
/// handler ignores SIGINT and SIGTERM, and the user would be stuck.
const PATIENCE: usize = 3;
/// Who presses Ctrl-C now and then, in a shell of the container say, does not mean to kill it.
const PATIENCE_TIME: Duration = Duration::from_secs(10);

/// How often the end was asked for of late.
#[derive(Debug, Default)]
pub(crate) struct Patience(Vec<Instant>);

impl Patience {
    /// How often it may still be asked for after this signal; `None` of one that does not ask for it.
    pub(crate) fn left_after(&mut self, signal: Signal) -> Option<usize> {
        if !matches!(signal, Signal::INT | Signal::TERM) {
            return None;
        }
        self.0.retain(|asked| asked.elapsed() < PATIENCE_TIME);
        self.0.push(Instant::now());
        Some(PATIENCE.saturating_sub(self.0.len()))
    }
}

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
            if signal.asks_for_the_end() {
                return signal;
            }
        }
    }
}
