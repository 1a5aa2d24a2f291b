//! A container behind a gate: a namespace in which a runtime would run it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use cofferdam_network::egress::{Gate, GateError, Policy, Told, Uplink};
use cofferdam_network::{ProgramCall, ProgramEnd, Programs};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use tokio::sync::{mpsc, oneshot};

use crate::dns;
use crate::host::{add_to_bridge, namespace, serve};
use crate::programs::TokioPrograms;

/// How long a denial may take to be told.
const TOLD_WITHIN: Duration = Duration::from_secs(5);

/// The container's resolver.
pub(crate) const RESOLVER: &str = "169.254.53.53:53";

pub(crate) struct Container {
    pub(crate) inner: PathBuf,
    pub(crate) outer: PathBuf,
    pub(crate) gate: Gate,
    pub(crate) programs: Arc<RealPrograms>,
}

impl Container {
    /// One at 10.88.0.2 and fd88::2, with echoes.
    pub(crate) fn new(policy: &str) -> Self {
        let container = Self::silent(policy);
        serve(&container.inner, &["10.88.0.2", "fd88::2"]);
        container
    }

    /// The same, with nobody in it yet.
    pub(crate) fn silent(policy: &str) -> Self {
        Self::at(policy, &["10.88.0.2/16", "fd88::2/64"], &["10.88.0.1", "fd88::1"])
    }

    /// One at these addresses.
    pub(crate) fn at(policy: &str, addresses: &[&str], gateways: &[&str]) -> Self {
        add_to_bridge("gate", addresses);
        crate::host::sh("ip netns add inner");
        let uplink = Uplink {
            interface: "eth0".into(),
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            gateways: gateways.iter().map(|text| text.parse().unwrap()).collect(),
            routes: Vec::new(),
        };
        let (outer, inner) = (namespace("gate"), namespace("inner"));
        let programs = Arc::new(RealPrograms::default());
        let policy = Policy::parse(policy).unwrap();
        let gate = wait(Gate::make(programs.clone(), &outer, &inner, &uplink, &policy)).unwrap();
        Self { inner, outer, gate, programs }
    }

    pub(crate) fn change(&self, policy: &str) -> Result<(), GateError> {
        wait(self.gate.set_policy(&Policy::parse(policy).unwrap()))
    }

    /// Starts to serve the gate, as a supervisor does.
    pub(crate) fn serve(&self) -> Served {
        Served::new(self.gate.clone())
    }

    /// Asks the container's resolver.
    pub(crate) fn ask(&self, name: &str) -> Message {
        self.ask_for(name, RecordType::A)
    }

    pub(crate) fn ask_for(&self, name: &str, kind: RecordType) -> Message {
        dns::ask_for(&self.inner, RESOLVER, name, kind).unwrap_or_else(|| panic!("{name} is not answered"))
    }

    /// The addresses of a name, as the container learns them.
    pub(crate) fn addresses(&self, name: &str) -> Vec<String> {
        dns::addresses(&self.ask(name))
    }

    pub(crate) fn has_no(&self, name: &str) -> bool {
        self.ask(name).metadata.response_code == ResponseCode::NXDomain
    }
}

/// A gate that is served by a thread.
pub(crate) struct Served {
    pub(crate) told: mpsc::Receiver<Told>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Served {
    fn new(gate: Gate) -> Self {
        let (sender, told) = mpsc::channel(1024);
        let (stop, stopped) = oneshot::channel();
        let outer = namespace("gate");
        let thread = std::thread::spawn(move || {
            wait(async {
                tokio::select! {
                    ended = gate.serve("/run/resolv.conf".into(), sender) => panic!("{ended:?}"),
                    _ = stopped => {}
                }
            });
        });
        // The last socket that is opened is that of the log; it has a line in this file.
        cofferdam_testkit::lab::eventually("it is served", || {
            let is_open = cofferdam_network::namespace::enter(&outer, || {
                Ok(!std::fs::read_to_string("/proc/thread-self/net/netfilter/nfnetlink_log")?.is_empty())
            });
            is_open.unwrap()
        });
        Self { told, stop: Some(stop), thread: Some(thread) }
    }

    /// What is told next.
    #[track_caller]
    pub(crate) fn next(&mut self) -> Told {
        let next = wait(async { tokio::time::timeout(TOLD_WITHIN, self.told.recv()).await });
        next.expect("nothing is told").expect("nobody tells any more")
    }

    /// What was told by now.
    pub(crate) fn all(&mut self) -> Vec<Told> {
        std::iter::from_fn(|| self.told.try_recv().ok()).collect()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let (Some(stop), Some(thread)) = (self.stop.take(), self.thread.take()) {
            let _ = stop.send(());
            assert!(thread.join().is_ok() || std::thread::panicking());
        }
    }
}

/// Runs a future to its end.
pub(crate) fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Programs as they are, until they are told to fail.
#[derive(Debug, Default)]
pub(crate) struct RealPrograms {
    pub(crate) is_broken: AtomicBool,
}

#[async_trait]
impl Programs for RealPrograms {
    async fn run(&self, mut call: ProgramCall) -> io::Result<ProgramEnd> {
        if self.is_broken.load(Ordering::Relaxed) {
            // The last line: all before it must be undone.
            call.stdin.extend_from_slice(b"add rule inet cofferdam nowhere accept\n");
        }
        TokioPrograms.run(call).await
    }
}
