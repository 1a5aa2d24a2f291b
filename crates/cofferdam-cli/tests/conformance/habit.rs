//! What people type by habit, as one line: a terminal, an image of a registry, a port, a path of the host, a bridge.

use std::fs::File;
use std::io::Write;
use std::process::Stdio;

use cofferdam_testkit::image::{Layout, layers};
use cofferdam_testkit::lab::{Lab, Running, eventually, finish};
use cofferdam_testkit::needs::Need;
use cofferdam_testkit::private_host::PrivateHost;
use cofferdam_testkit::runtimes::Choice;
use serde_json::json;

use crate::{Case, case};

pub(crate) const CASES: &[Case] = &[case("habit::the_line_that_people_type", the_line)
    .only(is_one_of_each)
    .needs(&[Need::CniPlugins, Need::IpCommand, Need::Unshare, Need::DockerRegistry, Need::ScriptCommand])];

fn is_one_of_each(choice: &Choice) -> bool {
    matches!(choice, Choice::Runc | Choice::RunscHead) && choice.joins_namespaces()
}

/// Starts a registry on a host, under the name registry.local, at docker's own port.
fn serve_registry(lab: &Lab, host: &PrivateHost) -> Running {
    let (hosts, config) = (lab.path().join("hosts"), lab.path().join("registry.yml"));
    std::fs::write(&hosts, "127.0.0.1 localhost registry.local\n").unwrap();
    let data = lab.path().join("registry");
    let text = format!(
        "version: 0.1\nstorage: {{filesystem: {{rootdirectory: '{}'}}}}\nhttp: {{addr: '127.0.0.1:5000'}}\n",
        data.display()
    );
    std::fs::write(&config, text).unwrap();
    drop(host.shell(&format!("mount --bind {} /etc/hosts", hosts.display())).expect_code(0));
    let mut server = host.command("docker-registry");
    server.arg("serve").arg(config).env("OTEL_TRACES_EXPORTER", "none");
    server.stdout(Stdio::null()).stderr(File::create(lab.path().join("registry.log")).unwrap());
    Running::start(server)
}

fn push(lab: &Lab, host: &PrivateHost, name: &str) {
    let config = json!({ "Env": ["PATH=/bin"], "Cmd": ["true"] });
    let layout = Layout::new(&lab.path().join("oci")).add("app", &layers(), &config);
    let copy = format!(
        "skopeo copy --insecure-policy --quiet --dest-tls-verify=false oci:{layout} docker://{name} 2>&1"
    );
    eventually("the registry answers", || host.shell(&copy).code == Some(0));
}

fn the_line(lab: &Lab) {
    let host = lab.move_to_private_host();
    let mut registry = serve_registry(lab, host);
    push(lab, host, "registry.local:5000/app:1");
    let (work, name) = (lab.path().join("w"), "registry.local:5000/app:1");
    std::fs::create_dir(&work).unwrap();
    let here = format!("{}:/work", work.display());
    let options = ["--rm", "-it", "-p", "8080:80", "-v", &here, "--network", "bridge"];
    let insecure = ["--insecure-registry", "registry.local:5000"];
    let line = lab.image_args("run", &[&options[..], &insecure].concat(), &[name, "sh"]);
    let line = lab.command(line);
    let words: Vec<String> = std::iter::once(line.get_program())
        .chain(line.get_args())
        .map(|word| format!("'{}'", word.to_string_lossy()))
        .collect();
    // A terminal.
    let mut script = host.command("script");
    script.args(["-q", "-e", "-c", &words.join(" "), "/dev/null"]);
    for (key, value) in line.get_envs() {
        match value {
            Some(value) => script.env(key, value),
            None => script.env_remove(key),
        };
    }
    script.stdin(Stdio::piped());
    let mut shell = Running::start(script);
    let mut keys = shell.child.stdin.take().unwrap();
    writeln!(keys, "test -t 0 && echo of the container > /work/index.html; busybox httpd -p 80 -h /work")
        .unwrap();
    eventually("it is reached from the host", || {
        let done = host.shell("timeout 3 busybox wget -q -O - http://127.0.0.1:8080/index.html || true");
        done.text() == "of the container"
    });
    assert_eq!(std::fs::read_to_string(work.join("index.html")).unwrap(), "of the container\n");
    writeln!(keys, "exit 7").unwrap();
    drop(shell.finish().expect_code(7));
    registry.child.kill().unwrap();
    drop(registry.finish());
    // Without its registry, and as quickly, the second time.
    let again =
        finish(lab.command(lab.image_args("run", &["--rm", "-p", "8080:80"], &[name, "cat", "/data/kept"])));
    assert_eq!(again.expect_code(0).text(), "of the lower layer");
    drop(host.shell("umount /etc/hosts").expect_code(0));
    lab.expect_clean();
}
