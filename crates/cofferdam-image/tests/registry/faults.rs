//! A registry behind a line that fails.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cofferdam_image::ImageError;
use cofferdam_image::registry::RegistrySource;
use cofferdam_image::source::ImageSource;
use cofferdam_testkit::http_faults::{Asked, Fault, FaultServer};

use crate::place::{LIMITS, Place, Test, anonymous, are_of, blobs, chain, open_place, read, source};

pub(crate) const TRIALS: &[Test] = &[
    ("errors that pass are waited for", || Box::pin(passing())),
    ("errors that stay are told after a few tries", || Box::pin(staying())),
    ("errors that are final are not tried again", || Box::pin(last())),
    ("a registry that wants to be left alone is, for a short time", || Box::pin(retry_after())),
    ("a blob that breaks off goes on where it was", || Box::pin(broken_off())),
    ("a registry that stands still is given up", || Box::pin(still())),
];

/// A line that fails for the first few manifests.
fn failing(times: usize, fault: Fault) -> FaultServer {
    let count = AtomicUsize::new(0);
    FaultServer::before(open_place().server.host(), move |asked: &Asked| {
        let is_early = asked.target.contains("/manifests/") && count.fetch_add(1, Ordering::SeqCst) < times;
        if is_early { fault.clone() } else { Fault::None }
    })
}

fn through(server: &FaultServer) -> RegistrySource {
    source(&anonymous(), &Place::name_on(&server.host()))
}

fn status(status: u16) -> Fault {
    Fault::Answer(status, vec![], br#"{"errors":[{"code":"X","message":"no luck"}]}"#.to_vec())
}

/// How often the manifest was asked for.
fn tries(server: &FaultServer) -> usize {
    server.asked().iter().filter(|asked| asked.target.contains("/manifests/")).count()
}

async fn passing() {
    for fault in [
        status(500),
        status(503),
        status(429),
        Fault::Cut(0),
        Fault::Cut(300),
        Fault::Stall,
        Fault::StallAfter(300),
    ] {
        let server = failing(2, fault.clone());
        let (descriptor, _) =
            through(&server).root().await.unwrap_or_else(|e| panic!("{fault:?}: {}", chain(&e)));
        assert_eq!(descriptor.digest().to_string(), open_place().digest);
        assert_eq!(tries(&server), 3, "{fault:?}");
    }
}

async fn staying() {
    for (fault, told) in [(status(502), "502 Bad Gateway: no luck"), (Fault::Cut(0), "the connection broke")]
    {
        let server = failing(usize::MAX, fault);
        let error = through(&server).root().await.unwrap_err();
        assert!(
            matches!(error, ImageError::Registry { .. }) && chain(&error).contains(told),
            "{}",
            chain(&error)
        );
        assert_eq!(tries(&server), 1 + LIMITS.retries as usize);
    }
    // Each try takes as long as nothing may come.
    let server = failing(usize::MAX, Fault::Stall);
    let error = through(&server).root().await.unwrap_err();
    assert!(chain(&error).contains("nothing came from it"), "{}", chain(&error));
    assert_eq!(tries(&server), 3);
}

async fn last() {
    for code in [400, 401, 403, 404] {
        let server = failing(usize::MAX, status(code));
        let error = through(&server).root().await.unwrap_err();
        assert_eq!(tries(&server), 1, "{code}");
        let as_expected = match &error {
            ImageError::Registry { .. } => matches!(code, 400 | 401),
            ImageError::Denied { .. } => code == 403,
            ImageError::NotFound { .. } => code == 404,
            _ => false,
        };
        assert!(as_expected, "{code}: {error:?}");
    }
}

async fn retry_after() {
    let busy = |seconds: &str| Fault::Answer(429, vec![("retry-after", seconds.to_owned())], vec![]);
    let server = failing(1, busy("1"));
    let begin = Instant::now();
    through(&server).root().await.unwrap();
    assert!(begin.elapsed() >= Duration::from_secs(1));
    let server = failing(1, busy("3600"));
    let error = through(&server).root().await.unwrap_err();
    assert!(
        chain(&error).contains("429 Too Many Requests") && chain(&error).contains("3600 s"),
        "{}",
        chain(&error)
    );
    assert_eq!(tries(&server), 1);
}

async fn broken_off() {
    const EACH: usize = 400_000;
    // Each connection has no more than so many bytes of a blob; the second answers from the beginning, as if it knew no
    // ranges.
    let server = FaultServer::before(open_place().server.host(), |asked| {
        if asked.target.contains("/blobs/") { Fault::Cut(EACH) } else { Fault::None }
    });
    let source = through(&server);
    let [_, layer] = blobs(&source).await;
    let mut whole = Vec::new();
    while (whole.len() as u64) < layer.size() {
        let mut stream = source.blob(&layer, whole.len() as u64).await.unwrap();
        assert_eq!(stream.offset, whole.len() as u64);
        let before = whole.len();
        // The cut is an error, and never an end.
        let end = tokio::io::AsyncReadExt::read_to_end(&mut stream.bytes, &mut whole).await;
        assert_eq!(end.is_ok(), whole.len() as u64 == layer.size());
        assert!(whole.len() > before);
    }
    assert!(are_of(&whole, &layer));
    assert!(server.asked().iter().filter(|asked| asked.header("range").is_some()).count() >= 2);
}

async fn still() {
    let server = FaultServer::before(open_place().server.host(), |asked| {
        if asked.target.contains("/blobs/") { Fault::StallAfter(2000) } else { Fault::None }
    });
    let source = through(&server);
    let [_, layer] = blobs(&source).await;
    let begin = Instant::now();
    let error = read(source.blob(&layer, 0).await.unwrap()).await.unwrap_err();
    assert!(error.to_string().contains("nothing came from it for 400 ms"), "{error}");
    assert!(begin.elapsed() >= LIMITS.idle && begin.elapsed() < LIMITS.idle * 10);
}
