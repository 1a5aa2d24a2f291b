//! Logins: in files, with helpers, for tokens, and stored by us.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cofferdam_image::ImageError;
use cofferdam_image::registry::{Credentials, Registry, Secret};
use cofferdam_image::source::ImageSource;
use cofferdam_testkit::http_faults::{Asked, Fault, FaultServer};
use cofferdam_testkit::registry::Tls;
use rustix::process::{WaitId, WaitIdOptions};

use crate::child;
use crate::place::{
    Place, Test, USER, anonymous, blobs, chain, config, login_file, open_place, read, source,
};

pub(crate) const TRIALS: &[Test] = &[
    ("a login is right, wrong or missing", || Box::pin(right_wrong_missing())),
    ("login stores what the registry has taken, and logout forgets it", || Box::pin(login_and_out())),
    ("a helper is asked, told, and made to forget", || Box::pin(helper())),
    ("one token is fetched for a repository, with the login or without", || Box::pin(tokens())),
    ("a token that has run out is renewed", || Box::pin(renewed())),
    ("an identity token is sent where it belongs and nowhere else", || Box::pin(identity_token())),
    ("no login is shown", || Box::pin(not_shown())),
];

fn registry(file: &Path) -> Registry {
    Registry::new(config(), Credentials::in_files(vec![file.to_owned()]))
}

fn auths(host: &str, user: &str, secret: &str) -> String {
    let auth = data_encoding::BASE64.encode(format!("{user}:{secret}").as_bytes());
    format!(r#"{{"auths":{{"{host}":{{"auth":"{auth}"}}}}}}"#)
}

fn secret() -> Secret {
    Secret::from(USER.1.to_owned())
}

async fn right_wrong_missing() {
    let place = Place::new(Some(USER), Tls::None);
    let host = place.server.host();
    let (_home, right) = login_file(&auths(host, USER.0, USER.1));
    let source_of = |registry: &Registry| source(registry, &place.name());
    let pulled = source_of(&registry(&right));
    assert_eq!(pulled.root().await.unwrap().0.digest().to_string(), place.digest);
    let [_, layer] = blobs(&pulled).await;
    read(pulled.blob(&layer, 0).await.unwrap()).await.unwrap();
    let (_home, wrong) = login_file(&auths(host, USER.0, "wrong"));
    for registry in [registry(&wrong), anonymous()] {
        let error = source_of(&registry).root().await.unwrap_err();
        assert!(matches!(&error, ImageError::Denied { registry, .. } if registry == host), "{error:?}");
        assert!(chain(&error).contains("401") && !chain(&error).contains("wrong"), "{}", chain(&error));
    }
    let (_home, broken) = login_file("{");
    let error = source_of(&registry(&broken)).root().await.unwrap_err();
    assert!(matches!(&error, ImageError::File { path, .. } if *path == broken), "{error:?}");
}

async fn login_and_out() {
    let place = Place::new(Some(USER), Tls::None);
    let host = place.server.host();
    let (home, _) = login_file("{}");
    let file = home.path().join("deep/config.json");
    let with = registry(&file);
    let error = with.login(host, USER.0, Secret::from("wrong".to_owned())).await.unwrap_err();
    assert!(matches!(error, ImageError::Denied { .. }), "{error:?}");
    assert!(!file.exists());
    with.login(&format!("http://{host}/"), USER.0, secret()).await.unwrap();
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(
        std::fs::read_to_string(&file).unwrap().parse::<serde_json::Value>().unwrap(),
        auths(host, USER.0, USER.1).parse::<serde_json::Value>().unwrap()
    );
    assert!(source(&registry(&file), &place.name()).root().await.is_ok());
    assert!(with.logout(host).await.unwrap());
    assert!(!with.logout(host).await.unwrap());
    assert!(source(&registry(&file), &place.name()).root().await.is_err());
    // A registry that wants no login takes any; nowhere to put it is told.
    let error = anonymous().login(open_place().server.host(), "a", secret()).await.unwrap_err();
    assert!(chain(&error).contains("no file for logins"), "{}", chain(&error));
    for (user, secret) in [("", "x"), ("a:b", "x"), ("a", "")] {
        assert!(with.login(host, user, Secret::from(secret.to_owned())).await.is_err());
    }
}

/// A helper that keeps one login in a file, and writes down how it was called.
fn make_helper(directory: &Path, name: &str) {
    let program = directory.join(format!("docker-credential-{name}"));
    let script = format!(
        "#!/bin/sh\ncd '{}' || exit 1\ninput=$(cat)\necho \"$1 $input\" >> calls\nenv > environment\ncase $1 in\n\
         store) echo \"$input\" > kept ;;\n\
         get) if test -f kept; then cat kept; else echo 'credentials not found in native keychain'; exit 1; fi ;;\n\
         erase) rm -f kept ;;\nesac\n",
        directory.display()
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
}

async fn helper() {
    let place = Place::new(Some(USER), Tls::None);
    let home = tempfile::tempdir().unwrap();
    make_helper(home.path(), "kit");
    let host = place.server.host();
    std::fs::write(home.path().join("config.json"), format!(r#"{{"credHelpers":{{"{host}":"kit"}}}}"#))
        .unwrap();
    child::with_helper(host, home.path());
    let calls = std::fs::read_to_string(home.path().join("calls")).unwrap();
    let expected = [
        format!("get {host}"),
        format!(r#"store {{"ServerURL":"{host}","Username":"{}","Secret":"{}"}}"#, USER.0, USER.1),
        format!("get {host}"),
        format!("erase {host}"),
        format!("get {host}"),
    ];
    // Once as it is, and once where somebody else takes the status of each child.
    assert_eq!(calls.lines().collect::<Vec<_>>(), [expected.clone(), expected].concat());
    let environment = std::fs::read_to_string(home.path().join("environment")).unwrap();
    assert!(
        environment.contains("HOME=/nowhere") && !environment.contains("COFFERDAM_TEST"),
        "{environment}"
    );
    let file = std::fs::read_to_string(home.path().join("config.json")).unwrap();
    assert!(file.contains("credHelpers") && !file.contains(USER.1), "{file}");
}

/// The same, where the helper is along PATH.
pub(crate) async fn with_helper(host: &str, home: &Path) {
    with_good_helper(host, home).await;
    with_bad_helpers(host, home).await;
    std::thread::spawn(|| {
        loop {
            // No child is there for most of the time.
            let _ = rustix::process::waitid(WaitId::All, WaitIdOptions::EXITED);
            std::thread::yield_now();
        }
    });
    with_good_helper(host, home).await;
}

async fn with_good_helper(host: &str, home: &Path) {
    let file = home.join("config.json");
    let pull = async || source(&registry(&file), &Place::name_on(host)).root().await;
    assert!(matches!(pull().await, Err(ImageError::Denied { .. })));
    registry(&file).login(host, USER.0, secret()).await.unwrap();
    pull().await.unwrap();
    assert!(registry(&file).logout(host).await.unwrap());
    assert!(pull().await.is_err());
}

async fn with_bad_helpers(host: &str, home: &Path) {
    let file = home.join("config.json");
    let pull = async || source(&registry(&file), &Place::name_on(host)).root().await;
    // One that is not waited for is ended.
    set_helper(home, "cd \"$(dirname \"$0\")\"; sleep 1000 & echo $! > pid; wait");
    std::fs::write(&file, r#"{"credsStore":"bad"}"#).unwrap();
    let pid = async {
        let pulled = pull();
        tokio::pin!(pulled);
        loop {
            let again = tokio::time::timeout(Duration::from_millis(5), &mut pulled).await;
            assert!(again.is_err(), "{again:?}");
            if let Some(pid) =
                std::fs::read_to_string(home.join("pid")).ok().filter(|pid| pid.ends_with('\n'))
            {
                return pid;
            }
        }
    };
    let process = Path::new("/proc").join(pid.await.trim());
    let is_gone =
        || !std::fs::read_to_string(process.join("cmdline")).is_ok_and(|line| line.contains("sleep"));
    while !is_gone() {
        tokio::task::yield_now().await;
    }
    // Helpers that fail.
    for (script, told) in [
        ("echo 'the key ring is locked'; exit 2", "failed: the key ring is locked"),
        ("echo '{\"Username\":\"u\",\"Secret\":\"top\"'; exit 2", "docker-credential-bad failed"),
        ("echo top", "printed no login"),
        ("head -c 100000 /dev/zero", "more than 65536 bytes"),
    ] {
        set_helper(home, script);
        std::fs::write(&file, r#"{"credsStore":"bad"}"#).unwrap();
        let error = chain(&pull().await.unwrap_err());
        assert!(error.contains(told) && !error.contains("top"), "{error}");
    }
    for helper in ["missing", "../bad"] {
        std::fs::write(&file, format!(r#"{{"credsStore":"{helper}"}}"#)).unwrap();
        let error = chain(&pull().await.unwrap_err());
        assert!(error.contains("could not be started"), "{error}");
    }
    std::fs::write(&file, format!(r#"{{"credHelpers":{{"{host}":"kit"}}}}"#)).unwrap();
}

/// Makes the helper `bad`.
fn set_helper(home: &Path, script: &str) {
    let program = home.join("docker-credential-bad");
    std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// A registry that wants tokens, which a service of its own hands out.
fn with_tokens(life: u64) -> (FaultServer, FaultServer) {
    let service = FaultServer::before("127.0.0.1:1", move |asked| {
        let basic =
            format!("Basic {}", data_encoding::BASE64.encode(format!("{}:{}", USER.0, USER.1).as_bytes()));
        let body = match asked.header("authorization") {
            Some(given) if given != basic => {
                return Fault::Answer(401, vec![], br#"{"details":"wrong login"}"#.to_vec());
            }
            _ => format!(r#"{{"token":"T0ken","expires_in":{life}}}"#),
        };
        Fault::Answer(200, vec![], body.into_bytes())
    });
    let challenge = format!("Bearer realm=\"http://{}/token?x=1\",service=\"the service\"", service.host());
    let server =
        FaultServer::before(open_place().server.host(), move |asked| match asked.header("authorization") {
            Some("Bearer T0ken") => Fault::None,
            _ => Fault::Answer(401, vec![("www-authenticate", challenge.clone())], vec![]),
        });
    (server, service)
}

async fn tokens() {
    let (server, service) = with_tokens(300);
    let (home, file) = login_file(&auths(&server.host(), USER.0, USER.1));
    for (registry, account) in [(anonymous(), ""), (registry(&file), "&account=kit&client_id=cofferdam")] {
        let before = service.asked().len();
        let source = source(&registry, &Place::name_on(&server.host()));
        for blob in blobs(&source).await {
            read(source.blob(&blob, 0).await.unwrap()).await.unwrap();
        }
        let asked = &service.asked()[before..];
        assert_eq!(asked.len(), 1, "one token is for all of a repository");
        let scope = "/token?x=1&service=the+service&scope=repository%3Ateam%2Fapp%3Apull";
        assert_eq!(asked[0].target, format!("{scope}{account}"));
        assert_eq!(asked[0].header("authorization").is_some(), !account.is_empty());
    }
    std::fs::write(&file, auths(&server.host(), USER.0, "wrong")).unwrap();
    let error = source(&registry(&file), &Place::name_on(&server.host())).root().await.unwrap_err();
    assert!(
        matches!(error, ImageError::Denied { .. }) && chain(&error).contains("wrong login"),
        "{}",
        chain(&error)
    );
    let with = registry(&home.path().join("other.json"));
    with.login(&server.host(), USER.0, secret()).await.unwrap();
    assert!(with.login(&server.host(), USER.0, Secret::from("wrong".to_owned())).await.is_err());
}

async fn renewed() {
    // Each token is good for two requests.
    let (given, used) = (Arc::new(AtomicUsize::new(0)), AtomicUsize::new(0));
    let count = Arc::clone(&given);
    let service = FaultServer::before("127.0.0.1:1", move |_| {
        let body = format!(r#"{{"token":"T{}"}}"#, count.fetch_add(1, Ordering::SeqCst) + 1);
        Fault::Answer(200, vec![], body.into_bytes())
    });
    let challenge = format!("Bearer realm=\"http://{}/token\",service=\"s\"", service.host());
    let server = FaultServer::before(open_place().server.host(), move |asked| {
        let token = format!("Bearer T{}", used.load(Ordering::SeqCst) / 2 + 1);
        if asked.header("authorization") == Some(&token) {
            used.fetch_add(1, Ordering::SeqCst);
            return Fault::None;
        }
        Fault::Answer(401, vec![("www-authenticate", challenge.clone())], vec![])
    });
    let source = source(&anonymous(), &Place::name_on(&server.host()));
    let [config, layer] = blobs(&source).await;
    for blob in [&config, &layer, &config, &layer] {
        read(source.blob(blob, 0).await.unwrap()).await.unwrap();
    }
    assert_eq!(given.load(Ordering::SeqCst), 3);
}

async fn identity_token() {
    let body = |asked: &Asked| asked.head.rsplit("\r\n\r\n").next().unwrap_or_default().to_owned();
    let elsewhere =
        FaultServer::before("127.0.0.1:1", |_| Fault::Answer(200, vec![], br#"{"token":"T0ken"}"#.to_vec()));
    let to = elsewhere.host();
    let service = FaultServer::before("127.0.0.1:1", move |asked| {
        // The second time it leads elsewhere, with the body if that is let happen.
        if asked.target.contains("lead") {
            return Fault::Answer(307, vec![("location", format!("http://{to}/take"))], vec![]);
        }
        Fault::Answer(200, vec![], br#"{"access_token":"T0ken"}"#.to_vec())
    });
    for (path, is_taken) in [("token", true), ("lead", false)] {
        let challenge = format!("Bearer realm=\"http://{}/{path}\",service=\"s\"", service.host());
        let server = FaultServer::before(open_place().server.host(), move |asked| {
            match asked.header("authorization") {
                Some("Bearer T0ken") => Fault::None,
                _ => Fault::Answer(401, vec![("www-authenticate", challenge.clone())], vec![]),
            }
        });
        let (_home, file) =
            login_file(&format!(r#"{{"auths":{{"{}":{{"identitytoken":"ident"}}}}}}"#, server.host()));
        let root = source(&registry(&file), &Place::name_on(&server.host())).root().await;
        assert_eq!(root.is_ok(), is_taken, "{root:?}");
        let asked = service.asked().pop().unwrap();
        assert_eq!(asked.method, "POST");
        assert!(body(&asked).is_empty() || body(&asked).contains("refresh_token=ident"));
    }
    assert!(elsewhere.asked().is_empty());
}

async fn not_shown() {
    let place = Place::new(Some(USER), Tls::None);
    let (_home, file) = login_file(&auths(place.server.host(), USER.0, USER.1));
    let registry = registry(&file);
    let source = source(&registry, &place.name());
    source.root().await.unwrap();
    let auth = data_encoding::BASE64.encode(format!("{}:{}", USER.0, USER.1).as_bytes());
    let shown = format!("{registry:?} {source:?} {:?}", secret());
    assert!(!shown.contains(USER.1) && !shown.contains(&auth), "{shown}");
}
