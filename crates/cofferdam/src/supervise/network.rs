//! A container's network: attached before the runtime is called, for one run alone, and taken away after it. While it
//! runs, its gate resolves names for it, and what is denied becomes an event.

use std::path::PathBuf;
use std::time::Duration;

use cofferdam_network::egress::{Gate, Policy, Told};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::error::StartError;
use super::supervisor::Supervisor;
use crate::bundle;
use crate::error::Failure;
use crate::event::Happening;
use crate::fault;
use crate::lifecycle::Verb;
use crate::network::{ConnectError, Connected, HeldPorts, NameFiles, Names};
use crate::spec::SpecView;

/// Denials that wait to be written down at once; more are counted.
const DENIALS_LIMIT: usize = 64;
/// The pause before a gate is served again whose sockets broke.
const SERVE_PAUSE: Duration = Duration::from_secs(1);
/// Who resolves names for the host.
const HOST_RESOLVERS: &str = "/etc/resolv.conf";

/// A gate that is served as long as this lives.
#[derive(Debug)]
pub(super) struct Serving {
    gate: Gate,
    _tasks: JoinSet<()>,
}

impl Supervisor {
    /// Attaches the container to its network, if it has one of CNI. What is made is taken away with the rest of it.
    pub(super) async fn connect(&mut self) -> Result<(), StartError> {
        let Some(connection) = self.record.connection.clone() else { return Ok(()) };
        // Of its last run: gVisor has taken the addresses of that away, and its ports must be free.
        (self.record.attachment, self.serving) = (None, None);
        self.held_ports = HeldPorts::default();
        let connected = Box::pin(connection.begin(&self.container.id)).await.map_err(StartError::Network)?;
        fault::reached("launch.network")?;
        let Connected { attachment, held, namespace, gate } = connected;
        let bundle = self.container.bundle();
        bundle::join_network(&bundle, &namespace)?;
        let config = bundle::read_config(&bundle)?;
        let mut request = connection.names.clone();
        if let Some(gate) = &gate {
            request.dns = vec![gate.resolver()];
        }
        let names = Names {
            request: &request,
            hostname: SpecView::of(&config).hostname(),
            attachment: Some(&attachment),
            has_host_network: false,
        };
        let written = NameFiles::of(self.container.path()).write(&names);
        written.map_err(|error| StartError::Network(error.into()))?;
        (self.record.attachment, self.held_ports) = (Some(Box::new(attachment)), held);
        self.serve(gate)
    }

    /// Takes the gate over of a supervisor that was killed. One that cannot be holds what it held, and resolves nothing.
    pub(super) async fn reopen_gate(&mut self) {
        let (Some(connection), Some(attachment)) = (&self.record.connection, &self.record.attachment) else {
            return;
        };
        let opened = Box::pin(connection.reopen_gate(attachment)).await;
        let served = opened.map_err(StartError::Network).and_then(|gate| self.serve(gate));
        if let Err(error) = served {
            tracing::warn!(error = %Failure::of(&error), "what it may reach is held, and its names are not resolved");
        }
    }

    /// Resolves names for the container, and writes down what it is denied.
    fn serve(&mut self, gate: Option<Gate>) -> Result<(), StartError> {
        let Some(gate) = gate else { return Ok(()) };
        let resolvers = self.resolvers()?;
        let (sender, mut told) = mpsc::channel(DENIALS_LIMIT);
        let mut tasks = JoinSet::new();
        let served = gate.clone();
        tasks.spawn(async move {
            while let Err(error) = served.serve(resolvers.clone(), sender.clone()).await {
                tracing::warn!(%error, "names are not resolved for a moment");
                tokio::time::sleep(SERVE_PAUSE).await;
            }
        });
        let (state, id, name) = (self.state.clone(), self.container.id.clone(), self.record.name.clone());
        tasks.spawn(async move {
            while let Some(told) = told.recv().await {
                let what = match told {
                    Told::Denied(denial) => {
                        Happening::NetDenied { what: denial.to_string(), allow: denial.flag() }
                    }
                    Told::Lost(count) => Happening::NetDenied { what: format!("{count} more"), allow: None },
                };
                if let Err(error) = state.append_event(&id, name.as_ref(), what) {
                    tracing::warn!(error = %Failure::of(&error), "a denial could not be written down");
                }
            }
        });
        self.serving = Some(Serving { gate, _tasks: tasks });
        Ok(())
    }

    /// The file that says who resolves names for the gate: the host's, or what the caller has chosen.
    fn resolvers(&self) -> Result<PathBuf, StartError> {
        let Some(connection) =
            self.record.connection.as_ref().filter(|connection| !connection.names.dns.is_empty())
        else {
            return Ok(HOST_RESOLVERS.into());
        };
        let written = NameFiles::of(self.container.path()).write_upstream(&connection.names);
        written.map_err(|error| StartError::Network(error.into()))
    }

    /// Changes what the container may reach. When that fails, it is held to what it was held to.
    pub(super) async fn change_egress(&mut self, policy: &str) -> Result<(), Failure> {
        self.check(Verb::Update)?;
        let (Some(connection), Some(serving)) = (&mut self.record.connection, &self.serving) else {
            return Err(crate::network::no_gate(&self.record.title()));
        };
        let failed = |error: ConnectError| Failure::of(&error);
        let policy = Policy::parse(policy).map_err(|error| failed(error.into()))?;
        serving.gate.set_policy(&policy).await.map_err(|error| failed(error.into()))?;
        connection.egress = Some(policy.to_string());
        self.note(self.record.status);
        self.tell(Happening::Egress { policy: policy.to_string() });
        Ok(())
    }
}
