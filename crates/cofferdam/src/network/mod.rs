//! How containers are connected: prepared namespaces, and networks of CNI by the crate `cofferdam_network`.

mod connection;
mod names;
mod namespace;
mod programs;

pub use cofferdam_network::cni::PluginConfig;
pub use cofferdam_network::names::{HostEntry, NameRequest};
pub(crate) use cofferdam_network::ports::HeldPorts;
pub use cofferdam_network::ports::{PortRequest, PublishedPort};
pub use cofferdam_network::{
    Attachment, NetworkError as CniError, NetworkErrorKind, Networks, Pool, PoolMarks,
};
pub use connection::{ConnectError, Connection};
pub(crate) use connection::{Connected, end_attachment, gated, networks};
pub(crate) use names::{NameFiles, Names};
pub use namespace::{NetworkError, check_namespace};

use crate::error::{Code, Diagnose, Failure};

impl Diagnose for CniError {
    fn code(&self) -> Code {
        match self.kind() {
            NetworkErrorKind::NoSuchNetwork => Code::NoSuchNetwork,
            NetworkErrorKind::Invalid => Code::InvalidValue,
            NetworkErrorKind::ProgramMissing => Code::NetworkProgramMissing,
            NetworkErrorKind::PortTaken => Code::PortTaken,
            NetworkErrorKind::Setup => Code::NetworkFailed,
        }
    }

    fn next_step(&self) -> Option<String> {
        Some(Self::next_step(self))
    }
}

/// What whoever wants to change a gate is told where there is none.
pub(crate) fn no_gate(container: &str) -> Failure {
    Failure {
        code: Code::WrongState,
        what: format!("{container} was started without --egress"),
        why: vec!["its gate stands between it and its network from the start, or not at all".into()],
        next: Some("start it again with --egress public, say".into()),
    }
}
