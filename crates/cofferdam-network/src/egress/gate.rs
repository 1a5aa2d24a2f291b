//! A gate: made, opened again, changed, taken away.
//!
//! Invariant: rules that let nothing through are there before the container's link is up, and every change is one
//! transaction. When this process dies the rules stay, and what was let in by name runs out.

use std::collections::HashMap;
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::error::GateError;
use super::guards::Guards;
use super::policy::{Policy, Target};
use super::rules::{self, INNER_LINK, MOST_ADDRESSES, Scene, Secret};
use super::wiring::{self, Uplink};
use super::{inside, links};
use crate::cni::client::find_program;
use crate::programs::{ProgramCall, ProgramStatus, Programs};

/// How long `nft` may take. It takes some 10 ms; a machine that is out of memory may need seconds.
const NFT_LIMIT: Duration = Duration::from_secs(10);

/// How much of what `nft` says is kept, in bytes.
const NFT_OUTPUT: usize = 64 << 10;

/// The least that an address is let in for: clients connect again after the answer's time.
const SHORTEST_OPEN: Duration = Duration::from_secs(60);

/// How long an address that is told has to be open still, or it is let in anew. Half of the least that it is let in for,
/// so that a name whose answers hold for no time starts a program twice in a minute, whoever asks.
const LEAST_LEFT: Duration = Duration::from_secs(30);

/// How much longer an answer may say that it holds than its addresses are open: kept answers age by whole seconds.
const ROUNDING: Duration = Duration::from_secs(1);

/// A gate between one container and its network, holding the container to a policy. Clones are the same gate.
#[derive(Debug, Clone)]
pub struct Gate {
    pub(super) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    nft: Nft,
    outer_link: String,
    pub(super) addresses: Vec<IpNet>,
    secret: Secret,
    active: RwLock<Arc<Active>>,
    /// One change of the rules at a time, and what was let in by name, until when.
    entries: tokio::sync::Mutex<HashMap<(Target, IpAddr), Instant>>,
    /// Who was told to be at an address.
    names: Mutex<HashMap<IpAddr, String>>,
}

/// A policy, and what it was applied with.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) policy: Policy,
    pub(super) guards: Guards,
}

/// Addresses could not be let in.
#[derive(Debug)]
pub(super) enum NotAdmitted {
    /// The policy is another one by now.
    Changed,
    /// There are too many, of all names together.
    Full,
    /// The filter refused.
    Failed(GateError),
}

impl Gate {
    /// Puts a gate between a network and a container.
    ///
    /// `outer` is the namespace that the network was attached to, `inner` an empty one for the container; both are
    /// files. The calling process is in the host's namespace. Afterwards `inner` looks as `outer` did, and packets pass
    /// as the policy says. Not cancel safe: a gate that was half made is taken away by [`Gate::unmake`].
    ///
    /// # Errors
    /// Nothing was let through then; [`Gate::unmake`] takes away what was made.
    pub async fn make(
        programs: Arc<dyn Programs>,
        outer: &Path,
        inner: &Path,
        uplink: &Uplink,
        policy: &Policy,
    ) -> Result<Self, GateError> {
        uplink.alias().map_err(GateError::Unfit)?;
        let nft = Nft::new(programs, outer)?;
        let gate = Self::apply(nft, uplink.interface.clone(), uplink.addresses.clone(), policy).await?;
        let opened = std::fs::File::open(inner);
        let container = opened.map_err(|source| GateError::Namespace {
            namespace: inner.to_owned(),
            what: "make the container's link",
            source,
        })?;
        let ours = uplink.clone();
        let like =
            inside::enter(outer, "make the gate's links", move || wiring::outside(&ours, &container.into()))
                .await?;
        let ours = uplink.clone();
        inside::enter(inner, "make the container's link", move || wiring::inside(&ours, &like)).await?;
        inside::enter(outer, "wait for the gate's link", wiring::settle).await?;
        Ok(gate)
    }

    /// Opens a gate that is there, and applies the policy that it should hold: after its supervisor was killed.
    ///
    /// Flows that the policy allows go on. Not cancel safe, but may be called again.
    ///
    /// # Errors
    /// There is none, or the policy could not be applied; then the gate holds what it held.
    pub async fn open(programs: Arc<dyn Programs>, outer: &Path, policy: &Policy) -> Result<Self, GateError> {
        let nft = Nft::new(programs, outer)?;
        let find = || links::with(async |links| links.find(INNER_LINK).await);
        let link = inside::enter(outer, "look for the gate", find).await?;
        let alias = link.and_then(|link| link.alias).and_then(|alias| wiring::read_alias(&alias));
        let (outer_link, addresses) = alias.ok_or_else(|| GateError::NoGate(outer.to_owned()))?;
        Self::apply(nft, outer_link, addresses, policy).await
    }

    /// Takes a gate away, so that the network's plugins find what they made. The container is cut off. It is no error
    /// that there is none, or no such namespace.
    ///
    /// # Errors
    /// The kernel or `nft` refused; may be called again.
    pub async fn unmake(programs: Arc<dyn Programs>, outer: &Path) -> Result<(), GateError> {
        if !outer.exists() {
            return Ok(());
        }
        inside::enter(outer, "take the gate's link away", wiring::unmake).await?;
        let nft = Nft::new(programs, outer)?;
        // What is added first can be taken away, whether it was there or not.
        let tables = ["inet", "netdev"];
        let script: String = tables
            .iter()
            .map(|family| format!("add table {family} cofferdam\ndelete table {family} cofferdam\n"))
            .collect();
        nft.run(&[], script).await.map(|_| ())
    }

    /// The policy that the gate holds.
    #[must_use]
    pub fn policy(&self) -> Policy {
        self.shared.active().policy.clone()
    }

    /// Changes the policy, and reads again which addresses are this host's. Flows that the new policy forbids are cut,
    /// in both directions; the others go on.
    ///
    /// Cancel safety: the change is made or not, and this gate may not know; call it again.
    ///
    /// # Errors
    /// The gate holds the policy it held.
    pub async fn set_policy(&self, policy: &Policy) -> Result<(), GateError> {
        let shared = &self.shared;
        let mut entries = shared.entries.lock().await;
        let guards = guards(&shared.addresses).await?;
        let before = shared.active();
        let script = shared.script(policy, &guards, &before.policy);
        shared.nft.run(&[], script).await?;
        entries.retain(|(target, _), _| policy.rules().iter().any(|rule| rule.target == *target));
        let active = Arc::new(Active { policy: policy.clone(), guards });
        *shared.active.write().unwrap_or_else(PoisonError::into_inner) = active;
        Ok(())
    }

    async fn apply(
        nft: Nft,
        outer_link: String,
        addresses: Vec<IpNet>,
        policy: &Policy,
    ) -> Result<Self, GateError> {
        let guards = guards(&addresses).await?;
        let active = RwLock::new(Arc::new(Active { policy: policy.clone(), guards: guards.clone() }));
        let (entries, names) = (tokio::sync::Mutex::default(), Mutex::default());
        let shared = Shared { nft, outer_link, addresses, secret: secret(), active, entries, names };
        shared.nft.run(&[], shared.script(policy, &guards, policy)).await?;
        Ok(Self { shared: Arc::new(shared) })
    }
}

impl Shared {
    pub(super) fn active(&self) -> Arc<Active> {
        Arc::clone(&self.active.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn namespace(&self) -> &Path {
        &self.nft.namespace
    }

    /// Lets the addresses of targets in, for as long as their answer holds, or [`SHORTEST_OPEN`]. Those that are open for
    /// long enough cost nothing. `under` is the policy that says so.
    pub(super) async fn admit(
        &self,
        under: &Arc<Active>,
        targets: &[&Target],
        addresses: &[IpAddr],
        holds_for: Duration,
    ) -> Result<(), NotAdmitted> {
        let mut entries = self.entries.lock().await;
        if !Arc::ptr_eq(under, &self.active()) {
            return Err(NotAdmitted::Changed);
        }
        let now = Instant::now();
        let time = holds_for.max(SHORTEST_OPEN);
        let until = now + time;
        let wanted = (now + holds_for.saturating_sub(ROUNDING)).max(now + LEAST_LEFT);
        let mut added = Vec::new();
        for target in targets {
            for address in addresses {
                let is_there =
                    entries.get(&((*target).clone(), *address)).is_some_and(|known| *known >= wanted);
                if !is_there {
                    added.push((*target, *address, time));
                }
            }
        }
        if added.is_empty() {
            return Ok(());
        }
        entries.retain(|_, known| *known > now);
        if entries.len() + added.len() > MOST_ADDRESSES {
            return Err(NotAdmitted::Full);
        }
        self.nft.run(&[], rules::entries(&added)).await.map_err(NotAdmitted::Failed)?;
        entries.extend(added.iter().map(|(target, address, _)| (((*target).clone(), *address), until)));
        Ok(())
    }

    /// Remembers whose addresses were told.
    pub(super) fn remember(&self, name: &str, addresses: &[IpAddr]) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if names.len() + addresses.len() > MOST_ADDRESSES {
            names.clear();
        }
        names.extend(addresses.iter().map(|address| (*address, name.to_owned())));
    }

    /// The name that was last told to be at an address.
    pub(super) fn name_of(&self, address: IpAddr) -> Option<String> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).get(&address).cloned()
    }

    /// How many refused packets the filter did not tell of, since it was made.
    pub(super) async fn untold(&self) -> Result<u64, GateError> {
        let said = self.nft.run(&["list", "counter", "inet", "cofferdam", "lost"], String::new()).await?;
        Ok(packets(&said).unwrap_or(0))
    }

    fn script(&self, policy: &Policy, guards: &Guards, before: &Policy) -> String {
        let addresses: Vec<IpAddr> = self.addresses.iter().map(IpNet::addr).collect();
        let (outer_link, secret) = (self.outer_link.as_str(), self.secret);
        rules::script(&Scene { outer_link, addresses: &addresses, policy, guards, secret }, before)
    }
}

/// The number of packets in what `nft list counter` says.
fn packets(said: &[u8]) -> Option<u64> {
    let text = String::from_utf8_lossy(said);
    let mut words = text.split_whitespace().skip_while(|word| *word != "packets");
    words.nth(1)?.parse().ok()
}

async fn guards(own: &[IpNet]) -> Result<Guards, GateError> {
    let host = inside::on_thread(|| links::with(async |links| links.own_nets().await)).await;
    let host = host.map_err(|source| GateError::Namespace {
        namespace: PathBuf::from("/proc/self/ns/net"),
        what: "read this host's addresses",
        source,
    })?;
    Ok(Guards::new(host.into_iter().chain(own.iter().copied())))
}

/// 64 bits that nobody guesses. A random UUID has some bits that are not random, which are left out.
fn secret() -> Secret {
    let bytes = uuid::Uuid::new_v4().into_bytes();
    let word = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    Secret { mark: word(0), priority: word(12) }
}

/// What gates are made with, and the packages that have it.
const PROGRAMS: [(&str, &str); 2] = [("nsenter", "util-linux"), ("nft", "nftables")];

/// `nft` in one network namespace.
#[derive(Debug)]
struct Nft {
    programs: Arc<dyn Programs>,
    namespace: PathBuf,
    nsenter: PathBuf,
    nft: PathBuf,
}

impl Nft {
    fn new(programs: Arc<dyn Programs>, namespace: &Path) -> Result<Self, GateError> {
        let [nsenter, nft] = PROGRAMS.map(|(program, package)| {
            find_program(program).map_err(|_| GateError::Missing { program, package })
        });
        let (nsenter, nft) = (nsenter?, nft?);
        Ok(Self { programs, namespace: namespace.to_owned(), nsenter, nft })
    }

    /// Runs a script, or what the arguments say where there are some. Returns what it said.
    async fn run(&self, args: &[&str], script: String) -> Result<Vec<u8>, GateError> {
        let mut namespace = OsString::from("--net=");
        namespace.push(&self.namespace);
        let mut all = vec![namespace, self.nft.clone().into_os_string()];
        if args.is_empty() {
            all.extend(["-f", "-"].map(OsString::from));
        } else {
            all.extend(args.iter().map(OsString::from));
        }
        let call = ProgramCall {
            program: self.nsenter.clone(),
            args: all,
            env: vec![("LC_ALL".into(), "C".into())],
            stdin: script.into_bytes(),
            limit: NFT_LIMIT,
            output_limit_bytes: NFT_OUTPUT,
        };
        let started = self.programs.run(call).await;
        let end = started.map_err(|source| GateError::Start { program: self.nsenter.clone(), source })?;
        let status = match end.status {
            ProgramStatus::Exited(0) => return Ok(end.stdout),
            ProgramStatus::Exited(code) => format!("exit code {code}"),
            ProgramStatus::Signaled(signal) => format!("signal {signal}"),
            ProgramStatus::TimedOut => format!("not within {} s", NFT_LIMIT.as_secs()),
        };
        let said = String::from_utf8_lossy(&end.stderr).trim().to_owned();
        Err(GateError::Program { program: "nft", namespace: self.namespace.clone(), status, said })
    }
}

/// The programs that gates need and this machine does not have.
#[must_use]
pub fn missing_programs() -> Vec<&'static str> {
    PROGRAMS.into_iter().map(|(program, _)| program).filter(|name| find_program(name).is_err()).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;

    use super::*;
    use crate::programs::ProgramEnd;

    /// Counts what is started.
    #[derive(Debug, Default)]
    struct Counted(AtomicUsize);

    #[async_trait]
    impl Programs for Counted {
        async fn run(&self, _: ProgramCall) -> std::io::Result<ProgramEnd> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(ProgramEnd { status: ProgramStatus::Exited(0), stdout: Vec::new(), stderr: Vec::new() })
        }
    }

    fn shared(programs: Arc<Counted>, policy: &Policy) -> Shared {
        let path = PathBuf::from("/nowhere");
        Shared {
            nft: Nft { programs, namespace: path.clone(), nsenter: path.clone(), nft: path },
            outer_link: "eth0".into(),
            addresses: Vec::new(),
            secret: secret(),
            active: RwLock::new(Arc::new(Active { policy: policy.clone(), guards: Guards::new([]) })),
            entries: tokio::sync::Mutex::default(),
            names: Mutex::default(),
        }
    }

    #[tokio::test]
    async fn what_is_open_for_long_enough_starts_no_program() {
        let programs = Arc::new(Counted::default());
        let policy = Policy::parse("allow:api.example").unwrap();
        let gate = shared(Arc::clone(&programs), &policy);
        let active = gate.active();
        let targets = active.policy.targets_of("api.example");
        let address: IpAddr = "93.184.216.34".parse().unwrap();
        let admit = async |seconds: u64| {
            let holds_for = Duration::from_secs(seconds);
            gate.admit(&active, &targets, &[address], holds_for).await.unwrap();
            programs.0.load(Ordering::Relaxed)
        };
        // A kept answer ages by whole seconds, and so says 300 s for a second.
        for seconds in [300, 300, 299, 60, 1, 0] {
            assert_eq!(admit(seconds).await, 1, "{seconds} s");
        }
        assert_eq!(admit(400).await, 2, "for longer");
        for (left, count) in [(40, 2), (20, 3)] {
            let until = Instant::now() + Duration::from_secs(left);
            gate.entries.lock().await.insert((targets[0].clone(), address), until);
            assert_eq!(admit(0).await, count, "{left} s are left");
        }
        assert_eq!(admit(0).await, 3);
    }
}
