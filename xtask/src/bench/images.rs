//! Images: fetching a large one, and what a container of one that is here costs more than one of a directory.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use cofferdam_testkit::fixture;
use cofferdam_testkit::image::{File, Layout, layer, layers};
use cofferdam_testkit::lab::new_command;
use cofferdam_testkit::registry::{RegistryServer, Tls};
use serde_json::json;

use super::contenders::succeed;
use super::ratio::{compare, median, ms};
use super::{Bench, Row};

/// The large image: 20 layers of 800 files, each of half of it text and half of it noise; 1 GB.
const LAYERS: usize = 20;
const FILES: usize = 800;
const FILE_BYTES: usize = 66_000;
/// How often it is fetched by each.
const ROUNDS: usize = 3;

/// Fetching and unpacking, against skopeo with umoci, and podman, from a registry on the loopback.
pub(super) fn fetched(bench: &Bench) -> Result<Vec<Row>> {
    // The images of a machine are on a disk.
    let home = tempfile::Builder::new().prefix("cfb").tempdir_in("/var/tmp")?;
    let registry = RegistryServer::start(None, Tls::None);
    registry.push(&large(&home.path().join("large")), "large:1");
    std::fs::remove_dir_all(home.path().join("large"))?;
    let image = format!("{}/large:1", registry.host());
    let mut seen: [Vec<Cost>; 3] = Default::default();
    for _ in 0..ROUNDS {
        let costs = [
            pull(bench, home.path(), &image)?,
            skopeo_and_umoci(home.path(), &image)?,
            podman(home.path(), &image)?,
        ];
        seen.iter_mut().zip(costs).for_each(|(seen, cost)| seen.push(cost));
    }
    let [ours, skopeo, podman] = seen.map(Cost::median);
    let row = |name: &str, theirs: Cost| Row {
        what: format!("pull of 1 GB in {LAYERS} layers, unpacked"),
        ours: ours.said(),
        theirs: format!("{name}: {}", theirs.said()),
        ratio: Some(ours.time.as_secs_f64() / theirs.time.as_secs_f64()),
    };
    Ok(vec![row("skopeo copy, umoci unpack", skopeo), row("podman pull", podman)])
}

/// A container of an image that is here, against one of a directory.
pub(super) fn second_run(bench: &Bench) -> Result<Row> {
    let home = tempfile::Builder::new().prefix("cfb").tempdir_in("/var/tmp")?;
    let config = json!({ "Env": ["PATH=/bin"], "Cmd": ["true"] });
    let layout = Layout::new(&home.path().join("small")).add("small", &layers(), &config);
    let ours = || {
        let mut command = bench.cofferdam();
        command.arg("--data-dir").arg(home.path().join("data"));
        command
    };
    let mut load = ours();
    load.args(["pull", "--quiet", &format!("oci:{layout}")]);
    let id = cofferdam_testkit::lab::finish(load).expect_code(0).text();
    let mut tag = ours();
    succeed({
        tag.args(["tag", &id, "small:1"]);
        tag
    })?;
    let run = |what: &[&str]| {
        let mut command = ours();
        command.args(["run", "--rm", "--network", "none"]).args(what);
        succeed(command)
    };
    // On the same disk.
    let rootfs = fixture::rootfs(home.path()).display().to_string();
    let pair =
        compare(bench.runs, || run(&["small:1", "true"]), || run(&["--rootfs", &rootfs, "/bin/true"]))?;
    Ok(Row {
        what: "run of `true` in an image that is here".into(),
        ours: ms(pair.ours),
        theirs: format!("in a directory: {}", ms(pair.theirs)),
        ratio: Some(pair.ratio()),
    })
}

/// Makes the large image; `DIR:TAG`.
fn large(directory: &Path) -> String {
    let mut noise = Noise(1);
    let content: Vec<Vec<u8>> = (0..LAYERS)
        .map(|at| {
            let paths: Vec<String> = (0..FILES).map(|file| format!("d{at}/s{}/f{file}", file % 20)).collect();
            let texts: Vec<String> = (0..FILES).map(|_| noise.text(FILE_BYTES)).collect();
            let files: Vec<File<'_>> =
                paths.iter().zip(&texts).map(|(path, text)| File::new(path, text)).collect();
            layer(&files)
        })
        .collect();
    Layout::new(directory).add("large", &content, &json!({ "Cmd": ["/bin/true"] }))
}

/// Xorshift: content that cannot be guessed, the same each time.
struct Noise(u64);

impl Noise {
    fn text(&mut self, bytes: usize) -> String {
        let mut text = String::with_capacity(bytes);
        while text.len() < bytes {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            text += &format!("{:016x} of what is said in words\n", self.0);
        }
        text
    }
}

/// What something has taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Cost {
    time: Duration,
    /// Of its largest process, at its peak.
    memory_kib: u64,
}

impl Cost {
    fn median(costs: Vec<Self>) -> Self {
        Self {
            time: median(costs.iter().map(|cost| cost.time).collect()),
            memory_kib: median(costs.iter().map(|cost| cost.memory_kib).collect()),
        }
    }

    fn said(self) -> String {
        format!("{:.1} s, {} MiB", self.time.as_secs_f64(), self.memory_kib >> 10)
    }

    /// Runs a command to its end, and measures it with GNU time.
    fn of(command: &Command, scratch: &Path) -> Result<Self> {
        let told = scratch.join("memory");
        let mut timed = new_command("time");
        timed
            .args(["--format", "%M", "--output"])
            .arg(&told)
            .arg(command.get_program())
            .args(command.get_args());
        let began = Instant::now();
        succeed(timed)?;
        let time = began.elapsed();
        let memory_kib = std::fs::read_to_string(told)?.trim().parse().context("time prints a number")?;
        Ok(Self { time, memory_kib })
    }
}

fn pull(bench: &Bench, home: &Path, image: &str) -> Result<Cost> {
    let data = fresh(home, "data")?;
    let mut command = bench.cofferdam();
    command.arg("--data-dir").arg(&data).args(["pull", "--quiet", image]);
    Cost::of(&command, home)
}

fn skopeo_and_umoci(home: &Path, image: &str) -> Result<Cost> {
    let (layout, bundle) = (fresh(home, "layout")?, fresh(home, "bundle")?);
    let place = format!("{}:large", layout.display());
    let mut copy = new_command("skopeo");
    copy.args(["copy", "--insecure-policy", "--quiet", "--src-tls-verify=false"]);
    copy.arg(format!("docker://{image}")).arg(format!("oci:{place}"));
    let mut unpack = new_command("umoci");
    unpack.args(["unpack", "--image", &place]).arg(&bundle);
    let (copied, unpacked) = (Cost::of(&copy, home)?, Cost::of(&unpack, home)?);
    std::fs::remove_dir_all(&bundle)?;
    Ok(Cost { time: copied.time + unpacked.time, memory_kib: copied.memory_kib.max(unpacked.memory_kib) })
}

fn podman(home: &Path, image: &str) -> Result<Cost> {
    let podman = || {
        let mut command = new_command("podman");
        command.arg("--root").arg(home.join("podman")).arg("--runroot").arg(home.join("podman-run"));
        command.args(["--storage-driver", "overlay"]);
        command
    };
    let mut pull = podman();
    pull.args(["pull", "--quiet", "--tls-verify=false", image]);
    let cost = Cost::of(&pull, home)?;
    let mut remove = podman();
    remove.args(["rmi", "--all", "--force"]);
    succeed(remove)?;
    Ok(cost)
}

/// A path below `home` at which nothing is.
fn fresh(home: &Path, name: &str) -> Result<PathBuf> {
    let path = home.join(name);
    if path.exists() {
        std::fs::remove_dir_all(&path)?;
    }
    Ok(path)
}
