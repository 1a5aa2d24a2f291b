//! The files by which a container knows names: /etc/hosts, /etc/resolv.conf and /etc/hostname, which are ours.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use cofferdam_network::names::{RESOLVER_FILES, hostname, hosts, resolv_conf};

use super::{Attachment, CniError, NameRequest};

/// Where they lie on the host, and in the container.
#[derive(Debug, Clone)]
pub(crate) struct NameFiles {
    directory: PathBuf,
}

/// How long a file of the host may be of which names are taken, in bytes.
const HOST_FILE_LIMIT: u64 = 64 << 10;

impl NameFiles {
    /// The files and their places in the container.
    const FILES: [(&str, &str); 3] =
        [("hosts", "/etc/hosts"), ("hostname", "/etc/hostname"), ("resolv.conf", "/etc/resolv.conf")];

    /// Those of a container, in its folder.
    pub(crate) fn of(folder: &Path) -> Self {
        Self { directory: folder.join("etc") }
    }

    /// Pairs of a file and its place in the container.
    pub(crate) fn mounts(&self) -> impl Iterator<Item = (PathBuf, &'static str)> {
        Self::FILES.into_iter().map(|(name, place)| (self.directory.join(name), place))
    }

    /// Writes them; they are written in place, as they may be mounted already.
    ///
    /// # Errors
    /// The request's names cannot be right, or a file cannot be written.
    pub(crate) fn write(&self, names: &Names<'_>) -> Result<(), CniError> {
        let attachment = names.attachment;
        let addresses: Vec<IpAddr> =
            attachment.iter().flat_map(|attachment| &attachment.addresses).map(|net| net.addr()).collect();
        let gateway = attachment.and_then(|attachment| attachment.gateways.first().copied());
        let called = [names.hostname.to_owned()];
        let own = match names.has_host_network {
            true => read_host("/etc/hosts"),
            false => hosts(names.request, &addresses, &called, gateway)?,
        };
        let from_host = RESOLVER_FILES.map(read_host);
        let dns = attachment.map(|attachment| attachment.dns.clone()).unwrap_or_default();
        let host = [from_host[0].as_str(), from_host[1].as_str()];
        let resolvers = resolv_conf(names.request, &dns, host, names.has_host_network);
        for (name, text) in
            [("hosts", own), ("hostname", hostname(names.hostname)?), ("resolv.conf", resolvers)]
        {
            self.put(name, &text)?;
        }
        Ok(())
    }

    /// Writes who resolves names for the container's gate, and gives the file.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn write_upstream(&self, request: &NameRequest) -> Result<PathBuf, CniError> {
        const FILE: &str = "upstream.conf";
        self.put(FILE, &resolv_conf(request, &Default::default(), ["", ""], true))?;
        Ok(self.directory.join(FILE))
    }

    fn put(&self, name: &str, text: &str) -> Result<(), CniError> {
        let path = self.directory.join(name);
        let written = std::fs::create_dir_all(&self.directory).and_then(|()| std::fs::write(&path, text));
        let readable = written.and_then(|()| open_to_all(&path));
        readable.map_err(|source| CniError::Record { path: path.clone(), what: "written", source })
    }
}

/// What the files are made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Names<'a> {
    pub(crate) request: &'a NameRequest,
    pub(crate) hostname: &'a str,
    pub(crate) attachment: Option<&'a Attachment>,
    pub(crate) has_host_network: bool,
}

/// The container's users read it, whatever our umask is.
fn open_to_all(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644))
}

/// A file of the host; nothing where it cannot be read.
fn read_host(path: &str) -> String {
    use std::io::Read;
    let mut text = String::new();
    let read =
        std::fs::File::open(path).and_then(|file| file.take(HOST_FILE_LIMIT).read_to_string(&mut text));
    if let Err(error) = read
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path, %error, "a file of the host is not used");
    }
    text
}
