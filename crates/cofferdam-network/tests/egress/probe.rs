//! Real connections from inside of a namespace.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use cofferdam_network::namespace::enter;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, ipproto, recv, sendto, socket};

/// How long an answer may take on a busy machine. A gate refuses at once, so that this is seldom waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long nobody is heard where nobody should be.
pub(crate) const SILENCE: Duration = Duration::from_millis(300);

pub(crate) fn echo_tcp(listener: &TcpListener) {
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 1024];
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                if stream.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
        });
    }
}

pub(crate) fn echo_udp(socket: &UdpSocket) {
    let mut buffer = [0; 1024];
    while let Ok((count, client)) = socket.recv_from(&mut buffer) {
        let _ = socket.send_to(&buffer[..count], client);
    }
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap_or_else(|_| panic!("{text} is no address"))
}

/// A connection from a namespace.
pub(crate) fn connect(from: &Path, to: &str) -> Option<TcpStream> {
    connect_within(from, to, PATIENCE)
}

fn connect_within(from: &Path, to: &str, limit: Duration) -> Option<TcpStream> {
    let to = address(to);
    let stream = enter(from, move || TcpStream::connect_timeout(&to, limit)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    Some(stream)
}

/// Whether nobody answers, where nobody says so either.
pub(crate) fn is_silent(from: &Path, to: &str) -> bool {
    connect_within(from, to, SILENCE).is_none()
}

/// Whether a connection's echo answers.
pub(crate) fn is_alive(stream: &mut TcpStream) -> bool {
    let mut buffer = [0; 4];
    stream.write_all(b"ping").is_ok() && stream.read_exact(&mut buffer).is_ok() && buffer == *b"ping"
}

/// Whether an echo can be reached by TCP.
pub(crate) fn tcp(from: &Path, to: &str) -> bool {
    connect(from, to).is_some_and(|mut stream| is_alive(&mut stream))
}

/// A socket whose datagrams go to an echo.
pub(crate) fn datagrams(from: &Path, to: &str) -> UdpSocket {
    try_datagrams(from, to).unwrap()
}

/// The same where there may be no way.
fn try_datagrams(from: &Path, to: &str) -> std::io::Result<UdpSocket> {
    let to = address(to);
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = enter(from, move || {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(to)?;
        Ok(socket)
    })?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// Reads a datagram, also where a child's end interrupts it.
pub(crate) fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> std::io::Result<usize> {
    loop {
        match socket.recv(buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            received => return received,
        }
    }
}

/// Whether datagrams come back.
pub(crate) fn is_echoed(socket: &UdpSocket) -> bool {
    socket.send(b"ping").is_ok() && receive(socket, &mut [0; 4]).is_ok()
}

/// Whether an echo can be reached by UDP.
pub(crate) fn udp(from: &Path, to: &str) -> bool {
    try_datagrams(from, to).is_ok_and(|socket| is_echoed(&socket))
}

/// Whether an address answers an echo request of ICMP.
pub(crate) fn ping(from: &Path, to: &str) -> bool {
    let to: IpAddr = to.parse().unwrap();
    let (family, protocol, mut request) = match to {
        IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP, [8_u8, 0, 0, 0, 0x12, 0x34, 0, 1]),
        IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6, [128, 0, 0, 0, 0x12, 0x34, 0, 1]),
    };
    // The kernel writes the sum of ICMPv6 itself.
    let sum = request.chunks(2).fold(0_u16, |sum, pair| {
        let (sum, carry) = sum.overflowing_add(u16::from_be_bytes([pair[0], pair[1]]));
        sum + u16::from(carry)
    });
    request[2..4].copy_from_slice(&(!sum).to_be_bytes());
    let answered = enter(from, move || {
        let socket = socket(family, SocketType::RAW, Some(protocol))?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        sendto(&socket, &request, SendFlags::empty(), &SocketAddr::new(to, 0))?;
        let mut buffer = [0; 256];
        loop {
            let (count, _) =
                rustix::io::retry_on_intr(|| recv(&socket, &mut buffer[..], RecvFlags::empty()))?;
            // IPv4 comes with its header.
            let message = if to.is_ipv4() { &buffer[20..count] } else { &buffer[..count] };
            match message.first() {
                Some(0 | 129) => return Ok(()),
                // Unreachable, of either version.
                Some(3 | 1) => return Err(std::io::ErrorKind::HostUnreachable.into()),
                _ => {}
            }
        }
    });
    answered.is_ok()
}
