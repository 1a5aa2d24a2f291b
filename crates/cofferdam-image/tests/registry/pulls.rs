//! Pulls where everything is well, and the ways to trust a host.

use std::collections::BTreeSet;

use cofferdam_image::ImageError;
use cofferdam_image::registry::{Credentials, Registry, RegistryConfig};
use cofferdam_image::source::ImageSource;
use cofferdam_testkit::http_faults::{Fault, FaultServer};
use cofferdam_testkit::registry::Tls;

use oci_spec::image::{Descriptor, Digest};

use crate::child;
use crate::place::{Place, Test, anonymous, are_of, blobs, chain, config, open_place, read, source};

pub(crate) const TRIALS: &[Test] = &[
    ("an image is pulled by its tag and by its digest", || Box::pin(by_tag_and_digest())),
    ("what is not there is told", || Box::pin(not_there())),
    ("a blob is read from any byte on", || Box::pin(from_any_byte())),
    ("tls is trusted by certs.d, and refused without", || Box::pin(trust())),
    ("a registry that wants a certificate is shown one", || Box::pin(client_certificate())),
    ("a registry without tls that is not here is explained", || Box::pin(plain_elsewhere())),
    ("connections are used again", || Box::pin(connections())),
    ("proxies of the environment are used", || Box::pin(proxies())),
];

async fn by_tag_and_digest() {
    let place = open_place();
    let registry = anonymous();
    let by_tag = source(&registry, &place.name());
    let (descriptor, bytes) = by_tag.root().await.unwrap();
    assert_eq!(descriptor.digest().to_string(), place.digest);
    assert!(are_of(&bytes, &descriptor));
    let by_digest = source(&registry, &format!("{}@{}", place.name(), place.digest));
    assert_eq!(by_digest.root().await.unwrap(), (descriptor.clone(), bytes.clone()));
    for blob in blobs(&by_tag).await {
        assert!(are_of(&read(by_tag.blob(&blob, 0).await.unwrap()).await.unwrap(), &blob));
    }
    // A manifest is a blob too, of another place.
    assert_eq!(read(by_tag.blob(&descriptor, 0).await.unwrap()).await.unwrap(), bytes);
}

async fn not_there() {
    let place = open_place();
    let host = place.server.host();
    for name in ["team/app:2", "team/none:1"] {
        let error = source(&anonymous(), &format!("{host}/{name}")).root().await.unwrap_err();
        assert!(
            matches!(&error, ImageError::NotFound { reference, .. } if reference.contains(name)),
            "{error:?}"
        );
    }
    // A blob that is not there is another thing: the image is.
    let image = source(&anonymous(), &open_place().name());
    let [layer, _] = blobs(&image).await;
    let none = Descriptor::new(
        layer.media_type().clone(),
        5,
        format!("sha256:{}", "0".repeat(64)).parse::<Digest>().unwrap(),
    );
    let error = image.blob(&none, 0).await.unwrap_err();
    assert!(
        matches!(error, ImageError::Registry { .. }) && chain(&error).contains("404"),
        "{}",
        chain(&error)
    );
    // A port that nobody listens on any more.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = source(&anonymous(), &Place::name_on(&address.to_string())).root().await.unwrap_err();
    assert!(
        matches!(error, ImageError::Registry { .. }) && chain(&error).contains("refused"),
        "{}",
        chain(&error)
    );
}

async fn from_any_byte() {
    let source = source(&anonymous(), &open_place().name());
    let [_, layer] = blobs(&source).await;
    let whole = read(source.blob(&layer, 0).await.unwrap()).await.unwrap();
    for offset in [1, 1000, whole.len() - 1] {
        let stream = source.blob(&layer, offset as u64).await.unwrap();
        assert_eq!(stream.offset, offset as u64);
        assert_eq!(read(stream).await.unwrap(), whole[offset..]);
    }
    // From its end on there is nothing: it begins anew, and whoever reads sees that.
    let stream = source.blob(&layer, whole.len() as u64).await.unwrap();
    assert!(stream.offset == 0 || read(stream).await.unwrap().is_empty());
}

async fn trust() {
    let place = Place::new(None, Tls::OfServer);
    let host = place.server.host().to_owned();
    let error = source(&anonymous(), &place.name()).root().await.unwrap_err();
    let told = chain(&error);
    assert!(
        told.contains(&format!("/etc/docker/certs.d/{host}/ca.crt")) && told.contains("UnknownIssuer"),
        "{told}"
    );
    let trusting =
        RegistryConfig { certificate_directories: vec![place.server.certificate_directory()], ..config() };
    let careless = RegistryConfig { insecure: vec![host.clone()], ..config() };
    for config in [trusting, careless] {
        let source = source(&Registry::new(config, Credentials::none()), &place.name());
        assert_eq!(source.root().await.unwrap().0.digest().to_string(), place.digest);
    }
    let broken = tempfile::tempdir().unwrap();
    std::fs::create_dir(broken.path().join(&host)).unwrap();
    let text = "-----BEGIN CERTIFICATE-----\nno\n-----END CERTIFICATE-----\n";
    std::fs::write(broken.path().join(&host).join("ca.crt"), text).unwrap();
    let broken = RegistryConfig { certificate_directories: vec![broken.path().to_owned()], ..config() };
    let error = source(&Registry::new(broken, Credentials::none()), &place.name()).root().await.unwrap_err();
    assert!(chain(&error).contains("ca.crt"), "{}", chain(&error));
}

async fn client_certificate() {
    let place = Place::new(None, Tls::OfBoth);
    let directory = place.server.certificate_directory();
    let of_host = directory.join(place.server.host());
    let pull = async || {
        let config = RegistryConfig { certificate_directories: vec![directory.clone()], ..config() };
        source(&Registry::new(config, Credentials::none()), &place.name()).root().await
    };
    assert_eq!(pull().await.unwrap().0.digest().to_string(), place.digest);
    std::fs::remove_file(of_host.join("client.key")).unwrap();
    assert!(chain(&pull().await.unwrap_err()).contains("client.key"));
    std::fs::remove_file(of_host.join("client.cert")).unwrap();
    // With TLS 1.3 it says so after the connection is made, which may be seen as an alert or as an end.
    assert!(matches!(pull().await, Err(ImageError::Registry { .. })));
}

async fn plain_elsewhere() {
    // A name that does not mean this host, by way of a proxy.
    let proxy = FaultServer::before(open_place().server.host(), |_| Fault::None);
    let told = child::pull("registry.test/team/app:1", &proxy, None);
    assert!(told.contains("--insecure-registry registry.test") && told.contains("speaks HTTP"), "{told}");
    assert!(proxy.asked().iter().all(|asked| asked.method == "CONNECT"));
}

async fn connections() {
    let place = Place::new(None, Tls::None);
    let source = source(&anonymous(), &place.name());
    let [config, layer] = blobs(&source).await;
    let before = sockets_to(place.server.host());
    assert_eq!(before.len(), 1);
    for blob in [&config, &layer, &config] {
        read(source.blob(blob, 0).await.unwrap()).await.unwrap();
    }
    assert_eq!(sockets_to(place.server.host()), before);
}

async fn proxies() {
    let place = Place::new(None, Tls::OfServer);
    let proxy = FaultServer::before(place.server.host(), |_| Fault::None);
    // TLS goes through the proxy as it is, to a host that has no address.
    let trusted = place.server.certificate_directory();
    std::fs::create_dir(trusted.join("registry.test")).unwrap();
    std::fs::copy(place.server.authority(), trusted.join("registry.test/ca.crt")).unwrap();
    assert_eq!(child::pull("registry.test/team/app:1", &proxy, Some(&trusted)), place.digest);
    assert!(proxy.asked().iter().all(|asked| asked.target == "registry.test:443"), "{:?}", proxy.asked());
    // Without TLS the proxy sees the requests. It is not asked for this host, nor for what NO_PROXY has.
    let proxy = FaultServer::before(open_place().server.host(), |_| Fault::None);
    assert_eq!(child::pull("insecure.test/team/app:1", &proxy, None), open_place().digest);
    let asked = proxy.asked();
    assert!(
        asked.iter().any(|asked| asked.target.starts_with("http://insecure.test/v2/team/app/")),
        "{asked:?}"
    );
    assert_eq!(child::pull(&open_place().name(), &proxy, None), open_place().digest);
    child::pull("direct.test/team/app:1", &proxy, None);
    assert_eq!(proxy.asked().len(), asked.len());
}

/// The state of a connection that is there, in the kernel's table.
const ESTABLISHED: &str = "01";

/// The local ports of our connections to a host. The kernel shows one twice where its table changes in between.
fn sockets_to(host: &str) -> BTreeSet<String> {
    let port: u16 = host.rsplit_once(':').unwrap().1.parse().unwrap();
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let to_host = rows.filter(|row| row[2] == format!("0100007F:{port:04X}") && row[3] == ESTABLISHED);
    to_host.map(|row| row[1].to_owned()).collect()
}
