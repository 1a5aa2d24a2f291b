//! Refused packets, as the kernel logs them to a netlink socket of the gate's namespace.

use std::io;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use etherparse::{LaxSlicedPacket, TransportSlice};
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_netfilter::nflog::{
    ConfigCmd, ConfigFlags, ConfigMode, PacketNla, ULogMessage, config_request,
};
use netlink_packet_netfilter::{NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

use super::denials::{Denial, Protocol, Teller};
use super::gate::Shared;
use super::rules::LOG_GROUP;
use crate::sys::egress_socket;

/// Room for one read of logged packets, which come one in each message.
const BUFFER: usize = 64 << 10;

/// Opens a socket that hears of packets refused in the calling thread's namespace.
pub(super) fn open() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let kind = Some(netlink::NETFILTER);
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, kind)?;
    // The group is asked for by whoever listens: a second listener is refused by the kernel.
    let request = vec![ConfigCmd::Bind.into(), ConfigFlags::SEQ.into(), ConfigMode::PACKET_MAX.into()];
    let message = config_request(NetfilterProtoFamily::Unspec, LOG_GROUP, request);
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    rustix::net::send(&socket, &bytes, SendFlags::empty())?;
    // The kernel answers a request within the call.
    let mut answer = vec![0; BUFFER];
    let (count, _) = rustix::net::recv(&socket, &mut answer[..], RecvFlags::empty())?;
    let answer =
        NetlinkMessage::<NetfilterMessage>::deserialize(&answer[..count]).map_err(io::Error::other)?;
    match answer.payload {
        NetlinkPayload::Error(error) if error.code.is_some() => Err(error.to_io()),
        _ => Ok(socket),
    }
}

/// Tells of refused packets until the socket breaks.
pub(super) async fn listen(socket: OwnedFd, gate: Arc<Shared>, teller: Arc<Teller>) -> io::Result<()> {
    let socket = egress_socket::watch(socket)?;
    let mut buffer = vec![0; BUFFER];
    let mut next = None;
    loop {
        let mut ready = socket.readable().await?;
        let read = ready
            .try_io(|socket| Ok(rustix::net::recv(socket.get_ref(), &mut buffer[..], RecvFlags::empty())?));
        match read {
            Ok(Ok((count, _))) => {
                for logged in messages(&buffer[..count]) {
                    heard(&logged, &gate, &teller, &mut next);
                }
            }
            // Some did not fit: the numbers say how many.
            Ok(Err(error)) if Errno::from_io_error(&error) == Some(Errno::NOBUFS) => {}
            Ok(Err(error)) => return Err(error),
            Err(_would_block) => {}
        }
    }
}

/// Takes one logged packet. The kernel numbers them; `next` is the number that should come.
fn heard(logged: &[PacketNla], gate: &Shared, teller: &Teller, next: &mut Option<u32>) {
    for attribute in logged {
        match attribute {
            PacketNla::Seq(number) => {
                let expected = next.unwrap_or(*number);
                teller.lose(number.wrapping_sub(expected).into());
                *next = Some(number.wrapping_add(1));
            }
            PacketNla::Payload(bytes) => match destination(bytes) {
                Some((address, protocol, port)) => {
                    let name = gate.name_of(address);
                    teller.tell(Denial::Packet { address, protocol, port, name });
                }
                None => teller.lose(1),
            },
            _ => {}
        }
    }
}

fn messages(mut bytes: &[u8]) -> Vec<Vec<PacketNla>> {
    let mut all = Vec::new();
    while let Ok(message) = NetlinkMessage::<NetfilterMessage>::deserialize(bytes) {
        let length = message.header.length as usize;
        if let NetlinkPayload::InnerMessage(NetfilterMessage {
            inner: NetfilterMessageInner::ULog(ULogMessage::Packet(attributes)),
            ..
        }) = message.payload
        {
            all.push(attributes);
        }
        // Messages begin at multiples of four.
        match bytes.get(length.next_multiple_of(4)..) {
            Some(rest) if length > 0 && !rest.is_empty() => bytes = rest,
            _ => break,
        }
    }
    all
}

/// Where a packet was to go. The packet may be cut short.
fn destination(bytes: &[u8]) -> Option<(IpAddr, Protocol, Option<NonZeroU16>)> {
    let packet = LaxSlicedPacket::from_ip(bytes).ok()?;
    let (address, number): (IpAddr, u8) = match packet.net.as_ref()? {
        etherparse::LaxNetSlice::Ipv4(slice) => {
            (slice.header().destination_addr().into(), slice.payload().ip_number.0)
        }
        etherparse::LaxNetSlice::Ipv6(slice) => {
            (slice.header().destination_addr().into(), slice.payload().ip_number.0)
        }
        etherparse::LaxNetSlice::Arp(_) => return None,
    };
    let (protocol, port) = match packet.transport {
        Some(TransportSlice::Tcp(header)) => (Protocol::Tcp, Some(header.destination_port())),
        Some(TransportSlice::Udp(header)) => (Protocol::Udp, Some(header.destination_port())),
        Some(TransportSlice::Icmpv4(_) | TransportSlice::Icmpv6(_)) => (Protocol::Icmp, None),
        Some(TransportSlice::Igmp(_)) | None => (Protocol::Other(number), None),
    };
    Some((address, protocol, port.and_then(NonZeroU16::new)))
}
