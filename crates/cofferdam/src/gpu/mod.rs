//! GPUs: what asks for them.

mod detect;

pub use detect::{Finding, Node, Sign, Visible, detect};
