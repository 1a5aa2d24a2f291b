//! Mirrors, and names that lead elsewhere.

use cofferdam_image::registry::{Credentials, Mirror, Registry, RegistryConfig, Rule};
use cofferdam_image::source::ImageSource;
use cofferdam_testkit::http_faults::{Fault, FaultServer};
use cofferdam_testkit::registry::{RegistryServer, Tls};

use crate::place::{Test, blobs, chain, config, open_place, read, source};

pub(crate) const TRIALS: &[Test] = &[
    ("mirrors that fail are passed over", || Box::pin(passed_over())),
    ("a mirror that has the image is asked alone", || Box::pin(asked_alone())),
    ("what the registry itself says is told", || Box::pin(told())),
    ("registries.conf leads a name elsewhere", || Box::pin(registries_conf())),
];

/// A registry with mirrors for a host of that name.
fn with_mirrors(host: &str, mirrors: &[String]) -> Registry {
    let mirrors = mirrors.iter().map(|location| Mirror { location: location.clone(), insecure: false });
    let rule = Rule { prefix: host.to_owned(), mirrors: mirrors.collect(), ..Rule::default() };
    Registry::new(RegistryConfig { rules: vec![rule], ..config() }, Credentials::none())
}

async fn passed_over() {
    let place = open_place();
    let empty = RegistryServer::start(None, Tls::None);
    let broken = FaultServer::before(place.server.host(), |_| Fault::Answer(500, vec![], vec![]));
    let denying = FaultServer::before(place.server.host(), |_| Fault::Answer(403, vec![], vec![]));
    let lying = FaultServer::before(place.server.host(), |_| Fault::Answer(200, vec![], b"<html>".to_vec()));
    let mirrors =
        [empty.host().to_owned(), broken.host(), denying.host(), lying.host(), "127.0.0.1:1".to_owned()];
    let source = source(&with_mirrors(place.server.host(), &mirrors), &place.name());
    let [_, layer] = blobs(&source).await;
    let bytes = read(source.blob(&layer, 5).await.unwrap()).await.unwrap();
    assert_eq!(bytes.len() as u64, layer.size() - 5);
    // A mirror is asked once, whatever it says: there is somebody else.
    assert_eq!(broken.asked().len(), 1);
}

async fn asked_alone() {
    let place = open_place();
    let mirror = FaultServer::before(place.server.host(), |_| Fault::None);
    let itself = FaultServer::before(place.server.host(), |_| Fault::None);
    let registry = with_mirrors(&itself.host(), &[mirror.host()]);
    let source = source(&registry, &format!("{}/team/app@{}", itself.host(), place.digest));
    let [_, layer] = blobs(&source).await;
    read(source.blob(&layer, 0).await.unwrap()).await.unwrap();
    assert!(itself.asked().is_empty());
    assert_eq!(mirror.asked().len(), 2);
}

async fn told() {
    let place = open_place();
    let broken = FaultServer::before(place.server.host(), |_| Fault::Answer(500, vec![], vec![]));
    let registry = with_mirrors(place.server.host(), &[broken.host()]);
    let error = source(&registry, &format!("{}/team/none", place.server.host())).root().await.unwrap_err();
    assert!(chain(&error).contains(&format!("in {}", place.server.host())), "{}", chain(&error));
}

async fn registries_conf() {
    let place = open_place();
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("registries.conf");
    let text = format!(
        "[[registry]]\nprefix = \"docker.io/library\"\nlocation = \"{}/team\"\n\n\
         [[registry]]\nlocation = \"blocked.example\"\nblocked = true\n",
        place.server.host()
    );
    std::fs::write(&path, text).unwrap();
    let mut config = config();
    config.add_registries_conf(&path).unwrap();
    let registry = Registry::new(config, Credentials::none());
    let (descriptor, _) = source(&registry, "app:1").root().await.unwrap();
    assert_eq!(descriptor.digest().to_string(), place.digest);
    let error = source(&registry, "blocked.example/a").root().await.unwrap_err();
    assert!(error.to_string().contains("blocks blocked.example"), "{error}");
}
