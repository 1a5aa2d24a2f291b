//! Whom a host's TLS trusts, and who we are to it: docker's `certs.d`.

use std::error::Error;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use reqwest::{Certificate, Identity};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::error::ImageError;
use crate::store::files::read_limited;

/// The largest file of certificates that is read, in bytes: the whole bundle of a system has about 200 KiB.
const FILE_LIMIT: u64 = 1 << 20;

/// What belongs to a host.
#[derive(Default)]
pub(super) struct Certificates {
    /// Authorities to trust beside those of the system.
    pub(super) authorities: Vec<Certificate>,
    /// Who we are to it.
    pub(super) identity: Option<Identity>,
}

/// Reads what the directories have for a host. A directory that is not there has nothing.
pub(super) fn of_host(directories: &[PathBuf], host: &str) -> Result<Certificates, ImageError> {
    let mut found = Certificates::default();
    // A host is no path: whoever names `..` gets nothing.
    if host.contains('/') || host.starts_with('.') {
        return Ok(found);
    }
    for path in directories.iter().flat_map(|directory| files(&directory.join(host))) {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => {
                found.authorities.extend(authorities(&read(&path)?).map_err(|error| unusable(&path, error))?);
            }
            Some("cert") => {
                let mut pem = read(&path)?;
                pem.push(b'\n');
                pem.extend(read(&path.with_extension("key"))?);
                found.identity = Some(Identity::from_pem(&pem).map_err(|error| unusable(&path, error))?);
            }
            _ => {}
        }
    }
    Ok(found)
}

/// The files of a directory, in an order that is always the same.
fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    paths
}

/// The certificates of a file. Each is looked into here, where the file has a name: reqwest does that when all are together.
fn authorities(pem: &[u8]) -> Result<Vec<Certificate>, Box<dyn Error + Send + Sync>> {
    let mut store = RootCertStore::empty();
    let mut found = Vec::new();
    for der in CertificateDer::pem_slice_iter(pem) {
        let der = der?;
        found.push(Certificate::from_der(&der)?);
        store.add(der)?;
    }
    Ok(found)
}

fn read(path: &Path) -> Result<Vec<u8>, ImageError> {
    File::open(path).and_then(|file| read_limited(file, FILE_LIMIT)).map_err(|source| ImageError::File {
        path: path.to_owned(),
        what: "read",
        source,
    })
}

fn unusable(path: &Path, error: impl Into<Box<dyn Error + Send + Sync>>) -> ImageError {
    ImageError::File {
        path: path.to_owned(),
        what: "used for TLS",
        source: io::Error::new(io::ErrorKind::InvalidData, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_too_long_is_not_cut() {
        let place = tempfile::tempdir().unwrap();
        std::fs::create_dir(place.path().join("a.example")).unwrap();
        let limit = usize::try_from(FILE_LIMIT).unwrap();
        std::fs::write(place.path().join("a.example/ca.crt"), "\n".repeat(limit + 1)).unwrap();
        let Err(error) = of_host(&[place.path().to_owned()], "a.example") else { panic!("it is read") };
        assert!(
            matches!(error, ImageError::File { source, .. } if source.kind() == io::ErrorKind::FileTooLarge)
        );
    }
}
