//! What one container may reach: a [`Policy`], and a [`Gate`] that holds the container to it.
//!
//! ```text
//! policy, parse    the flag as a value
//! guards           which addresses no rule opens by the way
//! rules            policy and guards as text for nft               pure
//! answers          what of an answer is handed on                  pure
//! wiring, links    the gate's namespace between two others
//! gate             made, opened, changed, taken away
//! serve            resolver, upstream, packets, denials: while the container runs
//! ```
//!
//! Invariant: what holds the container is in a namespace that it is not in. Nothing that it does to its own links,
//! addresses, routes or rules, and no frame that it sends, is asked.

mod answers;
mod denials;
mod error;
mod gate;
mod guards;
mod inside;
mod links;
mod packets;
mod parse;
mod policy;
mod resolver;
mod rules;
mod serve;
mod upstream;
mod wiring;

pub use denials::{Denial, Protocol, Told};
pub use error::GateError;
pub use gate::{Gate, missing_programs};
pub use parse::{ParseError, Part};
pub use policy::{Name, Policy, Ports, Rule, Target, Transport};
pub use wiring::Uplink;
