//! What one container may reach: a policy, and a gate that holds it to the policy.

mod parse;
mod policy;

pub use parse::{ParseError, Part};
pub use policy::{Name, Policy, Ports, Rule, Target, Transport};
