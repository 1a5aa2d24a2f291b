//! A registry that lies, that does not end, and that leads elsewhere.

use cofferdam_image::registry::{Credentials, Registry};
use cofferdam_image::source::ImageSource;
use cofferdam_testkit::http_faults::{Fault, FaultServer};
use cofferdam_testkit::registry::Tls;
use tokio::io::AsyncReadExt;

use crate::place::{
    Place, Test, USER, anonymous, are_of, blobs, chain, config, login_file, open_place, read, source,
};

pub(crate) const TRIALS: &[Test] = &[
    ("a manifest with another digest is refused", || Box::pin(other_digest())),
    ("a manifest that is too large is refused", || Box::pin(large_manifest())),
    ("errors and tokens without an end are not read to it", || Box::pin(endless())),
    ("a blob without an end is read as far as somebody reads", || Box::pin(endless_blob())),
    ("a part that was not asked for is refused", || Box::pin(other_part())),
    ("a login is not taken to another host", || Box::pin(elsewhere())),
    ("a redirection in circles ends", || Box::pin(circles())),
];

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

async fn other_digest() {
    let body = format!(r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}"}}"#);
    let server =
        FaultServer::before("127.0.0.1:1", move |_| Fault::Answer(200, vec![], body.clone().into_bytes()));
    let name = format!("{}/a@{}", server.host(), open_place().digest);
    let error = source(&anonymous(), &name).root().await.unwrap_err();
    assert!(chain(&error).contains("has the digest sha256:"), "{}", chain(&error));
    assert_eq!(server.asked().len(), 1);
}

async fn large_manifest() {
    let said = |_: &_| Fault::Answer(200, vec![("content-type", MANIFEST.into())], vec![b' '; 9 << 20]);
    let unsaid = |_: &_| Fault::Endless(vec![("content-type", MANIFEST.into())]);
    for server in [FaultServer::before("127.0.0.1:1", said), FaultServer::before("127.0.0.1:1", unsaid)] {
        let error = source(&anonymous(), &Place::name_on(&server.host())).root().await.unwrap_err();
        assert!(chain(&error).contains("more than 8388608 bytes"), "{}", chain(&error));
    }
}

async fn endless() {
    // Its answers to those who want a token do not end either.
    let tokens = FaultServer::before("127.0.0.1:1", |_| Fault::Endless(vec![]));
    let challenge = format!("Bearer realm=\"http://{}/token\",service=\"x\"", tokens.host());
    let server = FaultServer::before("127.0.0.1:1", move |_| {
        Fault::Answer(401, vec![("www-authenticate", challenge.clone())], vec![b'x'; 4 << 20])
    });
    let error = source(&anonymous(), &Place::name_on(&server.host())).root().await.unwrap_err();
    assert!(chain(&error).contains("more than 262144 bytes"), "{}", chain(&error));
}

async fn endless_blob() {
    let server = FaultServer::before(open_place().server.host(), |asked| {
        if asked.target.contains("/blobs/") { Fault::Endless(vec![]) } else { Fault::None }
    });
    let source = source(&anonymous(), &Place::name_on(&server.host()));
    let [_, layer] = blobs(&source).await;
    let mut start = vec![0; 1 << 20];
    source.blob(&layer, 0).await.unwrap().bytes.read_exact(&mut start).await.unwrap();
}

async fn other_part() {
    let server = FaultServer::before(open_place().server.host(), |asked| {
        let part = vec![("content-range", "bytes 900-909/2000".to_owned())];
        if asked.target.contains("/blobs/") { Fault::Answer(206, part, vec![0; 10]) } else { Fault::None }
    });
    let source = source(&anonymous(), &Place::name_on(&server.host()));
    let [_, layer] = blobs(&source).await;
    let error = source.blob(&layer, 100).await.unwrap_err();
    assert!(chain(&error).contains("after 100 bytes"), "{}", chain(&error));
    assert_eq!(source.blob(&layer, 1000).await.unwrap().offset, 900);
}

async fn elsewhere() {
    let place = Place::new(Some(USER), Tls::None);
    let storage = FaultServer::before(open_place().server.host(), |_| Fault::None);
    let to = storage.host();
    let server = FaultServer::before(place.server.host(), move |asked| {
        let location = vec![("location", format!("http://{to}{}", asked.target))];
        let is_led_on = asked.target.contains("/blobs/") && asked.header("authorization").is_some();
        if is_led_on { Fault::Answer(307, location, vec![]) } else { Fault::None }
    });
    let auth = data_encoding::BASE64.encode(format!("{}:{}", USER.0, USER.1).as_bytes());
    let (_home, file) = login_file(&format!(r#"{{"auths":{{"{}":{{"auth":"{auth}"}}}}}}"#, server.host()));
    let registry = Registry::new(config(), Credentials::in_files(vec![file]));
    let source = source(&registry, &Place::name_on(&server.host()));
    let [_, layer] = blobs(&source).await;
    let bytes = read(source.blob(&layer, 0).await.unwrap()).await.unwrap();
    assert!(are_of(&bytes, &layer));
    let asked = storage.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!((asked[0].header("authorization"), asked[0].header("cookie")), (None, None));
}

async fn circles() {
    let server = FaultServer::before("127.0.0.1:1", |asked| {
        Fault::Answer(307, vec![("location", format!("{}x", asked.target))], vec![])
    });
    let error = source(&anonymous(), &Place::name_on(&server.host())).root().await.unwrap_err();
    assert!(chain(&error).contains("redirect"), "{}", chain(&error));
    assert_eq!(server.asked().len(), 11);
}
