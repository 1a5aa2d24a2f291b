//! A real registry (`docker-registry`) on this machine's loopback, and images in it.
//!
//! It is killed when it is dropped, and its files go with it.
#![expect(clippy::unwrap_used, reason = "this is a part of tests: a panic is their failure")]

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};

/// A user of a registry, with the password.
pub type User = (&'static str, &'static str);

/// Whether a registry has TLS. Its certificate is by an authority of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    /// It speaks HTTP.
    None,
    /// It has.
    OfServer,
    /// It has, and lets those in alone who have a certificate of its authority.
    OfBoth,
}

/// A registry.
#[derive(Debug)]
pub struct RegistryServer {
    child: Child,
    home: tempfile::TempDir,
    address: String,
    user: Option<User>,
    tls: Tls,
}

impl RegistryServer {
    /// Starts one; with a user, it lets nobody else in.
    #[must_use]
    pub fn start(user: Option<User>, tls: Tls) -> Self {
        let home = tempfile::Builder::new().prefix("cfr").tempdir_in("/tmp").unwrap();
        let path = |name: &str| home.path().join(name).display().to_string();
        let mut config = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: '{}'}}}}\n",
            path("data")
        );
        // The kernel chooses the port, and the registry says which.
        config += "http:\n  addr: '127.0.0.1:0'\n";
        if tls != Tls::None {
            make_certificates(home.path());
            config += &format!(
                "  tls:\n    certificate: '{}'\n    key: '{}'\n",
                path("server.crt"),
                path("server.key")
            );
        }
        if tls == Tls::OfBoth {
            config += &format!("    clientcas: ['{}']\n", path("authority.crt"));
        }
        if let Some((name, password)) = user {
            std::fs::write(path("htpasswd"), htpasswd(name, password)).unwrap();
            config += &format!("auth: {{htpasswd: {{realm: test, path: '{}'}}}}\n", path("htpasswd"));
        }
        std::fs::write(path("config.yml"), config).unwrap();
        let mut child = command("docker-registry")
            .args(["serve", &path("config.yml")])
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let address = address_in(&mut log);
        // It would be killed by a write to a pipe that nobody reads.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Self { child, home, address, user, tls }
    }

    /// Its host and port, as they stand in names of images.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.address
    }

    /// The certificate of its authority, as PEM, if it has TLS.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.home.path().join("authority.crt")
    }

    /// A directory as docker's `certs.d`, which trusts it, and has a certificate for it where it wants one.
    #[must_use]
    pub fn certificate_directory(&self) -> PathBuf {
        let directory = self.home.path().join("certs.d");
        let of_host = directory.join(&self.address);
        std::fs::create_dir_all(&of_host).unwrap();
        std::fs::copy(self.authority(), of_host.join("ca.crt")).unwrap();
        if self.tls == Tls::OfBoth {
            for (from, to) in [("client.crt", "client.cert"), ("client.key", "client.key")] {
                std::fs::copy(self.home.path().join(from), of_host.join(to)).unwrap();
            }
        }
        directory
    }

    /// Pushes an image of a layout (`DIR:NAME`) with skopeo, under a name such as `team/app:1`; its digest.
    pub fn push(&self, layout: &str, name: &str) -> String {
        let digest_file = self.home.path().join("digest");
        let mut push = command("skopeo");
        push.args(["copy", "--insecure-policy", "--quiet", "--digestfile"]);
        push.arg(&digest_file);
        if self.tls == Tls::None {
            push.arg("--dest-tls-verify=false");
        } else {
            push.arg("--dest-cert-dir").arg(self.certificate_directory().join(&self.address));
        }
        if let Some((name, password)) = self.user {
            push.arg(format!("--dest-creds={name}:{password}"));
        }
        push.arg(format!("oci:{layout}")).arg(format!("docker://{}/{name}", self.address));
        done(&mut push);
        std::fs::read_to_string(digest_file).unwrap().trim().to_owned()
    }
}

impl Drop for RegistryServer {
    fn drop(&mut self) {
        // It may have died by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes an OCI layout with an image of one layer, which has the content of a directory; `DIR:NAME` for skopeo.
#[must_use]
pub fn layout(directory: &Path, name: &str, content: &Path) -> String {
    let image = format!("{}:{name}", directory.display());
    if !directory.exists() {
        done(command("umoci").arg("init").arg("--layout").arg(directory));
    }
    done(command("umoci").args(["new", "--image", &image]));
    done(command("umoci").args(["insert", "--image", &image]).arg(content).arg("/"));
    image
}

/// Where the registry listens, by its log.
fn address_in(log: &mut impl BufRead) -> String {
    let mut said = String::new();
    loop {
        let mut line = String::new();
        let length = log.by_ref().take(64 << 10).read_line(&mut line).unwrap();
        assert!(length > 0, "docker-registry ended: {said}");
        if let Some((_, rest)) = line.split_once("listening on ") {
            return rest
                .chars()
                .take_while(|letter| letter.is_ascii_digit() || ".:".contains(*letter))
                .collect();
        }
        said += &line;
    }
}

fn htpasswd(name: &str, password: &str) -> Vec<u8> {
    // Cost 4, the least: a test is not about time.
    done(command("htpasswd").args(["-Bbn", "-C", "4", name, password]))
}

/// An authority, and certificates of it for this host and for whoever asks it.
fn make_certificates(home: &Path) {
    let authority_key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = authority.self_signed(&authority_key).unwrap();
    std::fs::write(home.join("authority.crt"), certificate.pem()).unwrap();
    let issuer = Issuer::from_params(&authority, &authority_key);
    for (name, usage) in
        [("server", ExtendedKeyUsagePurpose::ServerAuth), ("client", ExtendedKeyUsagePurpose::ClientAuth)]
    {
        let mut params =
            CertificateParams::new(vec!["localhost".to_owned(), "registry.test".to_owned()]).unwrap();
        params.subject_alt_names.push(SanType::IpAddress([127, 0, 0, 1].into()));
        params.extended_key_usages.push(usage);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        std::fs::write(home.join(format!("{name}.crt")), certificate.pem()).unwrap();
        std::fs::write(home.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

/// Runs a program to its end; what it printed.
fn done(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[expect(clippy::disallowed_methods, reason = "tests are the caller's side; nothing of them is supervised")]
fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    // The proxies of the machine are not for its loopback.
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"] {
        command.env_remove(name);
    }
    command
}
