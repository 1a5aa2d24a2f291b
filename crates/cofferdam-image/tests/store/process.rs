//! Programs, and this one as another process.
#![expect(clippy::disallowed_methods, reason = "tests start the tools that they compare with")]

use std::path::Path;
use std::process::{Child, Command, Stdio};

use async_trait::async_trait;
use cofferdam_image::progress::Progress;
use cofferdam_image::source::{BlobStream, ImageSource};
use cofferdam_image::{ImageError, Store};
use oci_spec::image::{Descriptor, Digest};

use crate::layouts::{linux, local};

/// The first argument of this program when it is to be a worker.
const WORKER: &str = "store-worker";

/// Runs a program that is to succeed; gives its standard output.
pub(crate) fn output(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{program} {args:?}: {error}{}",
        String::from_utf8_lossy(&output.stdout)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Starts this program as a worker, that acquires and unpacks an image and notes what it fetched and unpacked.
pub(crate) fn worker(store: &Path, reference: &str, notes: &Path) -> Child {
    let this = std::env::current_exe().unwrap();
    let mut command = Command::new(this);
    command.arg(WORKER).arg(store).arg(reference).arg(notes).stdin(Stdio::null()).spawn().unwrap()
}

/// Runs this program as a worker on a file system of its own, of so many bytes.
pub(crate) fn worker_on_small_disk(bytes: u64, mount_point: &Path, args: &[&str]) {
    let script = format!(r#"mount -t tmpfs -o size={bytes} tmpfs "$0" && exec "$@""#,);
    let this = std::env::current_exe().unwrap();
    let mount_point = mount_point.to_str().unwrap();
    let fixed = ["--mount", "sh", "-c", &script, mount_point, this.to_str().unwrap()];
    output("unshare", &[&fixed, args].concat());
}

/// Does what a worker is to do, if this process is one.
pub(crate) async fn work() -> bool {
    let args: Vec<String> = std::env::args().collect();
    match args.iter().skip(1).map(String::as_str).collect::<Vec<_>>().as_slice() {
        [WORKER, store, reference, notes] => {
            let store = Store::open(Path::new(store)).unwrap();
            let noting = Noting(notes.into());
            let source = NotingSource(local(&store, reference).unwrap(), Noting(notes.into()));
            let image = store.acquire(&source, Some("n"), &linux(), &noting).await.unwrap();
            store.layers(&image, &noting).await.unwrap();
            true
        }
        [crate::disk::WORKER, place, layout] => {
            crate::disk::work(Path::new(place), Path::new(layout)).await;
            true
        }
        _ => false,
    }
}

/// Writes down what happens, a line each.
#[derive(Debug)]
struct Noting(std::path::PathBuf);

impl Noting {
    fn note(&self, what: &str, digest: &Digest) {
        use std::io::Write;
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(&self.0).unwrap();
        file.write_all(format!("{what} {digest}\n").as_bytes()).unwrap();
    }
}

impl Progress for Noting {
    fn total(&self, _: &Digest, _: u64) {}
    fn advanced(&self, _: &Digest, _: u64) {}
    fn done(&self, _: &Digest) {}
    fn extracting(&self, blob: &Digest, bytes: u64, _: u64) {
        if bytes == 0 {
            self.note("unpacks", blob);
        }
    }
    fn extracted(&self, _: &Digest) {}
}

#[derive(Debug)]
struct NotingSource<S>(S, Noting);

#[async_trait]
impl<S: ImageSource> ImageSource for NotingSource<S> {
    async fn root(&self) -> Result<(Descriptor, Vec<u8>), ImageError> {
        self.0.root().await
    }

    async fn blob(&self, descriptor: &Descriptor, offset: u64) -> Result<BlobStream, ImageError> {
        self.1.note("fetches", descriptor.digest());
        self.0.blob(descriptor, offset).await
    }
}
