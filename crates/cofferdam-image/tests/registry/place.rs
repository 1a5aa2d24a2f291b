//! What the trials share: registries with an image in them, and short limits.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cofferdam_image::ImageError;
use cofferdam_image::reference::reference;
use cofferdam_image::registry::{Credentials, Limits, Registry, RegistryConfig, RegistrySource};
use cofferdam_image::source::{BlobStream, ImageSource};
use cofferdam_testkit::registry::{RegistryServer, Tls, User, layout};
use oci_spec::image::{Descriptor, ImageManifest};
use tokio::io::AsyncReadExt;

/// A test by its name.
pub(crate) type Test = (&'static str, fn() -> Pin<Box<dyn Future<Output = ()>>>);

/// Who may come in where not everybody may.
pub(crate) const USER: User = ("kit", "s3cret:with:colons");

/// How much is in the layer, in bytes. It does not compress.
const LAYER: usize = 1 << 20;

/// Limits by which a test that waits for one is short.
pub(crate) const LIMITS: Limits = Limits {
    connect: Duration::from_secs(5),
    idle: Duration::from_millis(400),
    retries: 3,
    first_pause: Duration::from_millis(10),
};

/// A registry with an image `team/app:1`.
pub(crate) struct Place {
    pub(crate) server: RegistryServer,
    pub(crate) digest: String,
}

impl Place {
    pub(crate) fn new(user: Option<User>, tls: Tls) -> Self {
        let server = RegistryServer::start(user, tls);
        let digest = server.push(&image(), "team/app:1");
        Self { server, digest }
    }

    /// A name of the image on a host that leads to this registry.
    pub(crate) fn name_on(host: &str) -> String {
        format!("{host}/team/app:1")
    }

    pub(crate) fn name(&self) -> String {
        Self::name_on(self.server.host())
    }
}

/// What several trials look at and none changes. It is taken away by [`close`]: a static is not dropped.
#[derive(Default)]
struct Shared {
    place: Option<Arc<Place>>,
    image: Option<(tempfile::TempDir, String)>,
}

static SHARED: Mutex<Option<Shared>> = Mutex::new(None);

/// A registry that everybody may read and nobody changes.
pub(crate) fn open_place() -> Arc<Place> {
    if let Some(place) = with_shared(|shared| shared.place.clone()) {
        return place;
    }
    let place = Arc::new(Place::new(None, Tls::None));
    with_shared(|shared| Arc::clone(shared.place.get_or_insert(place)))
}

/// Takes away what trials have shared.
pub(crate) fn close() {
    drop(SHARED.lock().unwrap_or_else(PoisonError::into_inner).take());
}

fn with_shared<T>(look: impl FnOnce(&mut Shared) -> T) -> T {
    look(SHARED.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default())
}

/// An image of one layer, for skopeo.
fn image() -> String {
    with_shared(|shared| shared.image.get_or_insert_with(make_image).1.clone())
}

fn make_image() -> (tempfile::TempDir, String) {
    let home = tempfile::tempdir().unwrap();
    let content = home.path().join("content");
    std::fs::create_dir(&content).unwrap();
    let mut state = 1_u64;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    });
    std::fs::write(content.join("noise"), noise.take(LAYER).collect::<Vec<_>>()).unwrap();
    let image = layout(&home.path().join("layout"), "1", &content);
    (home, image)
}

pub(crate) fn config() -> RegistryConfig {
    RegistryConfig { certificate_directories: Vec::new(), limits: LIMITS, ..RegistryConfig::default() }
}

pub(crate) fn anonymous() -> Registry {
    Registry::new(config(), Credentials::none())
}

pub(crate) fn source(registry: &Registry, name: &str) -> RegistrySource {
    registry.source(&reference(name).unwrap())
}

/// A directory with a file of logins.
pub(crate) fn login_file(content: &str) -> (tempfile::TempDir, PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("config.json");
    std::fs::write(&path, content).unwrap();
    (home, path)
}

/// The descriptors of an image's configuration and of its layer.
pub(crate) async fn blobs(source: &RegistrySource) -> [Descriptor; 2] {
    let (_, bytes) = source.root().await.unwrap();
    let manifest = ImageManifest::from_reader(bytes.as_slice()).unwrap();
    [manifest.config().clone(), manifest.layers()[0].clone()]
}

pub(crate) async fn read(stream: BlobStream) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut stream = stream.bytes;
    stream.read_to_end(&mut bytes).await.map(|_| bytes)
}

/// Whether bytes are what a descriptor says.
pub(crate) fn are_of(bytes: &[u8], descriptor: &Descriptor) -> bool {
    use sha2::Digest as _;
    let hash = data_encoding::HEXLOWER.encode(&sha2::Sha256::digest(bytes));
    descriptor.digest().to_string() == format!("sha256:{hash}") && descriptor.size() == bytes.len() as u64
}

/// An error with what is behind it, as people see it.
pub(crate) fn chain(error: &ImageError) -> String {
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
