//! Containers of real runtimes behind a gate: what was shown with namespaces, once more with what will be in them.

use std::io::Write;
use std::net::{TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use cofferdam_testkit::runtimes::Choice;
use serde_json::json;

use crate::Trial;
use crate::container::{Container, RESOLVER};
use crate::dns::World;
use crate::host::{command, namespace, text};
use crate::probe::tcp;

pub(crate) const RUNC: Trial = ("a_container_of_runc_is_held", || held(&Choice::Runc));
pub(crate) const RUNSC: Trial = ("a_container_of_gvisor_is_held", || held(&Choice::RunscHead));

/// The variable that makes this binary look around, inside of a container. Its value is what is looked at.
const LOOK: &str = "COFFERDAM_EGRESS_LOOK";

/// How long a runtime's network may take to say anything.
const LIMIT: Duration = Duration::from_secs(2);

const TARGETS: [&str; 8] = [
    "93.184.216.34:80",
    "93.184.216.34:443",
    "93.184.216.35:80",
    "8.8.8.8:80",
    "169.254.169.254:80",
    "10.88.0.1:80",
    "10.88.0.3:80",
    "[2606:2800::1]:80",
];

/// Looks around where the variable says so.
pub(crate) fn looked_around() -> bool {
    let Ok(targets) = std::env::var(LOOK) else { return false };
    let mut said = std::io::stdout();
    let mut question = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    question.extend_from_slice(b"\x03api\x07example\x00\x00\x01\x00\x01");
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket.send_to(&question, RESOLVER).unwrap();
    let mut answer = [0; 512];
    let count = socket.recv(&mut answer).unwrap_or(0);
    if answer[..count].ends_with(&[93, 184, 216, 34]) {
        writeln!(said, "resolved").unwrap();
    }
    for target in targets.split(' ') {
        if TcpStream::connect_timeout(&target.parse().unwrap(), LIMIT).is_ok() {
            writeln!(said, "{target}").unwrap();
        }
    }
    let listener = std::net::TcpListener::bind("0.0.0.0:80").unwrap();
    writeln!(said, "listening").unwrap();
    crate::probe::echo_tcp(&listener);
    true
}

fn held(choice: &Choice) {
    let world = World::start();
    world.add("api.example", &["api.example 93.184.216.34"], 300);
    let container = Container::silent("allow:api.example:80,93.184.216.35:80");
    let _served = container.serve();
    let bundle = Path::new("/run/bundle");
    std::fs::create_dir_all(bundle.join("rootfs")).unwrap();
    std::fs::write(bundle.join("config.json"), specification(&container.inner).to_string()).unwrap();
    let binary = choice.binary().unwrap();
    let mut words = vec!["--root", "/run/runtime"];
    if choice.is_gvisor() {
        words.extend(["--network=sandbox", "--ignore-cgroups"]);
    }
    words.extend(["run", "--bundle", "/run/bundle", "held"]);
    let mut run = command(binary.to_str().unwrap(), &words);
    let mut child =
        run.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let seen: Vec<String> =
        lines.by_ref().map_while(Result::ok).take_while(|line| line != "listening").collect();
    if seen.is_empty() {
        panic!("{}", text(&child.wait_with_output().unwrap().stderr));
    }
    assert_eq!(seen, ["resolved", "93.184.216.34:80", "93.184.216.35:80"]);
    assert!(tcp(&namespace("internet"), "45.0.0.1:8080"), "a published port");
    container.change("none").unwrap();
    assert!(tcp(&namespace("internet"), "45.0.0.1:8080"));
    let kill = ["--root", "/run/runtime", "delete", "--force", "held"];
    assert!(command(binary.to_str().unwrap(), &kill).status().unwrap().success());
    child.wait().unwrap();
}

fn specification(network: &Path) -> serde_json::Value {
    let own = std::env::current_exe().unwrap();
    let capabilities = ["CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_NET_BIND_SERVICE"];
    let mut mounts = vec![json!({ "destination": "/proc", "type": "proc", "source": "proc" })];
    for directory in ["/usr", "/lib", "/lib64", "/bin"] {
        let options = ["rbind", "ro"];
        mounts.push(
            json!({ "destination": directory, "type": "bind", "source": directory, "options": options }),
        );
    }
    mounts.push(json!({ "destination": "/look", "type": "bind", "source": own, "options": ["bind", "ro"] }));
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": { "uid": 0, "gid": 0 },
            "args": ["/look"],
            "env": [format!("{LOOK}={}", TARGETS.join(" "))],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
            },
        },
        "root": { "path": "rootfs" },
        "hostname": "held",
        "mounts": mounts,
        "linux": { "cgroupsPath": "/cofferdam-egress-test", "namespaces": [
            { "type": "pid" }, { "type": "mount" }, { "type": "ipc" }, { "type": "uts" },
            { "type": "network", "path": network },
        ] },
    })
}
