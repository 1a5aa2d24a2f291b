//! What a supervisor does for a gate while its container runs.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::denials::{Teller, Told};
use super::error::GateError;
use super::gate::{Gate, Shared};
use super::resolver::Resolver;
use super::rules::{RESOLVER_V4, RESOLVER_V6};
use super::upstream::Upstream;
use super::{inside, packets};

/// How often it is looked whether the filter was too busy to tell: that starts a program.
const LOST_INTERVAL: Duration = Duration::from_secs(10);

/// Sockets of the gate's namespace.
struct Sockets {
    udp: std::net::UdpSocket,
    tcp: std::net::TcpListener,
    packets: std::os::fd::OwnedFd,
}

impl Gate {
    /// The address at which the container's resolver is, for its `resolv.conf`.
    #[must_use]
    pub fn resolver(&self) -> IpAddr {
        let has_v4 = self.shared.addresses.iter().any(|net| net.addr().is_ipv4());
        if has_v4 { RESOLVER_V4.into() } else { RESOLVER_V6.into() }
    }

    /// Resolves names for the container, and tells what is denied, until it is dropped.
    ///
    /// `resolv_conf` is the host's, and is read again for each question. What does not fit into `told` is counted, and
    /// told as [`Told::Lost`]. One process at a time may serve a gate. When it is dropped, or its process is killed, no
    /// name is answered any more, and what was let in by name runs out.
    ///
    /// # Errors
    /// A socket could not be opened, or broke: serve again.
    pub async fn serve(&self, resolv_conf: PathBuf, told: mpsc::Sender<Told>) -> Result<(), GateError> {
        let shared = Arc::clone(&self.shared);
        let address = SocketAddr::new(self.resolver(), 53);
        let open = move || {
            let udp = std::net::UdpSocket::bind(address)?;
            let tcp = std::net::TcpListener::bind(address)?;
            udp.set_nonblocking(true)?;
            tcp.set_nonblocking(true)?;
            Ok(Sockets { udp, tcp, packets: packets::open()? })
        };
        let sockets = inside::enter(shared.namespace(), "open the gate's sockets", open).await?;
        let broke = |source| GateError::Namespace {
            namespace: shared.namespace().to_owned(),
            what: "serve the gate's sockets",
            source,
        };
        let teller = Arc::new(Teller::new(told));
        let upstream = Upstream { resolv_conf };
        let resolver = Arc::new(Resolver::new(Arc::clone(&shared), upstream, Arc::clone(&teller)));
        let udp = UdpSocket::from_std(sockets.udp).map_err(broke)?;
        let tcp = TcpListener::from_std(sockets.tcp).map_err(broke)?;
        let ended: io::Result<()> = tokio::select! {
            ended = Arc::clone(&resolver).serve_udp(udp) => ended,
            ended = resolver.serve_tcp(tcp) => ended,
            ended = packets::listen(sockets.packets, Arc::clone(&shared), Arc::clone(&teller)) => ended,
            () = count_lost(&shared, &teller) => Ok(()),
        };
        ended.map_err(broke)
    }
}

/// Counts what the filter did not tell, and tells all that was lost.
async fn count_lost(shared: &Shared, teller: &Teller) {
    let mut known = None;
    let mut ticks = tokio::time::interval(LOST_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match shared.untold().await {
            Ok(count) => {
                teller.lose(count.saturating_sub(known.unwrap_or(count)));
                known = Some(count);
            }
            Err(error) => tracing::debug!(%error, "cannot read how many denials were not told"),
        }
        teller.tell_lost();
    }
}
