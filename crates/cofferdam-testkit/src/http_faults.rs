//! A small HTTP server that passes requests on to a real one, and does what a test tells it to some of them.
//!
//! Each connection has one request. It is a proxy too: `CONNECT` and whole URLs lead to the server behind it, whatever they
//! name. Dropped, it takes no more connections.
#![expect(clippy::unwrap_used, reason = "this is a part of tests: a panic is their failure")]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long a connection may stand still: a test that is wrong ends by it.
const STILL_LIMIT: Duration = Duration::from_secs(20);

/// A request.
#[derive(Debug, Clone)]
pub struct Asked {
    /// `GET`.
    pub method: String,
    /// The path with its query; the URL, or host and port, where a proxy was asked.
    pub target: String,
    /// The request's line and headers.
    pub head: String,
}

/// What becomes of a request.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The server behind answers.
    None,
    /// It answers, and the connection is cut after so many bytes, headers counted.
    Cut(usize),
    /// Nothing is answered, until the client goes.
    Stall,
    /// The server behind answers so many bytes, and then nothing, until the client goes.
    StallAfter(usize),
    /// This is answered: status, headers, body.
    Answer(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// This is answered with a body that does not end.
    Endless(Vec<(&'static str, String)>),
}

type Decide = dyn Fn(&Asked) -> Fault + Send + Sync;

/// The server.
pub struct FaultServer {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    stop: Arc<AtomicBool>,
}

impl std::fmt::Debug for FaultServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FaultServer").field("address", &self.address).finish_non_exhaustive()
    }
}

impl FaultServer {
    /// Starts one before a server (`HOST:PORT`).
    #[must_use]
    pub fn before(upstream: &str, decide: impl Fn(&Asked) -> Fault + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, stop) = (Arc::<Mutex<Vec<Asked>>>::default(), Arc::<AtomicBool>::default());
        let decide: Arc<Decide> = Arc::new(decide);
        let shared = (Arc::clone(&asked), Arc::clone(&stop), upstream.to_owned());
        std::thread::spawn(move || {
            let (asked, stop, upstream) = shared;
            for client in listener.incoming().map_while(Result::ok) {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let (asked, upstream, decide) = (Arc::clone(&asked), upstream.clone(), Arc::clone(&decide));
                // A connection that breaks is what tests are about.
                std::thread::spawn(move || serve(client, &upstream, &asked, &*decide).ok());
            }
        });
        Self { address, asked, stop }
    }

    /// Its host and port.
    #[must_use]
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// What it was asked so far, in order.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for FaultServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // It wakes the thread that accepts, which then ends.
        let _ = TcpStream::connect(self.address);
    }
}

impl Asked {
    /// A header's value.
    #[must_use]
    pub fn header(&self, wanted: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(':'));
        lines.filter(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.trim()).next()
    }
}

fn serve(
    mut client: TcpStream,
    upstream: &str,
    asked: &Mutex<Vec<Asked>>,
    decide: &Decide,
) -> std::io::Result<()> {
    client.set_read_timeout(Some(STILL_LIMIT))?;
    client.set_write_timeout(Some(STILL_LIMIT))?;
    let Some(request) = read_request(&mut client)? else { return Ok(()) };
    asked.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
    match decide(&request) {
        Fault::None => pass(client, upstream, &request, usize::MAX)?.shutdown(Shutdown::Both),
        Fault::Cut(bytes) => pass(client, upstream, &request, bytes)?.shutdown(Shutdown::Both),
        Fault::Stall => until_gone(client),
        Fault::StallAfter(bytes) => until_gone(pass(client, upstream, &request, bytes)?),
        Fault::Answer(status, headers, body) => {
            let length = [("content-length", body.len().to_string())];
            client.write_all(head(status, headers.into_iter().chain(length)).as_bytes())?;
            client.write_all(&body)
        }
        Fault::Endless(headers) => {
            client.write_all(head(200, headers.into_iter()).as_bytes())?;
            loop {
                client.write_all(&[b' '; 16 << 10])?;
            }
        }
    }
}

/// The head of a request; its body is read as far as it has come with it.
fn read_request(client: &mut TcpStream) -> std::io::Result<Option<Asked>> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        // A TLS greeting has no lines: whoever sends one learns that there is no TLS here.
        if client.read(&mut byte)? == 0 || (head.is_empty() && byte[0] == 0x16) {
            client.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n")?;
            return Ok(None);
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut words = head.split(' ').map(str::to_owned);
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    Ok(Some(Asked { method, target, head }))
}

/// Passes a request on, and so many bytes of the answer back.
fn pass(client: TcpStream, upstream: &str, request: &Asked, limit: usize) -> std::io::Result<TcpStream> {
    let mut server = TcpStream::connect(upstream)?;
    server.set_read_timeout(Some(STILL_LIMIT))?;
    let (mut to_client, mut from_client) = (client.try_clone()?, client.try_clone()?);
    if request.method == "CONNECT" {
        to_client.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
    } else {
        let path = request
            .target
            .split_once("://")
            .map_or(request.target.as_str(), |(_, rest)| rest.find('/').map_or("/", |slash| &rest[slash..]));
        let headers =
            request.head.lines().skip(1).filter(|line| !line.to_lowercase().starts_with("connection:"));
        let lines = headers.filter(|line| !line.is_empty()).map(|line| format!("{line}\r\n"));
        let headers: String = lines.collect();
        let head = format!("{} {path} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n", request.method);
        server.write_all(head.as_bytes())?;
    }
    let mut to_server = server.try_clone()?;
    std::thread::spawn(move || std::io::copy(&mut from_client, &mut to_server));
    std::io::copy(&mut server.take(limit as u64), &mut to_client)?;
    Ok(client)
}

fn until_gone(mut client: TcpStream) -> std::io::Result<()> {
    std::io::copy(&mut client, &mut std::io::sink()).map(drop)
}

fn head(status: u16, headers: impl Iterator<Item = (&'static str, String)>) -> String {
    let lines: String = headers.map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("HTTP/1.1 {status} As Told\r\n{lines}connection: close\r\n\r\n")
}
