//! What docker makes of a name, case by case.

use proptest::prelude::*;

use super::*;

const HEX: &str = "7bcf8d0a9d2e4c6b8f1e3d5c7b9a0f2e4d6c8b1a3f5e7d9c0b2a4f6e8d1c3b5a";

/// A name, the canonical form of it, and the familiar one. `HEX` stands for 64 digits.
const TAKEN: [(&str, &str, &str); 27] = [
    ("alpine", "docker.io/library/alpine:latest", "alpine:latest"),
    ("alpine:3.20", "docker.io/library/alpine:3.20", "alpine:3.20"),
    ("library/alpine", "docker.io/library/alpine:latest", "alpine:latest"),
    ("docker.io/alpine", "docker.io/library/alpine:latest", "alpine:latest"),
    ("docker.io/library/alpine:edge", "docker.io/library/alpine:edge", "alpine:edge"),
    ("index.docker.io/alpine", "docker.io/library/alpine:latest", "alpine:latest"),
    ("index.docker.io/grafana/loki", "docker.io/grafana/loki:latest", "grafana/loki:latest"),
    ("library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
    ("grafana/loki", "docker.io/grafana/loki:latest", "grafana/loki:latest"),
    ("localhost", "docker.io/library/localhost:latest", "localhost:latest"),
    ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
    ("localhost:5000/x:1", "localhost:5000/x:1", "localhost:5000/x:1"),
    ("localhost:5000/x:1@sha256:HEX", "localhost:5000/x:1@sha256:HEX", "localhost:5000/x:1@sha256:HEX"),
    ("alpine@sha256:HEX", "docker.io/library/alpine@sha256:HEX", "alpine@sha256:HEX"),
    ("alpine:3@sha256:HEX", "docker.io/library/alpine:3@sha256:HEX", "alpine:3@sha256:HEX"),
    ("alpine@sha512:HEXHEX", "docker.io/library/alpine@sha512:HEXHEX", "alpine@sha512:HEXHEX"),
    ("quay.io/a/b/c/d:v1", "quay.io/a/b/c/d:v1", "quay.io/a/b/c/d:v1"),
    ("test.com:5000", "docker.io/library/test.com:5000", "test.com:5000"),
    ("test:5000/repo", "test:5000/repo:latest", "test:5000/repo:latest"),
    ("10.0.0.1:80/x", "10.0.0.1:80/x:latest", "10.0.0.1:80/x:latest"),
    // No repository has upper case, so the first part is a host.
    ("Foo/bar", "Foo/bar:latest", "Foo/bar:latest"),
    ("Registry.Example/bar:UPPER", "Registry.Example/bar:UPPER", "Registry.Example/bar:UPPER"),
    ("a__b/c-d.e---f", "docker.io/a__b/c-d.e---f:latest", "a__b/c-d.e---f:latest"),
    ("xn--n3h.com/x:_", "xn--n3h.com/x:_", "xn--n3h.com/x:_"),
    ("docker.io/1/2", "docker.io/1/2:latest", "1/2:latest"),
    ("docker://alpine:3", "docker.io/library/alpine:3", "alpine:3"),
    ("docker://oci:latest", "docker.io/library/oci:latest", "oci:latest"),
];

/// A name that docker refuses, and a part of what is said about it.
const REFUSED: [(&str, &str); 25] = [
    ("", "at least one component"),
    ("Alpine", "lower case"),
    ("docker.io/Library/alpine", "lower case"),
    ("quay.io/A/b:tag", "lower case"),
    ("a//b", "invalid reference format"),
    ("/a", "invalid reference format"),
    ("a/", "invalid reference format"),
    ("a:", "invalid reference format"),
    (":1", "invalid reference format"),
    ("a:.x", "invalid reference format"),
    ("a b", "invalid reference format"),
    ("a___b", "invalid reference format"),
    ("a..b", "invalid reference format"),
    ("_a", "invalid reference format"),
    ("-a/b", "invalid reference format"),
    ("a:b:c", "invalid reference format"),
    ("a\n", "invalid reference format"),
    ("../a", "invalid reference format"),
    ("HEX", "an id, not a name"),
    ("alpine:é", "not ASCII"),
    ("alpine@sha256:abc", "64 hexadecimal digits"),
    ("alpine@sha384:HEXHEX", "length"),
    ("alpine@md5:HEX", "unsupported"),
    ("https://alpine", "no URL"),
    ("containers-storage:/a/b", "oci-archive:"),
];

fn written(text: &str) -> String {
    text.replace("HEX", HEX)
}

#[test]
fn names_mean_what_docker_takes_them_for() {
    for (text, canonical, short) in TAKEN {
        let name = ImageName::parse(&written(text)).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(name.to_string(), written(canonical), "{text}");
        assert_eq!(name.familiar(), written(short), "{text}");
        let plain = written(text.strip_prefix("docker://").unwrap_or(text));
        assert_eq!(quick::read(&plain), by_expression(&plain).ok(), "{text}: and nothing is compiled for it");
    }
}

#[test]
fn what_docker_refuses_is_refused() {
    for (text, why) in REFUSED {
        let error = ImageName::parse(&written(text)).expect_err(text).to_string();
        assert!(error.contains(why), "{text}: {error}");
    }
    let upper = format!("alpine@sha256:{}", HEX.to_uppercase());
    assert!(ImageName::parse(&upper).unwrap_err().to_string().contains("lower case"));
}

#[test]
fn names_are_as_long_as_docker_lets_them_be() {
    for (length, is_taken) in [(255, true), (256, false)] {
        assert_eq!(reference(&format!("quay.io/{}", "a".repeat(length))).is_ok(), is_taken, "{length}");
    }
    for (length, is_taken) in [(128, true), (129, false)] {
        assert_eq!(reference(&format!("a:{}", "t".repeat(length))).is_ok(), is_taken, "{length}");
    }
}

#[test]
fn other_places_are_named_by_their_transport() {
    for (text, canonical) in [
        ("oci:/a/layout", "oci:/a/layout"),
        ("oci:layout:3.20", "oci:layout:3.20"),
        ("oci-archive:a.tar:b:c", "oci-archive:a.tar:b:c"),
        ("docker-archive:a.tar:alpine", "docker-archive:a.tar:docker.io/library/alpine:latest"),
    ] {
        let name = ImageName::parse(text).unwrap();
        assert!(matches!(name, ImageName::Local(_)), "{text}");
        assert_eq!((name.to_string().as_str(), name.familiar().as_str()), (canonical, canonical));
    }
    for text in ["oci:", "oci-archive::x", "docker-archive:a.tar:UPPER"] {
        assert!(matches!(ImageName::parse(text), Err(ImageError::BadReference { .. })), "{text}");
    }
}

proptest! {
    #[test]
    fn what_is_read_quickly_is_read_as_oci_spec_reads_it(text in "[a-zA-Z0-9._:@/-]{1,40}|[a-b._-]{1,8}(/[a-b._-]{1,6})?(:[a._-]{1,4})?") {
        if let Some(read) = quick::read(&text) {
            prop_assert_eq!(by_expression(&text).ok(), Some(read));
        }
    }

    #[test]
    fn each_form_reads_as_the_same_name(text in "[a-zA-Z0-9._:@/-]{1,60}") {
        if let Ok(name @ ImageName::Registry(_)) = ImageName::parse(&text) {
            for form in [name.to_string(), name.familiar()] {
                prop_assert_eq!(&ImageName::parse(&format!("docker://{form}")).unwrap(), &name);
            }
        }
    }
}
