//! Networks of containers: namespaces, CNI networks, published ports, names, and what a container may reach.
//!
//! Invariant: whatever is made on the host is written down before, so that it can be taken away by somebody else.

pub mod egress;
